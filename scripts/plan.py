"""Say what an experiment asks for, before it is run: samples, entries, bytes and jobs.

python scripts/plan.py llada-8b

Nothing is downloaded. The published checkpoints that have an experiment here are known; of another one on the hub that
was not downloaded before, give --vocab-size.
"""

import argparse
import sys
from pathlib import Path

from horizons.config import load_experiment, require_experiment
from horizons.errors import UserError
from horizons.planning import Plan, free_bytes, plan_experiment, readable, remembered_bytes, saved_dtype
from horizons.store.files import MAX_HEADER_SIZE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="name of a file in config/, without .yaml")
    parser.add_argument(
        "--vocab-size", type=int, help="of a model on the hub that was not downloaded yet and has no experiment here"
    )
    arguments = parser.parse_args()
    try:
        for line in describe(arguments.experiment, arguments.vocab_size):
            print(line)
    except UserError as error:
        sys.exit(f"plan.py: {error}")


def describe(name: str, vocab_size: int | None) -> list[str]:
    """The lines to print."""
    experiment = load_experiment(require_experiment(name, Path("config")))
    plan = plan_experiment(experiment, vocab_size)
    lines = {
        "runs": f"{len(plan.runs):,}",
        "samples": f"{plan.samples:,}",
        "generate jobs": f"{len(plan.runs):,}",
        "all jobs": f"{plan.jobs:,}",
    }
    if experiment.generation.save_logits:
        dtype = saved_dtype(experiment.model, experiment.generation.logits_dtype)
        largest = max(plan.runs, key=lambda run: run.total_bytes)
        lines |= {
            "entries": f"{plan.entries:,}",
            "capture": f"{experiment.capture.mode}, {dtype}",
            "bytes of a run": f"{largest.total_bytes:,} ({readable(largest.total_bytes)}) at most",
            "bytes in all": f"{plan.total_bytes:,} ({readable(plan.total_bytes)})",
            "header of a run": describe_header(plan),
        }
        if not experiment.generation.is_left_to_right:
            lines["held for horizons"] = f"{readable(remembered_bytes(experiment, vocab_size))} of the device's memory"
    folder = Path("results", name)
    lines["room"] = f"{readable(free_bytes(folder))} free for {folder}"
    width = max(map(len, lines)) + 2
    return [f"{key:{width}}{value}" for key, value in lines.items()]


def describe_header(plan: Plan) -> str:
    """Whether the largest safetensors header of a run is one that the format allows, and what to do if not."""
    size = max(run.header_bytes for run in plan.runs)
    verdict = "fits"
    if size > MAX_HEADER_SIZE:
        remedy = f"set shards to {plan.shards_needed} or more"
        if plan.shards_needed is None:
            remedy = "not even for one prompt: lower generation.max_tokens, or set capture.mode to top_k or statistics"
        verdict = f"does not fit; {remedy}"
    return f"{size:,} bytes of {MAX_HEADER_SIZE:,}: {verdict}"


if __name__ == "__main__":
    main()
