"""GPUs are shared out between processes: each held by one, free again when it dies. The devices are pretended ones."""

import os
import select
import signal
import subprocess
import sys

import pytest

from horizons.devices import claim_devices, visible_devices
from horizons.errors import UserError

# Claims, says what CUDA may see, and holds on until its standard input ends.
HOLDER = """
import logging, os, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
from horizons.devices import claim_devices
claim_devices(int(sys.argv[1]), sys.argv[2])
print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), "torch" in sys.modules, flush=True)
sys.stdin.read()
"""
SECONDS = 120


@pytest.fixture
def holder(tmp_path):
    """Starts processes that claim GPUs of a machine of two, and ends them."""
    started = []

    def start(count=1, wanted="auto", **environment):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(count), wanted],
            env=without_slurm() | {"TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "0,1"} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def without_slurm():
    return {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}


def line_of(process):
    """The next line of a process, which must come."""
    ready, _, _ = select.select([process.stdout], [], [], SECONDS)
    assert ready
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(process.stdout.fileno(), 1)
    return line.decode().strip()


def sees(process):
    while not (line := line_of(process)).startswith("sees "):
        pass
    _, devices, torch = line.split()
    assert torch == "False"
    return devices


def test_processes_at_the_same_time_see_one_device_each_and_a_third_waits_until_one_is_killed(holder):
    first, second = holder(), holder()
    devices = {process: sees(process) for process in (first, second)}
    assert sorted(devices.values()) == ["0", "1"]
    third = holder()
    assert line_of(third) == "waiting for 1 of the GPUs 0, 1, which other jobs hold"
    assert not select.select([third.stdout], [], [], 3)[0]
    first.send_signal(signal.SIGKILL)
    assert sees(third) == devices[first]


def test_who_asks_for_two_gets_both_or_waits_without_keeping_one(holder):
    first = holder()
    assert sees(first) == "0"
    both = holder(2)
    assert line_of(both) == "waiting for 2 of the GPUs 0, 1, which other jobs hold"
    assert sees(holder(1, CUDA_VISIBLE_DEVICES="2,1")) == "2"
    first.send_signal(signal.SIGKILL)
    assert sees(both) == "0,1"


@pytest.mark.parametrize(
    ("count", "wanted", "environment"),
    [
        (0, "cpu", {}),
        (1, "cuda:1", {}),
        (1, "auto", {"SLURM_JOB_ID": "7"}),
        (1, "auto", {"CUDA_VISIBLE_DEVICES": ""}),
        (1, "auto", {"CUDA_VISIBLE_DEVICES": "-1"}),
    ],
)
def test_nothing_is_changed_for_the_cpu_a_named_device_slurm_and_where_there_is_no_device(
    tmp_path, monkeypatch, count, wanted, environment
):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name, value in ({"CUDA_VISIBLE_DEVICES": "0,1"} | environment).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    assert claim_devices(count, wanted) == []
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_more_devices_than_there_are_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(UserError, match="the job asks for 2 GPUs; there are 1: 4"):
        claim_devices(2, "auto")


def test_without_cuda_visible_devices_nvidia_smi_says_which_there_are(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert visible_devices() == ["0", "1"]
