#!/usr/bin/env bash
# bash scripts/test_lowest.sh [pytest arguments]: the unit tests with the lowest versions that pyproject.toml allows,
# which lie over those of .venv. To be run when a bound is changed. torch alone is as it is: its lowest is the pinned one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup.sh
install_pins requirements-dev.txt
folder=.venv/lowest
rm -rf "$folder"
lowest=$(python -c '
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for requirement in project["dependencies"] + project["optional-dependencies"]["datasets"]:
    print(requirement.replace(">=", "=="))
')
apart="^(pydantic|huggingface_hub)=="  # which need others of their own time
grep -E "$apart" <<<"$lowest" | xargs pip install --quiet --target "$folder"
grep -Ev "$apart|^torch==" <<<"$lowest" | xargs pip install --quiet --no-deps --upgrade --target "$folder"
PYTHONPATH="$folder" python -m pytest tests/unit "$@"
