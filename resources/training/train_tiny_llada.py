"""Train the default model, a small LLaDA on the waiting-line tasks, and write it in the published layout.

    python resources/training/train_tiny_llada.py --output my-tiny-llada

The model that ships, resources/tiny-llada, is overwritten only where --output names it.

The objective is LLaDA's (arXiv 2502.09992, equation 3): a mask ratio t drawn uniformly for each sample, each token of
the response masked with probability t, cross-entropy on the masked tokens weighted by 1 / t. As in LLaDA's
fine-tuning the prompt is never masked, and the response is filled up with end-of-text tokens that are learned too.

A checkpoint beside the output lets an interrupted run go on to the same weights; a run that has ended only exports.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tqdm import tqdm
from transformers import AttentionInterface, LlamaForCausalLM

import waiting_line
from horizons.models.llada import llada_weight_name, llama_config

BOS, EOS, EOT = "<|startoftext|>", "<|endoftext|>", "<|eot_id|>"
HEADER_START, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"
UNKNOWN = "<|unknown|>"
SPECIAL_TOKENS = [BOS, EOS, EOT, HEADER_START, HEADER_END, UNKNOWN]
CHAT_TEMPLATE = (
    "{{ '" + BOS + "' }}{% for message in messages %}"
    "{{ '"
    + HEADER_START
    + "' + message['role'] + '"
    + HEADER_END
    + "\n\n' + message['content'] | trim + '"
    + EOT
    + "' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '" + HEADER_START + "assistant" + HEADER_END + "\n\n' }}{% endif %}"
)
WORDS = (
    "system user assistant Copy Reverse Sort Shuffle Replace Remove Insert the line from in with as number :"
).split()
MASK_TOKEN_ID = 126  # like LLaDA's, a token that the tokenizer does not know
VOCAB_SIZE = 128
RESPONSE_LENGTH = 64

# A batch takes its lines from one of these ranges of lengths, so that a short line does not pay for a long one.
LENGTH_RANGES = [(3, 8), (9, 14), (15, 20)]
# From which step on, how often each of the ranges, and how often each task, those not named once. Short lines teach how
# to find a position, far faster; which names are used already is learned before what stands at which number.
USED_NAMES = {"sort": 3, "shuffle": 3}
NUMBERS = {"sort": 2, "shuffle": 2, "replace": 3, "remove": 3, "insert": 3}
ALL_BUT_COPY = {"reverse": 2, "sort": 3, "shuffle": 2, "replace": 3, "remove": 2, "insert": 3}
CURRICULUM = [
    (0, [1, 0, 0], USED_NAMES),
    (1500, [1, 2, 0], USED_NAMES),
    (3000, [1, 2, 3], USED_NAMES),
    (8500, [2, 1, 1], NUMBERS),
    (11_000, [1, 2, 2], ALL_BUT_COPY),
    (13_000, [1, 2, 3], ALL_BUT_COPY),
]
FULL_RESPONSE_SHARE = 0.1  # batches whose responses are filled up to RESPONSE_LENGTH; in the others just past the end
LEARNING_RATE, EMBEDDING_LEARNING_RATE = 0.02, 0.005
# The share of the learning rate by step, linear in between.
SCHEDULE = {0: 0.0, 300: 1.0, 6000: 1.0, 8500: 0.8, 9500: 0.55, 11_000: 0.45, 19_000: 0.0}
AVERAGE_DECAY = 0.999  # of the moving average of the weights that is exported


def build_tokenizer() -> Tokenizer:
    """A word-level tokenizer: every word of the tasks is one token, so a name is one position."""
    numbers = [str(number) for number in range(1, waiting_line.MAX_LENGTH + 2)]
    words = [*SPECIAL_TOKENS, *WORDS, *numbers, *waiting_line.NAMES]
    vocabulary = {word: token_id for token_id, word in enumerate(words)}
    assert len(vocabulary) == len(words) <= MASK_TOKEN_ID
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def model_config() -> dict[str, object]:
    """The config.json of the default model, with the keys of the published LLaDA checkpoints."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "attention_layer_norm": False,
        "bias_for_layer_norm": False,
        "block_group_size": 1,
        "block_type": "llama",
        "d_model": 128,
        "embedding_size": VOCAB_SIZE,
        "eos_token_id": SPECIAL_TOKENS.index(EOS),
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "mask_token_id": MASK_TOKEN_ID,
        "max_sequence_length": 256,
        "mlp_hidden_size": 384,
        "multi_query_attention": None,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": 5,
        "pad_token_id": SPECIAL_TOKENS.index(EOS),
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 10000.0,
        "scale_logits": False,
        "torch_dtype": "float32",
        "vocab_size": VOCAB_SIZE,
        "weight_tying": False,
    }


