"""Some of the corruptions of scripts/faults: a damaged file is told, or changes nothing; the whole is run by hand."""

import subprocess
import sys

from workflows import REPOSITORY, copy_environment


def test_no_damage_of_any_file_of_an_experiment_goes_through_in_silence_or_in_a_traceback():
    command = [sys.executable, "scripts/faults/corruptions.py", "--count", "100"]
    run = subprocess.run(
        command, cwd=REPOSITORY, env=copy_environment(REPOSITORY), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    counts = [[int(cell) for cell in line.split("|")[2:-1]] for line in run.stdout.splitlines()[2:]]
    assert len(counts) == 10
    assert all(tried == told + harmless for tried, told, harmless, *_ in counts)
