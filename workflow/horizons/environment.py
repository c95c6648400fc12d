"""What a run was made with."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from horizons import __version__

PACKAGES = ["torch", "transformers", "tokenizers", "safetensors", "numpy", "snakemake"]


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Library versions, the device and its driver, and the git commit of the working folder (None outside git)."""
    return {
        "python": platform.python_version(),
        "packages": {"horizons": __version__} | {package: _version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "driver": _driver() if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    output = _output(query)
    return output.splitlines()[0] if output else None


def _git() -> dict[str, Any] | None:
    commit = _output(["git", "rev-parse", "HEAD"])
    if not commit:
        return None
    return {"commit": commit, "clean": _output(["git", "status", "--porcelain", "--untracked-files=no"]) == ""}


def _output(command: list[str]) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
