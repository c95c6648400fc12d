#!/usr/bin/env bash
# The library itself, beside the pins of horizons.yaml; run from the root of the repository.
set -euo pipefail
python -m pip install --no-deps -e .
