"""Which of a machine's GPUs a job takes, so that jobs beside each other take different ones. No torch."""

import fcntl
import logging
import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from horizons.errors import UserError

POLL_SECONDS = 1.0

logger = logging.getLogger(__name__)


def claim_devices(count: int, wanted: str) -> list[str]:
    """Take `count` free GPUs for the rest of the process, and let CUDA see these alone; to be called before torch.

    Waits while others hold too many. Takes none, and changes nothing, where there are no GPUs, where the experiment
    names one (`wanted`, its model.device), and under Slurm, which has given the job its own. Raises UserError where the
    machine has fewer.
    """
    if count < 1 or wanted not in ("auto", "cuda") or "SLURM_JOB_ID" in os.environ:
        return []
    devices = visible_devices()
    if not devices:
        return []
    if len(devices) < count:
        raise UserError(f"the job asks for {count} GPUs; there are {len(devices)}: {', '.join(devices)}")
    claimed = _try_to_claim(count, devices)
    if not claimed:
        logger.warning("waiting for %d of the GPUs %s, which other jobs hold", count, ", ".join(devices))
    while not claimed:
        time.sleep(POLL_SECONDS)
        claimed = _try_to_claim(count, devices)
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi counts; CUDA's own order may be another
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(claimed)
    logger.info("takes GPU %s", ", ".join(claimed))
    return claimed


def visible_devices() -> list[str]:
    """The GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, or else all of the machine."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return _devices_of_machine()
    devices: list[str] = []
    for device in map(str.strip, listed.split(",")):
        if not device or device.startswith("-"):  # where CUDA, too, stops reading
            break
        devices.append(device)
    return devices


def host_memory() -> int:
    """The bytes of memory that this process may have: the machine's, or what Slurm or its control group allows it."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    if (megabytes := os.environ.get("SLURM_MEM_PER_NODE", "")).isdecimal() and int(megabytes):
        limits.append(int(megabytes) * 2**20)
    with suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text().splitlines()[-1].split("::")[1]
        limits.append(int(Path(f"/sys/fs/cgroup{group}/memory.max").read_text()))
    return min(limits)


def _devices_of_machine() -> list[str]:
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        files = [path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia*")]
        return sorted((name for name in files if name.isdecimal()), key=int)


def _try_to_claim(count: int, devices: list[str]) -> list[str]:
    """So many devices, or none: who kept some while waiting for more could wait for ever."""
    claimed: dict[str, int] = {}
    for device in devices:
        if len(claimed) < count and (descriptor := _lock(device)) is not None:
            claimed[device] = descriptor
    if len(claimed) == count:
        return list(claimed)
    for descriptor in claimed.values():
        os.close(descriptor)
    return []


def _lock(device: str) -> int | None:
    """The open lock file of a device, None where another process holds it; the kernel lets go when the process ends."""
    path = Path(tempfile.gettempdir(), f"horizons-gpu-{device.replace('/', '_')}.lock")
    try:
        with suppress(FileExistsError):
            # Linux refuses O_CREAT on another user's file in a folder such as /tmp, so only where there is none.
            created = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL)
            os.fchmod(created, 0o644)
            os.close(created)
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # another user is about to make it
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
