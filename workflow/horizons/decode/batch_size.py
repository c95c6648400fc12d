"""How many prompts go through the model together where `generation.batch_size` is auto: as many as fit, from sizes.

What is reckoned with depends on the model, the run and the device, not on what else runs there, so that it is the same
whenever the run is made again. It is no promise: a batch that does not fit all the same is halved.
"""

from collections.abc import Sequence

import torch

from horizons.decode.loop import Request
from horizons.devices import host_memory
from horizons.generation import AUTO, MOST_TOGETHER, Generation
from horizons.models.base import CheckpointModel
from horizons.models.session import tail_length
from horizons.schedule import most_remembered

# Of the memory of a device; the rest is for what lies between two pieces that are in use.
SHARE = 0.85
# Bytes for what does not grow with the batch: libraries, and the blocks in which predictions are measured.
WORKSPACE = 2 * 2**30
USUAL_WIDTH = 4096  # of hidden states, where a config does not say it


def batch_size_of(settings: Generation, model: CheckpointModel, requests: Sequence[Request]) -> int:
    """The batch size of a run: the number that is asked for, or for auto the largest power of two that fits.

    That is at most MOST_TOGETHER, and no more than it takes to have all canvases in one batch: of given texts each
    timestep is one.
    """
    if settings.batch_size != AUTO:
        return settings.batch_size
    room = SHARE * memory_of(model.family.network) - WORKSPACE - weight_bytes(model.family.network)
    one = sample_bytes(settings, model, max(len(request.prompt_ids) for request in requests))
    canvases = sum(len(request.steps or []) for request in requests) if settings.tokens == "given" else len(requests)
    size = 1
    while size < min(MOST_TOGETHER, canvases) and 2 * size * one <= room:
        size *= 2
    return size


def sample_bytes(settings: Generation, model: CheckpointModel, prompt_length: int) -> int:
    """What one sample of a batch takes of the device's memory beside the weights."""
    length = prompt_length + settings.max_tokens + len(model.suffix_ids)
    length += tail_length(length, model.block_size)
    alone = settings if settings.save_logits else settings.model_copy(update={"horizons": [1]})
    row = model.vocab_size * model.dtype.itemsize
    # Tokens are chosen from a copy of the logits, with guidance from that of three.
    candidates = settings.block_length or model.block_size or settings.max_tokens
    chosen_from = candidates * (3 if settings.cfg_scale > 0 else 1)
    return length * token_bytes(model) + (most_remembered(alone) + chosen_from) * row


def token_bytes(model: CheckpointModel) -> int:
    """What a token of a canvas takes while it passes a layer, and where blocks are kept the keys and values of all."""
    config = model.family.network.config.get_text_config()

    def number(key: str, otherwise: int) -> int:
        return getattr(config, key, None) or otherwise

    width = number("hidden_size", USUAL_WIDTH)
    experts = number("num_experts_per_tok", 0) * number("moe_intermediate_size", 0)
    # Hidden states before and after the layer and what attention makes of them, some in float32; the two halves of the
    # inner layer and their product.
    numbers = 8 * width + 3 * max(number("intermediate_size", 4 * width), experts)
    if model.block_size is not None:
        numbers += 2 * number("num_hidden_layers", 1) * width
    return numbers * model.dtype.itemsize


def weight_bytes(network: torch.nn.Module) -> int:
    """The bytes of a network's weights, wherever they are."""
    return sum(weight.numel() * weight.itemsize for weight in network.parameters())


def memory_of(network: torch.nn.Module) -> int:
    """The bytes of all memory of the devices that a network is on."""
    devices = {weight.device for weight in network.parameters()}
    on_gpus = [device for device in devices if device.type == "cuda"]
    if not on_gpus:
        return host_memory()
    return sum(torch.cuda.get_device_properties(device).total_memory for device in on_gpus)
