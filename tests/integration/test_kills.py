"""The workflow killed at any moment, again and again: it makes the bytes of an undisturbed one."""

import random
import shutil
from pathlib import Path

from workflows import Workflow, contents

KILLS = 20


def test_the_recorded_experiment_killed_at_any_moment_in_another_folder_and_run_again_gives_the_same_bytes(
    repository, first_run
):
    """Kill it again and again, each time a little further on; when it gets to its end it begins anew."""
    finished, duration = first_run
    shutil.copy(finished / "results/small/experiment.yaml", repository / "config/small.yaml")
    expected = contents(finished / "results/small")
    suffixes = {".gz", ".json", ".safetensors", ".csv", ".png", ".svg", ".pdf", ".md", ".tex", ".html", ".yaml"}
    assert {Path(name).suffix for name in expected} == suffixes
    rng = random.Random(0)
    kills = 0
    while True:
        # --nolock stands for --unlock before each: a lock that a killed workflow leaves is another test.
        with Workflow(repository, "--nolock", "results/small/summary.csv") as workflow:
            # Long enough for its start and one job, of which there are eleven, so that it gets on.
            if kills < KILLS and not workflow.wait(rng.uniform(0, 0.25 * duration)):
                kills += 1
                continue
            run = workflow.finish()
        assert run.returncode == 0, run.stderr
        made = contents(repository / "results/small")
        assert sorted(made) == sorted(expected)
        assert [name for name in made if made[name] != expected[name]] == []
        if kills == KILLS:
            return
        shutil.rmtree(repository / "results")
