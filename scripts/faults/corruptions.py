"""Damage one file of a small experiment at a time, and look what the next stage makes of it.

python scripts/faults/corruptions.py [--count 2000] [--seed 0]

Prints for each kind of file how often its reader refused it, or did it again, and said so in a line; how often the
damage changed nothing (the same bytes, or a bit that says nothing); and how often it went through: silently, or in a
traceback. Ends with status 1 where one did.
"""

import argparse
import gzip
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import stages

from horizons.store.journal import Journal

Damage = Callable[[Path, random.Random], None]

RESULTS = Path("results") / stages.NAME
VERDICTS = ("told", "harmless", "silent", "traceback")
JOURNAL, ROWS = RESULTS / ".00000.json.gz.progress", RESULTS / ".00000.safetensors.tmp"


class Row(NamedTuple):
    """A kind of file, who reads it next, and what that makes."""

    files: list[Path]
    share: int  # of all corruptions, in hundredths
    read: Callable[[], stages.Outcome]
    made: list[Path]  # compared with what the undisturbed experiment has; none where the output counts
    killed: bool = False  # damaged in a run that was killed after its first batch


def rows() -> dict[str, Row]:
    """The rows of the table."""
    triple = [RESULTS / f"00000.{end}" for end in ("json.gz", "safetensors", "metadata.json")]
    table, candidates, record = (
        RESULTS / f"00000.{end}" for end in ("divergence.csv", "candidates.json.gz", "divergence.json")
    )
    measured = [table, candidates]
    summarized = [RESULTS / name for name in ("summary.csv", "summary.html", "provenance.html")]
    generate, divergence = (lambda stage=stage: stages.run_stage(stage) for stage in ("generate", "divergence"))
    return {
        "temporary logits before a resume": Row([ROWS], 15, generate, triple, killed=True),
        "journal": Row([JOURNAL], 10, generate, triple, killed=True),
        "triple after its validation": Row(triple, 15, divergence, measured),
        "validation.json": Row([RESULTS / "00000.validation.json"], 10, divergence, measured),
        "divergence.csv": Row([table], 15, _later_stages, [*summarized, RESULTS / "explorer.html"]),
        "candidates": Row([candidates], 10, _later_stages, [*summarized, RESULTS / "explorer.html"]),
        "divergence.json": Row([record], 5, _later_stages, [*summarized, RESULTS / "explorer.html"]),
        "summary.csv, read by show_results.py": Row([RESULTS / "summary.csv"], 10, stages.show_results, []),
        "summary.json": Row([RESULTS / "summary.json"], 5, stages.show_results, []),
        "experiment.yaml, read again": Row([RESULTS / "experiment.yaml"], 5, stages.show_results, []),
    }


def _later_stages() -> stages.Outcome:
    """The stages that read tables; the first that does not end well, else the last."""
    for stage in ("explorer", "summarize"):
        outcome = stages.run_stage(stage)
        if outcome.status:
            break
    return outcome


class Disturbed:
    """A finished experiment, and one whose first run was killed; both are put back after each corruption."""

    def __init__(self, folder: Path) -> None:
        stages.begin(folder / "work")
        stages.run_all()
        self.finished = shutil.copytree(RESULTS, folder / "finished")
        self.killed = folder / "killed"
        self._kill()
        shutil.copytree(RESULTS, self.killed)

    def _kill(self) -> None:
        """Leave what a generate job leaves that is killed after its first batch."""
        shutil.rmtree(RESULTS)
        RESULTS.mkdir()
        add = Journal.add

        class Killed(BaseException):
            pass

        def add_and_die(journal: Journal, records: dict) -> None:
            add(journal, records)
            raise Killed

        Journal.add = add_and_die
        try:
            stages.run_stage("generate")
        except Killed:
            pass
        finally:
            Journal.add = add

    def verdict(self, row: Row, damages: Sequence[Damage], random_: random.Random) -> tuple[str, str]:
        """Damage a file of a row in one of some ways, have it read, and judge: the verdict, and what was done."""
        shutil.rmtree(RESULTS)
        shutil.copytree(self.killed if row.killed else self.finished, RESULTS)
        path = random_.choice(row.files)
        damage = random_.choice(damages)
        damage(path, random_)
        for made in row.made:
            made.unlink(missing_ok=True)
        outcome = row.read()
        done = f"{damage.__name__} of {path.name}: {outcome.errors or outcome.output}"
        if outcome.is_traceback:
            return "traceback", done
        if outcome.status:
            return ("told" if outcome.is_refusal else "silent"), done
        if not row.made:
            shown = stages.TABLE_LINE in outcome.output
            return ("told" if not shown else "harmless" if self._unchanged(path) else "silent"), done
        same = all(made.read_bytes() == (self.finished / made.name).read_bytes() for made in row.made)
        warned = bool(outcome.errors)
        return ("silent" if not same else "told" if warned else "harmless"), done

    def _unchanged(self, path: Path) -> bool:
        return path.exists() and path.read_bytes() == (self.finished / path.name).read_bytes()


