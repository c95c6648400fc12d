"""Time this project against plain references, in turn, and print each row when it is measured.

    python scripts/benchmark.py [--quick] [--csv benchmark.csv]
    python scripts/benchmark.py --device cuda [--shape llada-8b] [--minutes 8] [--csv benchmark.csv]
    python scripts/benchmark.py --device cuda --check

Every row is a ratio of two times, sizes or speeds, measured side by side; the references stand in
benchmark_references.py. Absolute times say more of the machine than of the code. Without `--device` it is the
comparison on a CPU (benchmark_cpu.py), where `--quick` shows that it runs; its figures mean nothing. With it a model of
random weights in bfloat16 is made on the device (benchmark_device.py), and `--check` says whether what holds on a CPU
holds there (benchmark_checks.py). `--device cpu --shape tiny` shows that it runs.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmark_checks import check_all
from benchmark_cpu import measure_all
from benchmark_device import measure_device
from benchmark_models import QUICK, SHAPES, Sizes
from benchmark_rows import show
from horizons.environment import describe_environment
from horizons.memory import hold_freed_memory


def main() -> None:
    parser = argparse.ArgumentParser(description="Time this project against plain references.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it runs; without --device")
    parser.add_argument("--device", help="cuda, cuda:N or cpu: a model of random weights in bfloat16 there")
    parser.add_argument("--shape", choices=SHAPES, default="llada-8b", help="its sizes (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8.0, help="that the rows may take (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="check what should hold on the device; times nothing")
    parser.add_argument("--csv", type=Path, default=Path("benchmark.csv"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    if arguments.check and not arguments.device:
        parser.error("--check needs --device")
    if (arguments.device or "").startswith("cuda") and not torch.cuda.is_available():
        parser.error(f"--device is {arguments.device}; torch sees no GPU here, use --device cpu --shape tiny")
    if arguments.check:
        sys.exit(0 if check_all(arguments.device) else 1)
    hold_freed_memory()  # as a run does; the references have it, too
    rows = measure_all(QUICK if arguments.quick else Sizes())
    if arguments.device:
        rows = measure_device(SHAPES[arguments.shape], arguments.device, arguments.minutes)
    measured_on = describe(arguments.device or "cpu") | ({"shape": arguments.shape} if arguments.device else {})
    show(rows, arguments.csv, measured_on)
    print(f"\n{', '.join(f'{key} {value}' for key, value in measured_on.items() if value is not None)}")


def describe(device: str) -> dict[str, object]:
    """What the rows are measured on: device, driver, versions, threads."""
    found = describe_environment(torch.device(device))
    versions = {package: found["packages"][package] for package in ("torch", "transformers")}
    return {key: found[key] for key in ("device", "driver", "cuda", "threads")} | versions


if __name__ == "__main__":
    main()
