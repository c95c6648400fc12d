"""Cut the power under a small experiment at any moment, run it again, and compare all bytes. Needs root.

python scripts/faults/power_cuts.py [--count 20] [--seed 0]

The experiment, Snakemake's own folder included, is on an ext4 on a loop device, whose image is copied while it is at
work: the copy has what had reached the device, as after a power cut. The file system of the copy replays its own
journal when it is mounted, and the same command must end with status 0 and give the bytes of an undisturbed experiment.
Prints a table of counts and ends with status 1 where one did otherwise.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from workflows import Workflow, contents, copy_repository, run_snakemake

TARGET = "results/small/summary.csv"
IMAGE_BYTES = 2**28
VERDICTS = ("same bytes", "other bytes", "failed")


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """The file system in an image."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-o", "loop", image, folder], check=True)
    try:
        yield folder
    finally:
        for _ in range(100):  # killed processes take a moment to let go of it
            if subprocess.run(["umount", folder], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)


def cut(image: Path, after: float, folder: Path) -> Path:
    """The image as it is so many seconds after the workflow was started on it."""
    left = folder / "left.img"
    with mounted(image, folder / "disk") as disk, Workflow(disk / "repository", TARGET) as workflow:
        workflow.wait(after)
        subprocess.run(["cp", "--sparse=always", image, left], check=True)
    return left


def judge(left: Path, folder: Path, expected: dict[str, bytes]) -> tuple[str, int]:
    """Run the workflow again on what a power cut left: the verdict, and how many files of results there were."""
    with mounted(left, folder / "disk") as disk:
        repository = disk / "repository"
        there = len(list((repository / "results/small").glob("*")))
        run = run_snakemake(repository, "--nolock", TARGET)
        if run.returncode != 0:
            print(run.stderr[-3000:], file=sys.stderr)
            return "failed", there
        now = contents(repository / "results/small")
        return "same bytes" if now == expected else "other bytes", there


def cut_often(count: int, seed: int, folder: Path) -> Counter:
    """The verdicts on `count` power cuts."""
    random_ = random.Random(seed)
    image, fresh = folder / "disk.img", folder / "fresh.img"
    with fresh.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", fresh], check=True)
    with mounted(fresh, folder / "disk") as disk:
        copy_repository(disk / "repository")
    shutil.copy(fresh, image)
    start = time.monotonic()
    with mounted(image, folder / "disk") as disk:
        undisturbed = run_snakemake(disk / "repository", TARGET)
        if undisturbed.returncode:
            sys.exit(undisturbed.stderr)
        expected = contents(disk / "repository/results/small")
    duration = time.monotonic() - start
    verdicts: Counter = Counter()
    for number in range(count):
        shutil.copy(fresh, image)
        after = random_.uniform(0.1, 1.05) * duration
        verdict, there = judge(cut(image, after, folder), folder, expected)
        verdicts[verdict] += 1
        line = f"{number + 1}: after {after:.1f} of {duration:.1f} s, {there} results: {verdict}"
        print(line, file=sys.stderr, flush=True)
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        verdicts = cut_often(arguments.count, arguments.seed, Path(folder))
    print(f"| cuts | {' | '.join(VERDICTS)} |\n| --- | {'--- | ' * len(VERDICTS)}")
    print(f"| {verdicts.total()} | {' | '.join(str(verdicts[verdict]) for verdict in VERDICTS)} |")
    sys.exit(verdicts["same bytes"] != verdicts.total())


if __name__ == "__main__":
    main()
