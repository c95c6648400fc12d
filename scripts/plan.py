"""Say what an experiment asks for, before it is run: samples, entries, bytes and jobs.

python scripts/plan.py llada-8b [--vocab-size 126464]
"""

import argparse
import sys
from pathlib import Path

from horizons.config import load_experiment, require_experiment
from horizons.errors import UserError
from horizons.planning import dtype_of, free_bytes, plan_experiment, readable
from horizons.store.files import MAX_HEADER_SIZE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="name of a file in config/, without .yaml")
    parser.add_argument("--vocab-size", type=int, help="of a model of the hub that was not downloaded yet")
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
        largest = max(plan.runs, key=lambda run: run.total_bytes)
        header = max(run.header_bytes for run in plan.runs)
        fits = "fits" if header <= MAX_HEADER_SIZE else f"does not fit; set shards to {plan.shards_needed} or more"
        lines |= {
            "entries": f"{plan.entries:,}",
            "capture": f"{experiment.capture.mode}, {dtype_of(experiment)}",
            "bytes of a run": f"{largest.total_bytes:,} ({readable(largest.total_bytes)}) at most",
            "bytes in all": f"{plan.total_bytes:,} ({readable(plan.total_bytes)})",
            "header of a run": f"{header:,} bytes of {MAX_HEADER_SIZE:,}: {fits}",
        }
    folder = Path("results", name)
    lines["room"] = f"{readable(free_bytes(folder))} free for {folder}"
    width = max(map(len, lines)) + 2
    return [f"{key:{width}}{value}" for key, value in lines.items()]


if __name__ == "__main__":
    main()
