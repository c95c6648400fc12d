"""Loads checkpoints: from a name to a model that gives raw logits at the asked positions."""

import importlib
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from huggingface_hub.utils import disable_progress_bars
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from horizons.errors import UserError, first_line
from horizons.loading import loading
from horizons.models import REFUSED, vocabulary
from horizons.models.base import CheckpointModel, Family
from horizons.models.checkpoint import Checkpoint, find_checkpoint, folder_checksum, require_weights
from horizons.models.checks import check_bidirectional, check_finite, check_padding, check_sessions
from horizons.models.facts import family_of, has_blocks, read_config
from horizons.models.placement import describe_placement, resolve_device, resolve_device_map, resolve_dtype
from horizons.models.vocabulary import find_special_tokens, warn_of_small_vocabulary

logger = logging.getLogger(__name__)


def load_model(
    name: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    mask_token_id: int | None = None,
    block_size: int | None = None,
    noise_samples: int = 1,
) -> CheckpointModel:
    """Load a masked diffusion model from a local folder or, by its id, from the Hugging Face hub.

    `dtype` auto is the checkpoint's on a GPU and float32 on CPU; `device` auto is the first GPU, all of them for a
    model that is larger, or the CPU. `mask_token_id` and `block_size` have precedence over what the checkpoint says;
    `noise_samples` is for a model without masks. The model's `provenance` says what was loaded. Raises UserError, in
    one line, where the checkpoint can't be had or is not one this project computes rightly.
    """
    main_device = resolve_device(device)
    with _quiet_libraries():
        folder, commit = find_checkpoint(name, revision, trust_remote_code)
        config = read_config(name, folder)
        require_weights(name, folder)
        weights_dtype = resolve_dtype(name, dtype, main_device, config)
        device_map = resolve_device_map(device, main_device, folder, config, weights_dtype)
        checkpoint = Checkpoint(
            name, folder, config, weights_dtype, device_map, trust_remote_code, mask_token_id, block_size
        )
        with _in_one_line(name, "can't be loaded"):
            adapter = choose_adapter(checkpoint)
            if block_size is not None and not has_blocks(config):
                raise UserError(f"{name}: model.block_size is {block_size}; this model ({adapter}) has no blocks")
            with loading():
                module = importlib.import_module(f"{__package__}.{adapter}")
            family = module.load(checkpoint)
            model = _assemble(checkpoint, family)
        if family.canvas_length is not None:
            model.noise_samples = noise_samples
        elif noise_samples != 1:
            raise UserError(f"{name}: model.noise_samples is {noise_samples}; this model ({adapter}) draws no noise")
        with _in_one_line(name, "fails on its first canvases"):
            if family.canvas_length is not None:
                padding_difference = check_sessions(name, model, folder)
            else:
                check_finite(name, model, folder)
                check_bidirectional(name, model)
                padding_difference = check_padding(name, model)
    model.provenance = {
        "name": name,
        "revision": commit,
        "checksum": None if commit else folder_checksum(folder, trust_remote_code),
        "family": adapter,
        "dtype": str(weights_dtype).removeprefix("torch."),
        "device": describe_placement(family.network),
        "remote_code": adapter == "remote" or type(model.tokenizer).__module__.startswith("transformers_modules."),
        "padding_difference": padding_difference,
    }
    logger.info("loaded %s", model.provenance)
    return model


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """The tokenizer alone of what `load_model` loads. Raises UserError, in one line, where it can't be had."""
    with _quiet_libraries():
        folder, _ = find_checkpoint(name, revision, trust_remote_code)
        checkpoint = Checkpoint(name, folder, read_config(name, folder), torch.float32, "cpu", trust_remote_code)
        adapter = importlib.import_module(f"{__package__}.{choose_adapter(checkpoint)}")
        return vocabulary.load_tokenizer(checkpoint, getattr(adapter, "TOKENIZER_CLASSES", {}))


def choose_adapter(checkpoint: Checkpoint) -> str:
    """The module of this package that loads a checkpoint. Raises UserError where there is none for it."""
    model_type = checkpoint.config.get("model_type")
    if (adapter := family_of(checkpoint.config)) is not None:
        return adapter
    if model_type in REFUSED:
        raise checkpoint.refuse(f"model_type is {model_type!r}, which is not supported: it {REFUSED[model_type]}")
    if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "masked_lm"
    if "auto_map" not in checkpoint.config:
        raise checkpoint.refuse(f"model_type is {model_type!r}, which is not a masked language model known here")
    if not checkpoint.trust_remote_code:
        raise checkpoint.refuse(
            f"model_type {model_type!r} needs the checkpoint's own Python code; read it, then set "
            "model.trust_remote_code: true"
        )
    logger.warning("%s: running the checkpoint's own Python code", checkpoint.name)
    return "remote"


def _assemble(checkpoint: Checkpoint, family: Family) -> CheckpointModel:
    family.network.eval().requires_grad_(False)
    tokenizer = vocabulary.load_tokenizer(checkpoint, family.tokenizer_classes)
    vocab_size = family.network.config.get_text_config().vocab_size
    special = find_special_tokens(checkpoint, family, tokenizer, vocab_size)
    warn_of_small_vocabulary(checkpoint.name, tokenizer, vocab_size)
    return (family.model_class or CheckpointModel)(
        family=family,
        tokenizer=tokenizer,
        mask_token_id=special.mask,
        pad_token_id=special.pad,
        eos_token_ids=special.eos,
        vocab_size=vocab_size,
        prefix_ids=special.prefix,
        suffix_ids=special.suffix,
        # Not the device asked for: layers that are spread begin where the embeddings are.
        device=family.network.get_input_embeddings().weight.device,
        dtype=checkpoint.dtype,
    )


@contextmanager
def _in_one_line(name: str, what: str) -> Iterator[None]:
    """Whatever damaged files or a checkpoint's own code raise, as a UserError; the traceback goes to the log."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        logger.info("%s: %s", name, what, exc_info=error)
        raise UserError(f"{name}: {what}: {type(error).__name__}: {first_line(error)}") from error


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """No progress bars where nobody watches them, and none of transformers' remarks: what matters is checked here."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
        disable_progress_bars()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of keys that published configs have
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
