"""Say what is wrong with `config/config.yaml` before Snakemake reads it, which names no file."""

from pathlib import Path

from horizons.errors import UserError
from horizons.strict_yaml import read_yaml

try:
    read_yaml(Path("config/config.yaml"), "it")
except UserError as error:
    raise SystemExit(str(error)) from None
