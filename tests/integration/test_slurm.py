"""The workflow through profiles/slurm on a one-node Slurm: the bytes of a local run, whatever becomes of a job."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

from workflows import REPOSITORY, Workflow, contents, finished_batches, run_snakemake, slow_down, write_experiment

DAEMONS = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
MISSING = [tool for tool in ("sbatch", "slurmctld", "slurmd", "munged") if shutil.which(tool, path=DAEMONS) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"no {', '.join(MISSING)}; apt-get install --no-install-recommends slurm-wlm munge"
)

LONG = "results/long/00000.json.gz"


class Job(NamedTuple):
    """What Slurm says of a job."""

    id: str
    state: str
    memory: int  # megabytes asked for
    name: str  # of the rule, and what run it is for


def local_slurm(command, folder):
    """Have tests/slurm/local_slurm.sh do something with the Slurm in a folder; gives its standard output."""
    script = ["bash", str(REPOSITORY / "tests/slurm/local_slurm.sh"), command, str(folder)]
    return subprocess.run(script, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.fixture(scope="module")
def slurm():
    """A Slurm that the commands of this process use: its folder. Below pytest's the path would be too long for it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    with pytest.MonkeyPatch.context() as patch:
        try:
            patch.setenv("SLURM_CONF", local_slurm("start", folder).strip().removeprefix("export SLURM_CONF="))
            yield folder
        finally:
            local_slurm("stop", folder)


@pytest.fixture(scope="module")
def local(pristine, tmp_path_factory):
    """A copy of the repository for what is run without Slurm, with one experiment more: a run of many batches."""
    folder = shutil.copytree(pristine, tmp_path_factory.mktemp("local") / "repository")
    write_experiment(folder, "long", dataset__limit=10, generation__batch_size=1, sweep={})
    return folder


@pytest.fixture(scope="module")
def long_results(local):
    """The files of `long`, made without Slurm."""
    run = run_snakemake(local, LONG)
    assert run.returncode == 0, run.stderr
    return contents(local / "results/long")


@pytest.fixture
def cluster(local, slurm, tmp_path):  # noqa: ARG001
    """A copy of the repository for what is run through Slurm.

    There a batch takes a second on any machine, so that there is time to do something to the job.
    """
    without = shutil.ignore_patterns("results", "logs", "benchmarks", ".snakemake")
    folder = shutil.copytree(local, tmp_path / "repository", ignore=without)
    slow_down(folder)
    return folder


@contextmanager
def submitted(folder, *arguments):
    """The workflow through the Slurm profile; only the looks at the queue are more frequent than there."""
    options = ["--profile", "profiles/slurm", "--jobs", "2", "--slurm-keep-successful-logs"]
    try:
        with Workflow(folder, *options, *arguments, before=look_often) as workflow:
            yield workflow
            run = workflow.finish()
        assert run.returncode == 0, run.stderr
    finally:
        subprocess.run(["scancel", "--user", str(os.getuid())], check=True)


def look_often():
    """Have Snakemake look at the queue each second: there is no option against ever longer pauses between looks."""
    RemoteExecutor.sleep = lambda _: asyncio.sleep(1)


def jobs_of(folder, name):
    """The jobs of a copy's workflow whose name ends so, first to last, ended ones too."""
    command = ["squeue", "--states=all", "--noheader", "--noconvert", "--sort=i", "--format=%i|%T|%m|%k|%Z"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split("|") for line in output.splitlines()]
    return [
        Job(number, state, int(memory.removesuffix("M")), comment.strip())
        for number, state, memory, comment, workdir in rows
        if workdir == str(folder) and comment.strip().endswith(name)
    ]