class Batches:
    """Training batches of token ids; batch number `step` depends on the seed and the step alone."""

    def __init__(self, tokenizer: Tokenizer, seed: int, batch_size: int) -> None:
        self.ids = tokenizer.get_vocab()
        self.seed, self.batch_size = seed, batch_size

    def _encode(self, drawn: waiting_line.Example) -> tuple[list[int], list[int]]:
        words = drawn.message.replace(":", " :").split()
        header = [HEADER_START, "user", HEADER_END]
        prompt = [BOS, *header, *words, EOT, HEADER_START, "assistant", HEADER_END]
        return [self.ids[word] for word in prompt], [self.ids[name] for name in drawn.answer]

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Canvases (batch_size, length) and which of their tokens are the response, a bool of the same shape.

        All canvases of a batch have one length, filled up with end-of-text, so no attention mask is needed.
        """
        rng = random.Random(f"{self.seed} {step}")
        _, range_weights, task_weights = [phase for phase in CURRICULUM if phase[0] <= step][-1]
        [(shortest, longest)] = rng.choices(LENGTH_RANGES, range_weights)
        full = rng.random() < FULL_RESPONSE_SHARE
        tasks = list(waiting_line.TASKS)
        pairs = []
        for task in rng.choices(tasks, [task_weights.get(task, 1) for task in tasks], k=self.batch_size):
            drawn = waiting_line.example(task, rng.randint(shortest, longest), rng, held_out=False)
            pairs.append(self._encode(drawn))
        # An answer is at most one name longer than its line, and the longest prompt is 8 tokens of template, 8 of
        # instruction and the line.
        length = 16 + longest + (RESPONSE_LENGTH if full else longest + 1 + 3)
        canvases = torch.full((self.batch_size, length), self.ids[EOS])
        is_response = torch.zeros((self.batch_size, length), dtype=torch.bool)
        for row, (prompt, answer) in enumerate(pairs):
            canvases[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
            is_response[row, len(prompt) :] = True
        return canvases, is_response


def diffusion_loss(
    model: torch.nn.Module,
    canvases: torch.Tensor,
    is_response: torch.Tensor,
    generator: torch.Generator,
    bfloat16: bool = False,
) -> torch.Tensor:
    """LLaDA's objective on one batch, whose mask ratios are spread evenly over (0, 1] to lower the variance."""
    batch_size = len(canvases)
    offsets = torch.arange(batch_size) / batch_size
    ratio = ((torch.rand(1, generator=generator) + offsets) % 1).clamp(min=1e-3)[:, None]
    masked = (torch.rand(canvases.shape, generator=generator) < ratio) & is_response
    device = next(model.parameters()).device
    canvases, masked, ratio = canvases.to(device), masked.to(device), ratio.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        logits = model(input_ids=canvases.masked_fill(masked, MASK_TOKEN_ID), use_cache=False).logits
    losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), canvases.flatten(), reduction="none")
    weights = masked / ratio
    return (losses.view_as(weights) * weights).sum() / is_response.sum()


