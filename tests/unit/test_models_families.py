"""Each family through its adapter against a plain loop over transformers' own network, made without the adapter."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from checkpoints import (
    EOS,
    MASK,
    change_config,
    random_model,
    refusal,
    write_bert,
    write_dream,
    write_illada,
    write_llada,
    write_roberta,
    write_tokenizer,
)
from generation import plain_generate
from horizons.config import Generation
from horizons.decode.batches import generate
from horizons.errors import UserError
from horizons.models import FAMILIES, load_model
from horizons.models.base import Family
from horizons.prompts import Prompt

QWEN_KEYS = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
QWEN_KEYS += ["num_key_value_heads", "rms_norm_eps", "rope_theta"]
HORIZONS = [1, 2, 4, 8]
PROMPT = [11, 42, 7, 99, 23, 64, 5]
# mask, what closes a canvas, shift
LAYOUT = {"llada": (MASK, (), 0), "dream": (MASK, (), 1), "bert": (2, (1,), 0), "modernbert": (2, (1,), 0)}
LAYOUT |= dict.fromkeys(("sdar", "illada", "llada_moe", "llada2"), (MASK, (), 0))
BLOCKS = {"sdar": 6, "llada2": 8}


@pytest.mark.parametrize("family", LAYOUT)
def test_a_plain_loop_over_the_whole_canvas_gives_the_same_tokens_and_entries(family):
    model, network = random_model(family)
    mask, closing, shift = LAYOUT[family]
    prompt = [0, *PROMPT] if closing else PROMPT
    block = BLOCKS.get(family)
    expected_tokens, expected_logits = plain_generate(network, prompt, 20, HORIZONS, mask, closing, shift, block)
    [(tokens, logits)] = generate(model, [prompt], Generation(max_tokens=20, horizons=HORIZONS))
    assert tokens.tolist() == expected_tokens
    assert len(set(expected_tokens)) > 3  # else the loop would hardly tell one canvas from another
    torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", LAYOUT)
def test_attention_is_bidirectional(family):
    model, _ = random_model(family)
    canvas = torch.tensor([[5, 6, 7, 8, 9, 10]])
    changed = canvas.clone()
    changed[0, -1] = 11
    position = torch.tensor([[2]])
    assert (model.logits(canvas, None, position) - model.logits(changed, None, position)).abs().max() > 1e-3


@pytest.mark.parametrize("family", LAYOUT)
def test_the_lm_head_runs_on_the_asked_rows_only(family):
    model, _ = random_model(family)
    rows = []
    hook = model.family.network.get_output_embeddings().register_forward_hook(
        lambda _module, inputs, _output: rows.append(inputs[0].shape[:-1].numel())
    )
    try:
        logits = model.logits(torch.full((3, 40), 9), None, torch.tensor([[4, 9]] * 3))
    finally:
        hook.remove()
    assert rows == [6]
    assert logits.shape == (3, 2, 160)


@pytest.mark.parametrize("family", LAYOUT)
def test_special_tokens_are_found(family):
    model, _ = random_model(family)
    mask, closing, shift = LAYOUT[family]
    assert model.mask_token_id == mask
    assert model.suffix_ids == list(closing)
    assert model.prefix_ids == ([0] if closing else [])
    assert model.eos_token_ids == (list(closing) or [EOS])
    assert model.family.logits_shift == shift
    assert model.vocab_size == 160
    assert model.context_length == 256
    assert model.block_size == BLOCKS.get(family)


def test_tied_weights_of_a_llada_have_no_lm_head_of_their_own(tmp_path):
    network = write_llada(tmp_path, weight_tying=True)
    model = load_model(str(tmp_path), device="cpu")
    canvas = torch.tensor([[5, 6, MASK, 8]])
    with torch.no_grad():
        expected = network(input_ids=canvas).logits[:, 2:3]
    torch.testing.assert_close(model.logits(canvas, None, torch.tensor([[2]])), expected, rtol=0, atol=1e-5)


def test_an_illada_whose_config_does_not_say_it_is_tied_and_without_biases(tmp_path):
    network = write_illada(tmp_path)
    change_config(tmp_path, tie_word_embeddings=..., attention_bias=..., mlp_bias=...)
    model = load_model(str(tmp_path), device="cpu")
    canvas = torch.tensor([[5, 6, MASK, 8]])
    with torch.no_grad():
        expected = network(input_ids=canvas).logits[:, 2:3]
    torch.testing.assert_close(model.logits(canvas, None, torch.tensor([[2]])), expected, rtol=0, atol=1e-5)
    for keys, problem in (
        ({"attention_bias": True}, "has the weight model.layers.0.self_attn.k_proj.bias (and"),
        ({"mlp_bias": True}, "has the weight model.layers.0.mlp.down_proj.bias (and"),
        ({"tie_word_embeddings": False}, "has the weight lm_head.weight, whose values are not those of"),
    ):
        write_illada(tmp_path, **keys)
        load_model(str(tmp_path), device="cpu")
        change_config(tmp_path, **dict.fromkeys(keys, ...))
        assert refusal(tmp_path).startswith(problem)


def test_a_roberta_loses_the_positions_before_its_first(tmp_path):
    write_roberta(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    assert model.context_length == 40
    canvas = torch.full((1, 40), 9)
    assert model.logits(canvas, None, torch.tensor([[39]])).isfinite().all()
    with pytest.raises((IndexError, RuntimeError), match="index"):  # so 40 is the very last length
        model.logits(torch.full((1, 41), 9), None, torch.tensor([[39]]))


def test_a_causal_model_is_refused(tmp_path):
    write_bert(tmp_path, is_decoder=True)
    with pytest.raises(UserError, match="its prediction of a position does not depend on the tokens after it"):
        load_model(str(tmp_path), device="cpu")


def test_heads_of_other_tasks_are_no_reason_to_refuse_a_bert(tmp_path):
    write_bert(tmp_path)
    path = tmp_path / "model.safetensors"
    others = {"bert.pooler.dense.weight": torch.ones(64, 64), "cls.seq_relationship.bias": torch.ones(2)}
    save_file(load_file(path) | others, path, metadata={"format": "pt"})
    assert load_model(str(tmp_path), device="cpu").vocab_size == 160


def test_a_family_is_one_module_and_one_line(tmp_path, monkeypatch):
    def load_yours(checkpoint):
        config = Qwen2Config(**{key: checkpoint.config[key] for key in QWEN_KEYS}, is_causal=False, pad_token_id=None)
        return Family(checkpoint.load_network(Qwen2ForCausalLM, config=config), context_length=256, logits_shift=1)

    network = write_dream(tmp_path, model_type="yours")
    monkeypatch.setitem(sys.modules, "horizons.models.yours_py", SimpleNamespace(load=load_yours))
    monkeypatch.setitem(FAMILIES, "yours", "yours_py")
    model = load_model(str(tmp_path), device="cpu")
    assert model.provenance["family"] == "yours_py"
    tokens, _ = plain_generate(network, PROMPT, 8, [1], MASK, shift=1)
    [(found, _)] = generate(model, [PROMPT], Generation(max_tokens=8, horizons=[1]))
    assert found.tolist() == tokens


def test_a_masked_lms_mask_is_its_tokenizers(tmp_path):
    write_bert(tmp_path, mask_token_id=7)
    assert load_model(str(tmp_path), device="cpu").mask_token_id == 2


def test_code_of_the_checkpoint_does_not_run_where_transformers_has_its_own(tmp_path):
    write_bert(tmp_path, auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForMaskedLM": "own.OwnModel"})
    (tmp_path / "own.py").write_text("raise SystemExit('ran')")
    assert load_model(str(tmp_path), device="cpu", trust_remote_code=True).provenance["remote_code"] is False


REMOTE_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput

class OwnConfig(PretrainedConfig):
    model_type = "own"
    vocab_size = 160

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.table = torch.nn.Embedding(160, 160)
        self.post_init()
    def get_input_embeddings(self):
        return self.table
    def forward(self, input_ids, attention_mask=None):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        seen = attention_mask[:, :, None] if HEEDED else 1
        mean = (self.table(input_ids) * seen).sum(1, keepdim=True) / (seen.sum(1, keepdim=True) if HEEDED else 1)
        return MaskedLMOutput(logits=self.table(input_ids) + mean)
"""


