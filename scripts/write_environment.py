"""Write workflow/envs/horizons.yaml, the conda environment of `--sdm conda`, with the pins of requirements.txt.

python scripts/write_environment.py

Its content names the environment, so that Snakemake makes another one when a pin changes.
"""

import re
from pathlib import Path

PYTHON = "3.11"
ENVIRONMENT = Path("workflow/envs/horizons.yaml")


def environment(requirements: str) -> str:
    """The YAML of the environment, by the content of requirements.txt."""
    pins = re.findall(r"^\S+==\S+$", requirements, re.MULTILINE)
    head = (
        f"# By scripts/write_environment.py.\nchannels:\n  - conda-forge\ndependencies:\n  - python={PYTHON}\n  - pip\n"
    )
    return head + "  - pip:\n" + "".join(f'      - "{pin}"\n' for pin in pins)


if __name__ == "__main__":
    ENVIRONMENT.write_text(environment(Path("requirements.txt").read_text()))
