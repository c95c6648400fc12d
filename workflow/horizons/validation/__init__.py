"""Whether the triple of a run is sound: everything that is wrong with it, in plain words. No torch, no model.

`results` says what the results file promises, `metadata` and `logits` whether the other two files keep it. What of a
triple is repeated in several places is compared; what follows from the schedule of entries is computed anew; the rest
is guarded by the checksums that the results file holds, its own included.
"""

import json
from pathlib import Path

from horizons.errors import UserError
from horizons.store.files import replacing, run_number, run_paths, sibling
from horizons.validation.logits import check_logits
from horizons.validation.metadata import check_metadata
from horizons.validation.results import check_results

MAX_LINES = 50

# What a reader could take for a file of the triple. Tables, figures and notes beside it are nobody's concern, and a
# hidden temporary file of a killed job is no reader's: the job is done again and takes its place.
TRIPLE_SUFFIXES = (".json", ".gz", ".safetensors", ".pt")


def report_on(results_file: Path, report: Path) -> None:
    """Validate a triple and write `report`, which exists only for a sound one.

    Of any other the report is kept in `{run}.validation.failed.json`, and UserError raised with the problems, from
    MAX_LINES on only their number.
    """
    problems = validate_triple(results_file)
    failed = report.with_name(f"{run_number(results_file)}.validation.failed.json")
    content = {"results_file": results_file.name, "sound": not problems, "problems": problems}
    with replacing(failed if problems else report) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (report if problems else failed).unlink(missing_ok=True)
    if problems:
        shown = problems[:MAX_LINES]
        if len(problems) > MAX_LINES:
            shown.append(f"{results_file}: {len(problems) - MAX_LINES} more problems; see {failed}")
        raise UserError("\n".join(shown))


def validate_triple(results_file: str | Path) -> list[str]:
    """Every problem of the triple of a run, each with file, key or sample, what was found and what was expected.

    Empty where it is sound: the three files are there, parse, agree with each other and with the schedule of entries,
    hold finite logits (or -inf), and have the bytes they were written with.
    """
    results_file = Path(results_file)
    logits_file, metadata_file = run_paths(results_file)
    problems = _folder_problems(results_file)
    present = {path for path in (results_file, logits_file, metadata_file) if path.is_file()}
    promise = None
    if results_file in present:
        promise, found = check_results(results_file)
        problems += [f"{results_file}: {problem}" for problem in found]
    for path, check in ((metadata_file, check_metadata), (logits_file, check_logits)):
        if path in present:
            problems += _problems_of(path, check, promise)
    return problems


def _problems_of(path: Path, check, promise) -> list[str]:  # noqa: ANN001
    try:
        return [f"{path}: {problem}" for problem in check(path, promise)]
    except OSError as error:
        return [f"{path}: can't be read: {error.strerror}"]


def _folder_problems(results_file: Path) -> list[str]:
    """Missing files, links out of the folder, and files that could be taken for one of the triple."""
    run = run_number(results_file)
    triple = (results_file, *run_paths(results_file))
    problems = []
    for path in triple:
        if not path.is_file():
            problems.append(f"{path}: is {'not an ordinary file' if path.exists() else 'missing'}")
    for path in triple[1:]:
        try:
            sibling(results_file, path.name)
        except UserError as error:
            problems.append(str(error))
    others = (".validation.json", ".validation.failed.json", ".candidates.json.gz")
    ours = {path.name for path in triple} | {run + suffix for suffix in others}
    if results_file.parent.is_dir():
        for path in sorted(results_file.parent.iterdir()):
            if path.name.startswith(f"{run}.") and path.name.endswith(TRIPLE_SUFFIXES) and path.name not in ours:
                problems.append(f"{path}: is no file of run {run}, but could be taken for one; remove it")
    return problems
