#!/usr/bin/env bash
# bash scripts/test.sh [pytest arguments]: set-up on first use, then all tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
install_pins requirements-dev.txt
# A file of tests at a time to each worker. One worker more than cores, since a Slurm is mostly waited for.
python -m pytest --numprocesses "$(($(nproc) + 1))" --maxprocesses 8 --dist loadfile --no-loadscope-reorder "$@"
