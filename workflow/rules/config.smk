"""Say what Snakemake would say in a traceback: what is wrong with `config/config.yaml`, or with the place it works in."""

from pathlib import Path

from horizons.errors import UserError
from horizons.planning import require_workplace
from horizons.strict_yaml import read_yaml

try:
    require_workplace()
    read_yaml(Path("config/config.yaml"), "it")
except UserError as error:
    raise SystemExit(str(error)) from None