def write_own_code(folder, code):
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}
    config = {"model_type": "own", "auto_map": auto_map, "mask_token_id": MASK, "eos_token_id": EOS}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(code)
    table = torch.randn(160, 160, generator=torch.Generator().manual_seed(3))
    save_file({"table.weight": table}, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, 149)
    return table


@pytest.fixture
def own_code_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.mark.usefixtures("own_code_cache")
def test_own_code_runs_only_when_it_is_trusted(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    table = write_own_code(folder, "HEEDED = True\n" + REMOTE_CODE)
    with pytest.raises(UserError, match=r"own Python code; read it, then set model.trust_remote_code: true"):
        load_model(str(folder), device="cpu")
    model = load_model(str(folder), device="cpu", trust_remote_code=True)
    canvas = torch.tensor([[4, 5, MASK]])
    expected = table[canvas[0, 1:]] + table[canvas[0]].mean(0)
    torch.testing.assert_close(model.logits(canvas, None, torch.tensor([[1, 2]]))[0], expected)
    assert model.provenance["remote_code"] is True
    assert model.provenance["family"] == "remote"


@pytest.mark.usefixtures("own_code_cache")
def test_a_model_that_ignores_its_attention_mask_is_refused(tmp_path):
    folder = tmp_path / "heedless"
    folder.mkdir()
    write_own_code(folder, "HEEDED = False\n" + REMOTE_CODE)
    with pytest.raises(
        UserError, match=r"logits of a padded batch differ by .* sees padding in spite of its attention mask"
    ):
        load_model(str(folder), device="cpu", trust_remote_code=True)


@pytest.mark.usefixtures("own_code_cache")
def test_an_error_in_own_code_is_one_line(tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    write_own_code(folder, REMOTE_CODE)  # HEEDED is not defined
    with pytest.raises(UserError) as raised:
        load_model(str(folder), device="cpu", trust_remote_code=True)
    assert str(raised.value) == f"{folder}: fails on its first canvases: NameError: name 'HEEDED' is not defined"


def test_messages_go_through_the_chat_template_and_no_special_token_is_doubled(tmp_path):
    write_bert(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    template = "[CLS] {% for m in messages %}{{ m['content'] }} {% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    model = load_model(str(tmp_path), device="cpu")
    messages = [{"role": "user", "content": "w5 w6"}, {"role": "assistant", "content": "w7"}]
    assert model.encode(Prompt("q", messages, None, None, None)) == [0, 5, 6, 7]
    assert model.encode(Prompt("q", None, "w5 w6", None, None)) == [0, 5, 6]


@pytest.mark.parametrize("family", ["llada", "dream", "illada", "llada_moe"])
def test_a_mask_made_here_for_all_layers_gives_every_bit_of_the_networks_own(family):
    model, _ = random_model(family)
    canvases = torch.randint(5, 140, (3, 20), generator=torch.Generator().manual_seed(0))
    seen = (torch.arange(20) < torch.tensor([[20], [13], [1]])).long()
    rows, columns = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([3, 19, 5, 12, 0])
    assert model.family.sees_whole_canvas
    found = model.forward(canvases, seen, rows, columns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.family, "sees_whole_canvas", False)
        assert torch.equal(model.forward(canvases, seen, rows, columns), found)