def flip(path: Path, random_: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for _ in range(random_.choice([1, 1, 1, 8])):
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)
    path.write_bytes(data)


def change_digit(path: Path, random_: random.Random) -> None:
    """Change a digit of a text, in the JSON of a compressed file."""
    packed = path.suffix == ".gz"
    data = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    digits = [at for at, byte in enumerate(data) if byte in b"0123456789"]
    at = random_.choice(digits or range(len(data)))
    data[at] = random_.choice([digit for digit in b"0123456789" if digit != data[at]])
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)


def truncate(path: Path, random_: random.Random) -> None:
    data = path.read_bytes()
    lines = [at + 1 for at, byte in enumerate(data) if byte == 10]
    path.write_bytes(data[: random_.choice([0, random_.randrange(len(data)), random_.choice(lines[:-1] or [0])])])


def zero(path: Path, random_: random.Random) -> None:
    """Replace a block by zeros, as a disk does that lost it."""
    data = bytearray(path.read_bytes())
    start = random_.randrange(len(data))
    end = min(len(data), start + random_.choice([1, 512, 4096]))
    data[start:end] = bytes(end - start)
    path.write_bytes(data)


def repeat(path: Path, random_: random.Random) -> None:
    data = path.read_bytes()
    start = random_.randrange(len(data))
    end = start + random_.randrange(1, 512)
    path.write_bytes(data[:end] + data[start:end] + data[end:])


def swap(path: Path, _: random.Random) -> None:
    """Put there the file of the other run, or what could be the one of another experiment."""
    other = path.with_name(path.name.replace("00000", "00001"))
    if other != path and other.exists():
        shutil.copy(other, path)
    else:
        path.write_bytes(path.read_bytes().replace(b"7", b"8").replace(b"sort", b"copy"))


def spare(path: Path, random_: random.Random) -> None:
    """No damage at all, for comparison."""


DAMAGES = (flip, flip, change_digit, truncate, zero, repeat, swap)


def corrupt(count: int, seed: int, folder: Path, report: Callable[[str], None] = print) -> dict[str, Counter]:
    """The verdicts on `count` corruptions by row; every one that went through is reported."""
    random_ = random.Random(seed)
    disturbed = Disturbed(folder)
    found = {}
    for name, row in rows().items():
        verdicts = found[name] = Counter()
        verdict, done = disturbed.verdict(row, [spare], random_)
        if verdict != "harmless":
            raise RuntimeError(f"{name}: without damage: {verdict}: {done}")
        for _ in range(max(1, count * row.share // 100)):
            verdict, done = disturbed.verdict(row, DAMAGES, random_)
            verdicts[verdict] += 1
            if verdict in ("silent", "traceback"):
                report(f"{name}: {verdict}: {done}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = corrupt(arguments.count, arguments.seed, Path(folder))
    print(f"| damaged | tried | {' | '.join(VERDICTS)} |\n| --- | {'--- | ' * (1 + len(VERDICTS))}")
    for name, verdicts in found.items():
        print(f"| {name} | {verdicts.total()} | {' | '.join(str(verdicts[verdict]) for verdict in VERDICTS)} |")
    sys.exit(any(verdicts["silent"] + verdicts["traceback"] for verdicts in found.values()))


if __name__ == "__main__":
    main()
