#!/usr/bin/env bash
# bash scripts/test_lowest.sh [pytest arguments]: the unit tests with the lowest versions that pyproject.toml allows, in
# .venv-lowest. To be run when a bound is changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python3 -m venv .venv-lowest
source .venv-lowest/bin/activate
python - >.venv-lowest/lowest.txt <<'PYTHON'
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
extras = project["optional-dependencies"]
for requirement in project["dependencies"] + extras["workflow"] + extras["datasets"]:
    print(requirement.replace(">=", "=="))
PYTHON
pip install --quiet --disable-pip-version-check -c .venv-lowest/lowest.txt -e '.[test]'
python -m pytest tests/unit "$@"
