"""Generate jobs beside each other take different GPUs, here pretended ones, and end on the CPU all the same."""

import os
import re
from datetime import datetime

from horizons.validation import validate_triple
from workflows import Workflow, contents, write_experiment


def test_jobs_at_the_same_time_take_different_devices_and_the_results_do_not_tell_which(
    repository, tmp_path, monkeypatch
):
    write_experiment(repository, "small", model__device="auto")
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    targets = [f"results/small/{run}.json.gz" for run in ("00000", "00001")]

    def run(*arguments, gpus):
        variables = {"CUDA_VISIBLE_DEVICES": gpus, "TMPDIR": str(tmp_path)}
        with Workflow(repository, *arguments, "--resources", "gpu=2", **variables) as workflow:
            finished = workflow.finish()
        assert finished.returncode == 0, finished.stderr

    run(*targets, "--cores", "2", gpus="6,7")

    logs = [(repository / f"logs/generate/small/{run}.log").read_text() for run in ("00000", "00001")]
    (first_start, first_end), (second_start, second_end) = map(times, logs)
    assert max(first_start, second_start) < min(first_end, second_end), "the jobs did not run at the same time"
    assert sorted(re.search(r"takes GPU (.*)", log)[1] for log in logs) == ["6", "7"]
    assert [validate_triple(repository / target) for target in targets] == [[], []]

    before = contents(repository / "results")
    run(targets[0], "--forcerun", "generate", gpus="8")
    assert "takes GPU 8" in (repository / "logs/generate/small/00000.log").read_text()
    assert contents(repository / "results") == before


def times(log):
    """When a job took its GPU, and when it ended."""
    return [
        datetime.fromisoformat(re.search(rf"^(\S+ \S+),\d+ INFO {word}", log, re.M)[1])
        for word in ("takes GPU", "done")
    ]
