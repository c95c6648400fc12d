"""What results say they were made with, against what an experiment says. No torch."""

import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

from horizons.config import LATER_SECTIONS, Experiment, Run, expand_runs, load_experiment
from horizons.errors import UserError
from horizons.strict_json import shorten

HEAD = 1 << 16  # bytes; the config stands at the start of a results file


def difference(results_file: Path, run: Run) -> str | None:
    """The first key in which the recorded config of a results file is not that of `run`, with both values.

    None where they are the same, keys that an older file lacks taken at their defaults; and where the file records no
    config, as one from elsewhere, or is no results file at all, which its validation says.
    """
    recorded = recorded_config(results_file)
    if recorded is None:
        return None
    try:
        found = Experiment.model_validate(recorded["config"]).model_dump(exclude=LATER_SECTIONS)
    except ValueError:
        found = recorded["config"]
    wanted = run.to_dict()["config"] | {"shard": run.shard}
    return _first_difference(found | {"shard": recorded["shard"]}, wanted)


def require_recorded(results_files: list[Path], runs: list[Run], source: str) -> None:
    """Raise UserError, naming the file and the key, for the first results file that another config made."""
    for results_file, run in zip(results_files, runs, strict=True):
        if found := difference(results_file, run):
            raise UserError(
                f"{results_file}: was made with another config than {source}: {found}; remove it and run again"
            )


def same_runs(experiment: Experiment, recorded: Path) -> bool:
    """Whether the `experiment.yaml` beside a summary has the runs of `experiment`."""
    try:
        return expand_runs(load_experiment(recorded)) == expand_runs(experiment)
    except UserError:
        return False


def recorded_config(results_file: Path) -> dict[str, Any] | None:
    """The `config` and `shard` of a results file, of which no more is read than holds them; None where it has none."""
    try:
        with gzip.open(results_file, "rt", encoding="utf-8") as file:
            head = file.read(HEAD)
            found = _leading_values(head, ("config", "point", "shard"))
            content = found or json.loads(head + file.read())
    except (OSError, EOFError, ValueError, RecursionError, zlib.error):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        return None
    return {"config": content["config"], "shard": content.get("shard", 0)}


def _leading_values(text: str, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """The values of the first keys of a JSON object, whose text may break off after them; None if it has others."""
    values, position = {}, 0
    for number, key in enumerate(keys):
        start = re.compile(rf'\s*{"," if number else "{"}\s*"{key}"\s*:\s*').match(text, position)
        if start is None:
            return None
        try:
            values[key], position = json.JSONDecoder().raw_decode(text, start.end())
        except ValueError:
            return None
    return values


def _first_difference(found: object, wanted: object, dotted: str = "") -> str | None:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in [*wanted, *(key for key in found if key not in wanted)]:
            name = f"{dotted}.{key}" if dotted else key
            if line := _first_difference(found.get(key), wanted.get(key), name):
                return line
        return None
    return None if found == wanted else f"{dotted} {shorten(found)}, and not {shorten(wanted)}"
