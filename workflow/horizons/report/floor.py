"""What was measured of the noise of runs, as the summary and the figures take it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from horizons.errors import UserError, first_line

FLOORS = ("kl", "js", "margin")  # numbers of which it was measured how far an entry is from itself


def read_floor(noise_file: Path) -> dict[int, dict[str, float]]:
    """By horizon the columns of a table of noise, such as `kl_mean`, the mean KL of an entry from itself.

    Raises UserError where it can't be read.
    """
    try:
        table = pd.read_csv(noise_file).set_index("horizon")
        wanted = [f"{number}_{part}" for number in FLOORS for part in ("mean", "max")]
        return {int(horizon): row for horizon, row in table[wanted].astype(float).to_dict("index").items()}
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{noise_file}: can't be read as a table of noise: {first_line(error)}; remove it") from error


def floors_of(noise_files: Iterable[Path], point_of: Mapping[str, str]) -> pd.DataFrame | None:
    """The mean floors of runs as the figures take them: `point`, `horizon`, `number`, `floor`; None without any.

    `point_of` says as which point each run is drawn.
    """
    rows = [
        (point_of[path.name.split(".")[0]], horizon, number, row[f"{number}_mean"])
        for path in noise_files
        for horizon, row in read_floor(path).items()
        for number in FLOORS
    ]
    return pd.DataFrame(rows, columns=["point", "horizon", "number", "floor"]) if rows else None
