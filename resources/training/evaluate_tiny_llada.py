"""Measure the default model on held-out prompts of each task, decoded as the workflow does.

    python resources/training/evaluate_tiny_llada.py

prints the table of the model card. A prompt is held out by its line of names, which no training batch has.
"""

import argparse
import sys

import torch
from tqdm import tqdm

import waiting_line
from horizons.config import Generation
from horizons.decode.batches import decode_in_batches
from horizons.decode.loop import Request
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.prompts import Prompt
from horizons.scoring import rule_of, score

LENGTHS = [(3, 8), (9, 14), (15, 20)]  # of the line of names, as the table shows them


def scores(
    model: CheckpointModel, task: str, examples: list[waiting_line.Example], settings: Generation, progress: tqdm
) -> list[float]:
    """The score of each example, in order."""
    requests = []
    for number, drawn in enumerate(examples):
        prompt = Prompt("", [{"role": "user", "content": drawn.message}], None, None, None)
        requests.append(Request(number, str(number), model.encode(prompt), seed=0))
    found = [0.0] * len(examples)
    for batch in decode_in_batches(model, requests, settings):
        for number, decoded in batch.items():
            answer = model.decode(decoded.output_ids(model.mask_token_id))
            found[number] = score(rule_of(task, None), answer, " ".join(examples[number].answer))
        progress.update(len(batch))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the default model on held-out prompts.")
    parser.add_argument("--model", default="resources/tiny-llada", help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=500, help="prompts a task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=123, help="of the prompts (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="(default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    model = load_model(arguments.model, device="cpu", dtype="float32")
    settings = Generation(max_tokens=arguments.max_tokens, batch_size=50, stop_at_eos=True)
    header = ["task", "all", *(f"{low} to {high} names" for low, high in LENGTHS)]
    print(" | ".join(["", *header, ""]).strip())
    print("| " + " | ".join("---" for _ in header) + " |")
    total = arguments.count * len(waiting_line.TASKS)
    with torch.inference_mode(), tqdm(total=total, unit="prompt", file=sys.stderr, disable=None) as progress:
        for task in waiting_line.TASKS:
            examples = list(waiting_line.held_out_examples(task, arguments.count, arguments.seed))
            found = scores(model, task, examples, settings, progress)
            lengths = [len(drawn.message.split(": ")[1].split()) for drawn in examples]
            cells = [sum(found) / len(found)]
            for low, high in LENGTHS:
                within = [value for value, length in zip(found, lengths, strict=True) if low <= length <= high]
                cells.append(sum(within) / len(within))
            print(f"| {task} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