def visible_gpus(script):
    """CUDA_VISIBLE_DEVICES of each Slurm job that runs a script now, by job id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (path / "cmdline").read_bytes().split(b"\0")
            variables = dict(item.split("=", 1) for item in (path / "environ").read_text().split("\0") if "=" in item)
        except (OSError, UnicodeDecodeError):  # a process that has ended
            continue
        if any(argument.endswith(script.encode()) for argument in arguments) and "SLURM_JOB_ID" in variables:
            found[variables["SLURM_JOB_ID"]] = variables.get("CUDA_VISIBLE_DEVICES")
    return found


def finished_samples(folder):
    """How many samples the journal of a generate job holds."""
    return sum(map(len, finished_batches(folder / "results/long/.00000.json.gz.progress")))


def test_an_experiment_on_a_cluster_has_the_bytes_of_a_local_one_and_each_generate_job_a_gpu_of_its_own(
    finished, cluster
):
    gpus = {}
    # As a machine with GPUs would have it: the experiment itself asks for none.
    with submitted(cluster, "--set-resources", "generate:gpu=1", "--", "results/small/summary.csv") as workflow:
        workflow.wait_until(lambda: gpus.update(visible_gpus(".generate.py")) or len(gpus) == 2)
    assert contents(cluster / "results/small") == contents(finished / "results/small")

    generate = [job for run in ("00000", "00001") for job in jobs_of(cluster, f"rule_generate_wildcards_small_{run}")]
    checks = jobs_of(cluster, "rule_check_divergence_validate")
    assert [job.state for job in generate + checks] == ["COMPLETED"] * 4
    assert {job.id for job in generate} == set(gpus)
    assert sorted(gpus.values()) == ["0", "1"]
    logs = {path.stem for path in (cluster / "logs/slurm").rglob("*.log")}
    assert logs == {job.id for job in generate + checks}


def test_a_job_that_is_cancelled_and_then_loses_its_node_goes_on_to_the_same_bytes(long_results, cluster, slurm):
    with submitted(cluster, LONG) as workflow:
        workflow.wait_until(lambda: finished_samples(cluster) >= 2)
        [first] = jobs_of(cluster, "long_00000")
        subprocess.run(["scancel", first.id], check=True)
        workflow.wait_until(lambda: jobs_of(cluster, "long_00000")[0].state == "CANCELLED")
        done = finished_samples(cluster)
        workflow.wait_until(lambda: finished_samples(cluster) > done)
        local_slurm("kill-node", slurm)
        local_slurm("restart-slurmd", slurm)
    assert [job.state for job in jobs_of(cluster, "long_00000")] == ["CANCELLED", "NODE_FAIL", "COMPLETED"]
    assert "going on after" in (cluster / "logs/generate/long/00000.log").read_text()
    assert contents(cluster / "results/long") == long_results


def test_a_job_over_its_memory_is_tried_again_with_more(long_results, cluster):
    library = cluster / "workflow/horizons/planning.py"
    estimate = library.read_text()
    assert "BASE_MB = 3000" in estimate
    library.write_text(estimate.replace("BASE_MB = 3000", "BASE_MB = 200"))
    with submitted(cluster, LONG):
        pass
    *failed, last = jobs_of(cluster, "long_00000")
    assert failed
    assert {job.state for job in failed} <= {"FAILED", "OUT_OF_MEMORY"}
    assert last.state == "COMPLETED"
    assert [job.memory // failed[0].memory for job in (*failed, last)] == [1, 2, 3][: len(failed) + 1]
    assert "xceeded memory limit" in "".join(
        (cluster / f"logs/slurm/rule_generate/long_00000/{job.id}.log").read_text() for job in failed
    )
    assert contents(cluster / "results/long") == long_results


def test_what_a_job_asks_for_can_be_said_on_the_command_line(cluster):
    resources = ["--resources", "gpu=2", "--set-resources", "generate:gpu=2", "generate:mem_mb=40000"]
    run = run_snakemake(cluster, "--profile", "profiles/slurm", "--dry-run", *resources, "--", LONG)
    [asked] = {line for line in run.stdout.splitlines() if line.strip().startswith("resources: ")}
    assert {"gpu=2", "mem_mb=40000"} <= set(asked.replace(",", "").split())
