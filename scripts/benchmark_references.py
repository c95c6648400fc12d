"""What scripts/benchmark.py compares with: plain code that does the same work with torch and transformers alone."""

import hashlib
import math
import os
from pathlib import Path

import torch

from horizons.models.base import CheckpointModel


def strong_loop(
    network: torch.nn.Module,
    prompts: list[list[int]],
    mask_token_id: int,
    max_tokens: int,
    horizons: list[int],
    file: Path | None = None,
) -> None:
    """One batch through transformers' model, the LM head on asked positions alone; saves all logits at the end.

    Prompts are padded on the left, so that the positions asked for are the same in each row. With `file` its content
    is the guide's: a list of one dict an entry.
    """
    length = max(map(len, prompts))
    padding = [length - len(prompt) for prompt in prompts]
    canvas = torch.tensor([[0] * pad + prompt for pad, prompt in zip(padding, prompts, strict=True)])
    canvas = torch.cat([canvas, torch.full((len(prompts), max_tokens), mask_token_id)], 1)
    attended = (torch.arange(canvas.shape[1]) >= torch.tensor(padding)[:, None]).long() if any(padding) else None
    entries = []
    with torch.inference_mode():
        for timestep in range(max_tokens):
            ahead = [horizon for horizon in horizons if timestep - 1 + horizon < max_tokens]
            asked = torch.tensor([length + timestep - 1 + horizon for horizon in ahead])
            logits = network(input_ids=canvas, attention_mask=attended, logits_to_keep=asked).logits
            if file is not None:
                entries += [
                    {"sample_idx": row, "timestep": timestep, "horizon": horizon, "logits": logits[row, place]}
                    for row in range(len(prompts))
                    for place, horizon in enumerate(ahead)
                ]
            scores = logits[:, 0].clone()
            scores[:, mask_token_id] = -torch.inf
            canvas[:, length + timestep] = scores.argmax(-1)
    if file is not None:
        torch.save(entries, file)


def published_loop(network: torch.nn.Module, prompts: list[list[int]], mask_token_id: int, max_tokens: int) -> None:
    """As the published code: one prompt at a time, the LM head over the whole canvas."""
    device = network.get_input_embeddings().weight.device
    with torch.inference_mode():
        for prompt in prompts:
            canvas = torch.tensor([prompt + [mask_token_id] * max_tokens], device=device)
            for position in range(len(prompt), len(prompt) + max_tokens):
                logits = network(input_ids=canvas).logits
                logits[:, :, mask_token_id] = -torch.inf
                canvas[0, position] = logits[0, position].argmax()


def plain_generate(model: CheckpointModel, prompt: list[int], tokens: list[int], horizons: list[int]) -> torch.Tensor:
    """The logits (num_entries, vocab_size) on the CPU of the entries of given tokens, left to right, in entry order.

    One prompt, the whole canvas, no padding; nothing of the model is used but its network and its mask.
    """
    network, start = model.family.network, len(prompt)
    canvas = torch.tensor([prompt + [model.mask_token_id] * len(tokens)], device=model.device)
    entries = []
    with torch.inference_mode():
        for timestep, token in enumerate(tokens):
            logits = network(input_ids=canvas).logits[0]
            asked = [timestep - 1 + horizon for horizon in horizons]
            places = [start + at - model.family.logits_shift for at in asked if at < len(tokens)]
            entries.append(logits[places].cpu())
            canvas[0, start + timestep] = token
    return torch.cat(entries)


def block_loop(
    network: torch.nn.Module, prompts: list[list[int]], mask_token_id: int, max_tokens: int, block: int
) -> None:
    """One batch of prompts of one length, a token a timestep, each pass over the whole canvas with a mask of blocks."""
    weight = network.get_input_embeddings().weight
    length, total = len(prompts[0]), len(prompts[0]) + max_tokens
    total += -total % block
    canvas = torch.tensor([prompt + [mask_token_id] * (total - length) for prompt in prompts], device=weight.device)
    blocks = torch.arange(total, device=weight.device) // block
    unseen = blocks[None, :] > blocks[:, None]
    added = torch.zeros(1, 1, total, total, dtype=weight.dtype, device=weight.device)
    added.masked_fill_(unseen, torch.finfo(weight.dtype).min)
    with torch.inference_mode():
        for position in range(length, length + max_tokens):
            asked = torch.tensor([position])
            scores = network(input_ids=canvas, attention_mask=added, logits_to_keep=asked).logits[:, 0]
            scores[:, mask_token_id] = -torch.inf
            canvas[:, position] = scores.argmax(-1)


def write_and_flush(file: Path, content: memoryview) -> None:
    """Write bytes, and bring them to the disk."""
    with file.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def matrix_products(network: torch.nn.Module, canvas: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The factors of each matrix product of a forward pass over canvases (batch, length), LM head on one position."""
    products, hooks = [], []
    for layer in network.modules():
        if isinstance(layer, torch.nn.Linear):
            hook = layer.register_forward_hook(
                lambda layer, inputs, _: products.append((inputs[0].flatten(0, 1), layer.weight.T))
            )
            hooks.append(hook)
    with torch.inference_mode():
        network(input_ids=canvas, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    config = network.config
    heads = torch.rand(len(canvas) * config.num_attention_heads, canvas.shape[1], config.head_dim)
    weights = torch.rand(len(heads), canvas.shape[1], canvas.shape[1])
    return products + config.num_hidden_layers * [(heads, heads.mT), (weights, heads)]


def multiply(products: list[tuple[torch.Tensor, torch.Tensor]], timesteps: int) -> None:
    """Nothing but the matrix products of so many forward passes."""
    with torch.inference_mode():
        for _ in range(timesteps):
            for first, second in products:
                first @ second


def write_and_hash(file: Path, parts: list[memoryview]) -> None:
    """Write bytes, flush them to the disk, and take their SHA-256."""
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for part in parts:
            stream.write(part)
            digest.update(part)
        stream.flush()
        os.fsync(stream.fileno())


def plain_divergence(
    logits: torch.Tensor, final_rows: torch.Tensor, token_ids: torch.Tensor
) -> dict[str, torch.Tensor]:
    """All numbers of one sample at once, each (n,): logits (n, vocab_size), the row of each entry's final prediction
    (n,), and the tokens committed (n,).
    """
    log_p = logits.float().log_softmax(-1)
    log_q = log_p[final_rows]
    p, q = log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    top = logits.float().topk(5)
    final_ids = top.indices[final_rows]
    chosen = log_p.gather(-1, token_ids[:, None])
    return {
        "kl": (p * (log_p - log_q)).sum(-1),
        "kl_reverse": (q * (log_q - log_p)).sum(-1),
        "js": (p * (log_p - log_m) + q * (log_q - log_m)).sum(-1) / 2,
        "top1_agreement": (top.indices[:, 0] == final_ids[:, 0]).float(),
        "top5_agreement": (top.indices[:, :, None] == final_ids[:, None, :]).any(-1).float().mean(-1),
        "entropy": -(p * log_p).sum(-1),
        "confidence": p.amax(-1),
        "margin": top.values[:, 0] - top.values[:, 1],
        "final_token_probability": chosen.exp().squeeze(-1),
        "final_token_rank": (log_p > chosen).sum(-1),
        "surprisal": -chosen.squeeze(-1),
    }