def full_precision_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    _mask: torch.Tensor | None,
    scaling: float,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Bidirectional attention in float32 where all else is bfloat16: on a CPU its backward pass is so ten times faster.

    Under the name that transformers' models look it up by; none of the canvases is padded, so there is no mask.
    """
    with torch.autocast(query.device.type, enabled=False):
        attended = torch.nn.functional.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), scale=scaling
        )
    return attended.transpose(1, 2).contiguous(), None


def build_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the embeddings, the LM head and the norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or ".layers." not in name]
    muon = torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.01)
    adam = torch.optim.AdamW(others, lr=EMBEDDING_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adam]


def train(arguments: argparse.Namespace, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Train, or go on from the checkpoint; gives the model with the averaged weights."""
    torch.manual_seed(arguments.seed)
    torch.set_flush_denormal(True)  # gradients of settled predictions are that small, and slow a CPU down
    AttentionInterface.register("full_precision", full_precision_attention)
    config = llama_config(model_config())
    config._attn_implementation = "full_precision"
    model = LlamaForCausalLM(config).to(arguments.device)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(AVERAGE_DECAY)
    )
    optimizers = build_optimizers(model)
    initial_rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    batches = Batches(tokenizer, arguments.seed, arguments.batch_size)
    first_step = 0
    if arguments.checkpoint.exists():
        state = torch.load(arguments.checkpoint, weights_only=True, map_location=arguments.device)
        first_step = state["step"]
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)

    def save_checkpoint(step: int) -> None:
        state = {
            "step": step,
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        }
        temporary = arguments.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(arguments.checkpoint)

    compiled = torch.compile(model, dynamic=False) if arguments.compile else model
    progress = tqdm(range(first_step, arguments.steps), initial=first_step, total=arguments.steps, disable=None)
    running_loss = None
    for step in progress:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, initial_rate in zip(groups, initial_rates, strict=True):
            group["lr"] = initial_rate * float(np.interp(step + 1, list(SCHEDULE), list(SCHEDULE.values())))
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + step)
        loss = diffusion_loss(compiled, *batches.batch(step), generator, arguments.bfloat16)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average.update_parameters(model)
        running_loss = loss.item() if running_loss is None else 0.99 * running_loss + 0.01 * loss.item()
        progress.set_postfix(loss=f"{running_loss:.4f}")
        if (step + 1) % 500 == 0:
            save_checkpoint(step + 1)
            tqdm.write(f"step {step + 1}: loss {running_loss:.4f}", file=sys.stderr)
    save_checkpoint(arguments.steps)
    return average.module


def export(model: LlamaForCausalLM, tokenizer: Tokenizer, output: Path) -> None:
    """Write the checkpoint: config, weights and tokenizer, in the files the published LLaDA has."""
    output.mkdir(parents=True, exist_ok=True)
    weights = {llada_weight_name(name): weight.cpu().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    (output / "config.json").write_text(json.dumps(model_config(), indent=2) + "\n")
    tokenizer.save(str(output / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": UNKNOWN,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
        "chat_template": CHAT_TEMPLATE,
    }
    (output / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the default model on the waiting-line tasks.")
    parser.add_argument("--steps", type=int, default=max(SCHEDULE), help="stop sooner (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument("--compile", action="store_true", help="compile the model (needs a C++ compiler on CPU)")
    parser.add_argument("--bfloat16", action="store_true", help="faster on GPUs, and on CPUs that multiply it (AMX)")
    parser.add_argument("--output", type=Path, default=Path("my-tiny-llada"), help="(default: %(default)s)")
    parser.add_argument(
        "--checkpoint", type=Path, default=Path("tiny-llada.checkpoint.pt"), help="(default: %(default)s)"
    )
    arguments = parser.parse_args()
    tokenizer = build_tokenizer()
    model = train(arguments, tokenizer)
    export(model, tokenizer, arguments.output)
    print(f"{arguments.output}: {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
