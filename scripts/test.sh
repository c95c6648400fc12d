#!/usr/bin/env bash
# bash scripts/test.sh [pytest arguments]: set-up on first use, then all tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
python -m pytest "$@"
