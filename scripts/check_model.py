"""Say what a checkpoint would be loaded as, what its tokens are, and what it predicts first.

python scripts/check_model.py FOLDER [--prompt TEXT]

FOLDER is what `model.name` of an experiment names: the folder of a checkpoint, or an id on the hub.
"""

import argparse
import sys
from collections.abc import Iterator

from horizons.decode.batches import decode_in_batches
from horizons.decode.loop import Request
from horizons.decode.trace import Commits
from horizons.divergence import token_text
from horizons.errors import UserError
from horizons.generation import Generation
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.prompts import Prompt
from horizons.report.labels import visible
from horizons.schedule import check_blocks, check_canvas

PROMPT = "The capital of France is"
TOKENS, CANDIDATES = 4, 5  # that are shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of a checkpoint, or an id on the hub")
    parser.add_argument("--prompt", default=PROMPT, help="(default: %(default)r)")
    parser.add_argument("--chat", action="store_true", help="put the prompt through the chat template")
    parser.add_argument("--revision", help="commit, tag or branch of a hub id")
    parser.add_argument("--device", default="auto", help="(default: %(default)s)")
    parser.add_argument("--mask-token-id", type=int, help="where the checkpoint does not say it")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the checkpoint's own code")
    arguments = parser.parse_args()
    try:
        model = load_model(
            arguments.folder,
            arguments.revision,
            device=arguments.device,
            trust_remote_code=arguments.trust_remote_code,
            mask_token_id=arguments.mask_token_id,
        )
        messages = [{"role": "user", "content": arguments.prompt}] if arguments.chat else None
        prompt = Prompt("check", messages, None if arguments.chat else arguments.prompt)
        # What is known of the checkpoint first: the prompt may be none for it.
        print(*describe(model), "", sep="\n", flush=True)
        print(*first_predictions(model, prompt), sep="\n")
    except UserError as error:
        hint = "; give another --prompt" if arguments.prompt == PROMPT else ""
        sys.exit(f"check_model.py: {error}{hint}")


def describe(model: CheckpointModel) -> Iterator[str]:
    """What was loaded, and the tokens that matter."""
    shown = {key: value for key, value in model.provenance.items() if value is not None}
    shown |= {"vocabulary": f"{model.vocab_size:,} tokens", "context": model.context_length or "no bound"}
    if model.block_size is not None:
        shown["block_size"] = model.block_size
    shown["mask"] = "none" if model.mask_token_id is None else named(model, [model.mask_token_id])
    shown["end of text"] = named(model, model.eos_token_ids) or "none: texts go on to max_tokens"
    width = max(map(len, shown)) + 2
    yield from (f"{key:{width}}{value}" for key, value in shown.items())


def named(model: CheckpointModel, token_ids: list[int]) -> str:
    """Tokens by id and text."""
    return ", ".join(f"{token_id} {visible(token_text(model.tokenizer, token_id))}" for token_id in token_ids)


def first_predictions(model: CheckpointModel, prompt: Prompt) -> Iterator[str]:
    """The prompt as the model sees it, and the most probable tokens of the first positions, left to right."""
    prompt_ids = model.encode(prompt)
    yield f"prompt: {len(prompt_ids)} tokens: " + " ".join(
        visible(token_text(model.tokenizer, token_id), ends=True) for token_id in prompt_ids
    )
    unknown = model.unknown_tokens(prompt).pieces
    if unknown:
        yield f"unknown to the tokenizer: {', '.join(map(visible, unknown))}"
    settings = Generation(max_tokens=model.block_size or TOKENS, horizons=[1])
    check_blocks(settings, model.block_size)
    check_canvas(settings, model.family.canvas_length)
    lines: list[str] = []

    def keep(commits: Commits) -> None:
        probabilities = commits.predictions[1].float().softmax(-1)
        for position, row in zip(commits.positions, probabilities, strict=True):
            values, ids = row.topk(min(CANDIDATES, len(row)))
            found = zip(values.tolist(), ids.tolist(), strict=True)
            texts = (f"{visible(token_text(model.tokenizer, token), ends=True)} {value:.3f}" for value, token in found)
            lines.append(f"position {int(position)}: " + "  ".join(texts))

    for _ in decode_in_batches(model, [Request(0, prompt.id, prompt_ids, 0)], settings, None, keep):
        pass
    yield from lines[:TOKENS]


if __name__ == "__main__":
    main()
