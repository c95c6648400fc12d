"""Whether the triple of a run is sound: everything that is wrong with it, in plain words. No torch, no model.

`results` says what the results file promises, `metadata` and `logits` whether the other two files keep it. What of a
triple is repeated in several places is compared; what follows from the schedule of entries is computed anew; the rest
is guarded by the checksums that the results file holds, its own included.
"""

from pathlib import Path
from typing import Any

from horizons.errors import UserError
from horizons.store.custody import check_file, read_sealed, require_size, write_sealed
from horizons.store.files import fingerprint, run_number, run_paths, sibling
from horizons.validation.logits import check_logits
from horizons.validation.metadata import check_metadata
from horizons.validation.results import Promise, check_results

MAX_LINES = 50

# What a reader could take for a file of the triple. Tables, figures and notes beside it are nobody's concern, and a
# hidden temporary file of a killed job is no reader's: the job is done again and takes its place.
TRIPLE_SUFFIXES = (".json", ".gz", ".safetensors", ".pt")


def report_on(results_file: Path, report: Path) -> None:
    """Validate a triple and write `report`, which exists only for a sound one, and says which files were looked at.

    Of any other the report is kept in `{run}.validation.failed.json`, and UserError raised with the problems, from
    MAX_LINES on only their number.
    """
    promise, problems = _validate(results_file)
    failed = report.with_name(f"{run_number(results_file)}.validation.failed.json")
    content = {"results_file": results_file.name, "sound": not problems, "problems": problems}
    if promise is not None and not problems:
        content["files"] = _checked_files(results_file, promise)
    write_sealed(failed if problems else report, content)
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
    return _validate(Path(results_file))[1]


def require_validated(results_file: Path, report: Path) -> dict[Path, dict[str, Any]]:
    """The fingerprints of a triple by path, as the `report` of its validation has them.

    Raises UserError where results or metadata are not those that were found sound, or the logits have another size.
    """
    files = read_sealed(report).get("files", {})
    remedy = f"remove {report.name} and run again, so that the triple is validated as it is now"
    logits_file, metadata_file = run_paths(results_file)
    for path in (results_file, metadata_file):
        check_file(path, files.get(path.name), report, remedy)
    require_size(logits_file, files.get(logits_file.name), report, remedy)
    return {path: files[path.name] for path in (results_file, logits_file, metadata_file)}


def _checked_files(results_file: Path, promise: Promise) -> dict[str, dict[str, Any]]:
    """The fingerprints of a triple that was found sound; that of the logits is the checksum they were written with."""
    logits_file, metadata_file = run_paths(results_file)
    return {
        results_file.name: fingerprint(results_file),
        metadata_file.name: fingerprint(metadata_file),
        logits_file.name: {"checksum": promise.logits_checksum, "size": logits_file.stat().st_size},
    }


def _validate(results_file: Path) -> tuple[Promise | None, list[str]]:
    """What the results of a run promise, and every problem of its triple."""
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
    return promise, problems


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
    others = (".validation.json", ".validation.failed.json", ".candidates.json.gz", ".divergence.json", ".noise.json")
    ours = {path.name for path in triple} | {run + suffix for suffix in others}
    if results_file.parent.is_dir():
        for path in sorted(results_file.parent.iterdir()):
            if path.name.startswith(f"{run}.") and path.name.endswith(TRIPLE_SUFFIXES) and path.name not in ours:
                problems.append(f"{path}: is no file of run {run}, but could be taken for one; remove it")
    return problems
