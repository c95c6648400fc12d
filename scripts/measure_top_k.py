"""Measure how much of a divergence is left when only the k largest logits of a prediction are kept.

    python scripts/measure_top_k.py results/baseline/00006.json.gz
    python scripts/measure_top_k.py --made-up

The first takes the predictions of a run with all its logits. The second makes some up at LLaDA's vocabulary: the final
prediction spreads as a power of the rank (Zipf's law), an early one shares a part of its logits and has noise of its
own. Prints a table of the mean true number and, for each k, the mean lower bound.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from horizons.columns import NUMBERS
from horizons.errors import UserError
from horizons.measure.bounds import TopBlock, keep_top_k
from horizons.measure.exact import Block, prepare
from horizons.store.reader import open_triple

SHOWN = ["kl", "kl_reverse", "js"]
VOCAB_SIZE = 126_464
NOISE = 1.5  # standard deviation of what an early logit has of its own
SHARED = {"horizon 2": 0.9, "horizon 4": 0.7, "horizon 8": 0.4}

# What is compared: a name, early and final logits (n, vocab_size), committed tokens (n,).
Pairs = tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]


def pairs_of_run(results_file: Path) -> Iterator[Pairs]:
    """The predictions of each sample and horizon beyond 1, before the end of its text or not."""
    triple = open_triple(results_file)
    outputs = triple.results["outputs"]
    for sample_idx, output in enumerate(tqdm(outputs, unit="sample", file=sys.stderr, disable=None)):
        rows = triple.rows_of(sample_idx)
        entries, logits = triple.metadata[rows], triple.logits[rows].float()
        final = {entry["relative_position"]: row for row, entry in enumerate(entries) if entry["horizon"] == 1}
        for horizon in triple.horizons[1:]:
            early = [row for row, entry in enumerate(entries) if entry["horizon"] == horizon]
            positions = [entries[row]["relative_position"] for row in early]
            tokens = torch.tensor([output["output_ids"][position] for position in positions])
            yield f"horizon {horizon}", logits[early], logits[[final[position] for position in positions]], tokens


def pairs_made_up(count: int, steepness: float, seed: int) -> Iterator[Pairs]:
    """Random predictions at LLaDA's vocabulary, stored as bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    for _ in tqdm(range(count), unit="prediction", file=sys.stderr, disable=None):
        rank = torch.randperm(VOCAB_SIZE, generator=generator) + 1
        final = -steepness * rank.log()
        for name, share in SHARED.items():
            other = -steepness * (torch.randperm(VOCAB_SIZE, generator=generator) + 1).log()
            noise = NOISE * torch.randn(VOCAB_SIZE, generator=generator)
            early = torch.logaddexp(final + math.log(share), other + math.log1p(-share)) + (1 - share) * noise
            both = torch.stack([early, final]).bfloat16().float()
            yield name, both[:1], both[1:], final.argmax()[None]


def main() -> None:
    parser = argparse.ArgumentParser(description="How much of a divergence do the k largest logits keep?")
    parser.add_argument("results_file", nargs="?", type=Path, help="of a run with all its logits")
    parser.add_argument("--made-up", action="store_true", help="predictions made up at LLaDA's vocabulary instead")
    parser.add_argument("--count", type=int, default=100, help="made-up predictions (default: %(default)s)")
    parser.add_argument(
        "--steepness",
        type=float,
        default=1.5,
        help="of made-up predictions: how far logits fall for each e-fold of the rank (default: %(default)s)",
    )
    parser.add_argument("--k", type=int, nargs="+", default=[8, 16, 32, 64], help="(default: 8 16 32 64)")
    arguments = parser.parse_args()
    if arguments.made_up == (arguments.results_file is not None):
        parser.error("give the results file of a run, or --made-up")
    pairs = (
        pairs_made_up(arguments.count, arguments.steepness, seed=0)
        if arguments.made_up
        else pairs_of_run(arguments.results_file)
    )
    found: dict[tuple[str, str, int], list[torch.Tensor]] = {}
    try:
        for name, early, final, tokens in pairs:
            true = Block(prepare(early), prepare(final), tokens)
            for number in SHOWN:
                found.setdefault((name, number, 0), []).append(NUMBERS[number].function(true).double())
            for k in arguments.k:
                kept = (keep_top_k(logits, k, tokens) for logits in (early, final))
                block = TopBlock(*kept, tokens, early.shape[-1])
                for number in SHOWN:
                    found.setdefault((name, number, k), []).append(NUMBERS[number].top_k(block))
    except UserError as error:
        sys.exit(str(error))
    print("| | number | true | " + " | ".join(f"k = {k}" for k in arguments.k) + " |")
    print("| --- | --- | --- | " + " | ".join("---" for _ in arguments.k) + " |")
    for name, number in dict.fromkeys((name, number) for name, number, _ in found):
        means = [torch.cat(found[name, number, k]).mean().item() for k in (0, *arguments.k)]
        print(f"| {name} | {number} | " + " | ".join(f"{mean:.4f}" for mean in means) + " |")


if __name__ == "__main__":
    main()
