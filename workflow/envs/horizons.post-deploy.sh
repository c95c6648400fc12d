#!/usr/bin/env bash
# The same pins as without conda; run from the root of the repository.
set -euo pipefail
python -m pip install -r requirements.txt
