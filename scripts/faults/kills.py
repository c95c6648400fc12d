"""Kill the workflow of a small experiment at any moment of any stage, run it again, and compare all bytes.

python scripts/faults/kills.py [--count 200] [--seed 0]

Half of the kills hit a stage that is done for the first time, half one that is done again (`--forcerun`) over what is
there. After a kill the same command, without --forcerun, must end with status 0 and give the bytes of an undisturbed
experiment, with nobody's help but --nolock, which stands for `snakemake --unlock`; and between the two
`scripts/show_results.py` must not show the table of files that are not there. Prints a table of counts and ends with
status 1 where one did otherwise.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from workflows import Workflow, contents, copy_environment, copy_repository, run_snakemake

STAGES = ("generate", "validate", "divergence", "plot", "explorer", "summarize")
TARGET = "results/small/summary.csv"
VERDICTS = ("same bytes", "other bytes", "failed", "nothing done", "old table shown")
# What each stage makes: removed, with all that comes after it, where it is to be done for the first time.
MADE = {
    "generate": ("0*",),
    "validate": ("*.validation.json", "*.divergence.*", "*.candidates.json.gz"),
    "divergence": ("*.divergence.*", "*.candidates.json.gz"),
    "plot": ("plots",),
    "explorer": ("explorer.html",),
    "summarize": (),
}
LAST = ("summary.*", "provenance.html", "experiment.yaml")


def set_back(repository: Path, stage: str) -> None:
    """Remove what a stage makes, and all that comes after it."""
    kinds = STAGES.index(stage)
    patterns = [*MADE[stage], *(pattern for later in STAGES[max(kinds, 3) :] for pattern in MADE[later]), *LAST]
    for path in {path for pattern in patterns for path in (repository / "results/small").glob(pattern)}:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def kill_in(repository: Path, stage: str, again: bool, random_: random.Random) -> bool:
    """Start the workflow and kill it at a random moment of a stage; whether it was still at work."""
    log = repository / "logs" / stage / ("small.log" if stage in STAGES[3:] else "small/00000.log")
    log.unlink(missing_ok=True)
    forced = ["--forcerun", stage] if again else []
    with Workflow(repository, "--nolock", TARGET, *forced) as workflow:
        started = time.monotonic()
        while not log.exists() and workflow.returncode is None and time.monotonic() < started + 300:
            time.sleep(0.002)
        # From before the stage itself, when Snakemake has removed its old files, to after its record of it.
        time.sleep(random_.choice([0, random_.uniform(0, 0.5), random_.uniform(0, 4)]))
        return workflow.returncode is None


def judge(repository: Path, expected: dict[str, bytes]) -> str:
    """Run the workflow again after a kill; the verdict on it."""
    command = [sys.executable, "scripts/show_results.py", "small"]
    environment = copy_environment(repository)
    shown = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    there = contents(repository / "results/small")
    if "KL = " in shown.stdout and not expected.keys() <= there.keys():
        return "old table shown"
    run = run_snakemake(repository, "--nolock", TARGET)
    if run.returncode != 0:
        return "failed"
    now = contents(repository / "results/small")
    if now == expected:
        return "same bytes"
    names = sorted({*now, *expected})
    print("differ:", [name for name in names if now.get(name) != expected.get(name)], file=sys.stderr)
    return "nothing done" if "Nothing to be done" in run.stderr else "other bytes"


def kill(count: int, seed: int, folder: Path) -> dict[str, Counter]:
    """The verdicts on `count` kills by stage."""
    random_ = random.Random(seed)
    repository = copy_repository(folder / "repository")
    finished = folder / "finished"
    first = run_snakemake(repository, TARGET)
    if first.returncode:
        sys.exit(first.stderr)
    shutil.copytree(repository, finished)
    expected = contents(repository / "results/small")
    found: dict[str, Counter] = {}
    for number in range(count):
        stage, again = STAGES[number % len(STAGES)], number // len(STAGES) % 2 == 1
        shutil.rmtree(repository)
        shutil.copytree(finished, repository)
        if not again:
            set_back(repository, stage)
        hit = kill_in(repository, stage, again, random_)
        verdict = judge(repository, expected)
        name = f"{stage}{', done again' if again else ''}"
        found.setdefault(name, Counter())[verdict] += 1
        print(f"{number + 1}: {name}: {'killed' if hit else 'had ended'}: {verdict}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = kill(arguments.count, arguments.seed, Path(folder))
    print(f"| killed in | kills | {' | '.join(VERDICTS)} |\n| --- | {'--- | ' * (1 + len(VERDICTS))}")
    for name, verdicts in sorted(found.items()):
        print(f"| {name} | {verdicts.total()} | {' | '.join(str(verdicts[verdict]) for verdict in VERDICTS)} |")
    sys.exit(any(verdicts[bad] for verdicts in found.values() for bad in VERDICTS[1:]))


if __name__ == "__main__":
    main()
