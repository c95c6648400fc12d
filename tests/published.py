"""The golden runs of published decoders: their commits pass by pass, their settings, and their checkpoints."""

import copy
import json
from pathlib import Path

import torch

from horizons.config import Generation

PUBLISHED = Path(__file__).parent / "data" / "golden" / "policies"
NAMES = [
    *("llada_low_confidence", "llada_low_confidence_cfg", "fastdllm_threshold", "fastdllm_factor"),
    *("dream_maskgit_plus", "dream_topk_margin", "dream_entropy"),
]
HORIZONS = [1, 2, 4, 8]


def golden_runs(name):
    return json.loads((PUBLISHED / f"{name}.json").read_text())["runs"]


def settings_of(run, name):
    """The run's settings as an experiment has them."""
    theirs = run["settings"]
    common = {"max_tokens": 32, "horizons": HORIZONS, "horizons_in": "timesteps"}
    if name.startswith("dream"):
        return Generation(policy="dream", steps=theirs["steps"], remasking=theirs["alg"], **common)
    common["block_length"] = theirs["block_length"]
    if name.startswith("fastdllm"):
        policy = name.removeprefix("fastdllm_")
        return Generation(**{"policy": policy, policy: theirs[policy]}, **common)
    return Generation(
        steps=theirs["steps"], remasking=theirs["remasking"], cfg_scale=float(theirs["cfg_scale"]), **common
    )


def sharpened(model):
    """The checkpoint `llada-sharp`: that of `llada` with its LM head times 4."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.family.network.get_output_embeddings().weight.mul_(4)
    return model
