"""Make one system call of a stage fail, and look how the stage ends and what it leaves.

python scripts/faults/io_errors.py [--count 600] [--seed 0]

Calls on files of the results are made to fail through `io_shim.c`, which is compiled with `cc` and preloaded: the n-th
of its kind, over all stages. A stage must end in one line, leave no half a file under its own name, and when it is run
again give the same bytes; a call that merely did less than it was asked must change nothing at all. Prints a table of
counts and ends with status 1 where one did otherwise.
"""

import argparse
import ctypes
import errno
import os
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SHIM = Path(__file__).with_name("io_shim.c")
KINDS = ("open", "read", "write", "fsync", "truncate", "rename")  # in the order of the shim
SHORT = 0  # instead of an error number: the call does less
ERRORS = {
    "open": (errno.EACCES, errno.EIO, errno.EMFILE),
    "read": (errno.EIO,),
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT, SHORT),
    "fsync": (errno.EIO, errno.ENOSPC),
    "truncate": (errno.ENOSPC, errno.EIO),
    "rename": (errno.EIO, errno.ENOSPC),
}
GOOD = ("one line", "no effect")
BAD = ("traceback", "more than a line", "no file named", "half a file", "wrong", "not repaired")
VERDICTS = (*GOOD, *BAD)


def in_child(function: Callable[[], object]) -> object:
    """What a function gives in a forked process, whose files and memory its faults can't outlive; None if it dies."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            pickle.dump(function(), pipe)
            pipe.flush()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(content) if content else None


def disturb(count: int, seed: int, folder: Path) -> dict[str, Counter]:
    """The verdicts on `count` faults by stage and kind of call."""
    import stages

    shim, random_ = ctypes.CDLL(None), random.Random(seed)
    stages.begin(folder / "work")
    stages.load()
    results = Path("results") / stages.NAME
    under = os.fsencode(results.resolve())
    before = {}  # what is there when a stage begins, and how many calls of each kind it makes
    found: dict[str, Counter] = {}

    def run(stage: str, kind: int, number: int, error: int) -> stages.Outcome:
        shim.fault_set(under, kind, number, error)
        return stages.run_stage(stage)

    def count_calls(stage: str) -> list[int]:
        run(stage, 0, -1, 0)
        return [shim.fault_seen(each) for each in range(len(KINDS))]

    for stage in stages.STAGES:
        before[stage] = shutil.copytree(results, folder / f"before-{stage}")
        calls = in_child(lambda stage=stage: count_calls(stage))
        before[stage, "calls"] = dict(zip(KINDS, calls, strict=True))
        for each in stages.RUNS[1:] if stage in ("generate", "validate", "divergence") else ():
            in_child(lambda stage=stage, each=each: stages.run_stage(stage, each))
    finished = stages.contents(results)

    for _ in range(count):
        stage = random_.choice(stages.STAGES)
        kind = random_.choice([kind for kind in KINDS if before[stage, "calls"][kind]])
        number, error = random_.randrange(before[stage, "calls"][kind]), random_.choice(ERRORS[kind])
        shutil.rmtree(results)
        shutil.copytree(before[stage], results)
        answer = in_child(lambda: run(stage, KINDS.index(kind), number, error))  # noqa: B023
        made = {str(path.relative_to(results)) for path in stages.outputs(stage)}
        verdict = judge(answer, error, stages.contents(results), finished, made)
        if verdict in GOOD and answer.status:
            again = in_child(lambda: stages.run_stage(stage))  # noqa: B023
            now = stages.contents(results)
            if again is None or again.status or any(now.get(name) != finished[name] for name in made):
                verdict = "not repaired"
        found.setdefault(f"{stage}, {kind}", Counter())[verdict] += 1
        if verdict not in GOOD:
            said = answer.errors if answer else "died"
            print(f"{stage}: {kind} {number} fails with {errno.errorcode.get(error, 'short')}: {verdict}: {said}")
    return found


def judge(answer, error: int, now: dict[str, bytes], finished: dict[str, bytes], made: set[str]) -> str:  # noqa: ANN001
    """The verdict on one fault, by how the stage ended and what it left."""
    if answer is None or answer.is_traceback:
        return "traceback"
    whole = all(now[name] == finished[name] for name in made if name in now)
    if answer.status == 0:
        return "no effect" if whole and made <= now.keys() else "wrong"
    if error == SHORT:
        return "wrong"
    if not whole:
        return "half a file"
    lines = [line for line in answer.errors.splitlines() if line.strip()]
    if len(lines) != 1:
        return "more than a line"
    return "one line" if "results/" in lines[0] else "no file named"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if "LD_PRELOAD" not in os.environ:  # once more, with the shim
            shim = Path(folder) / "shim.so"
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", shim, SHIM, "-ldl"], check=True)
            environment = os.environ | {"LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"}
            sys.exit(subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode)
        found = disturb(arguments.count, arguments.seed, Path(folder))
    print(f"| stage, call | tried | {' | '.join(VERDICTS)} |\n| --- | {'--- | ' * (1 + len(VERDICTS))}")
    for name, verdicts in sorted(found.items()):
        print(f"| {name} | {verdicts.total()} | {' | '.join(str(verdicts[verdict]) for verdict in VERDICTS)} |")
    sys.exit(any(verdicts[bad] for verdicts in found.values() for bad in BAD))


if __name__ == "__main__":
    main()
