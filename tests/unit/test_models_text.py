"""From prompts to token ids and from token ids to text."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from checkpoints import EOS, random_model, write_dream, write_llada, write_tokenizer
from horizons.errors import UserError
from horizons.models import load_model
from horizons.prompts import Prompt

TEXT = "the quick brown fox jumps over the lazy dog: it's 12 o'clock, déjà vu"


def byte_level(folder, special):
    """A byte-level BPE, as the tokenizers of LLaDA and Dream are; gives the ids of its special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([TEXT] * 5, trainer)
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def write_byte_level_llada(folder, **tokenizer_config):
    write_llada(folder, vocab_size=160)
    special = ["<|endoftext|>", "<|eot_id|>"]
    tokenizer = byte_level(folder, special)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[0], **tokenizer_config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def test_text_of_known_tokens_is_as_the_tokenizer_decodes_it():
    model, _ = random_model("llada")
    assert model.decode([5, 6, 7]) == "w5 w6 w7"
    assert model.decode([]) == ""


def test_ids_the_tokenizer_does_not_know_show_and_leave_the_text_around_them_as_it_is():
    model, _ = random_model("llada")
    assert model.decode([5, 6, 155, 7, 8]) == "w5 w6⟨155⟩ w7 w8"
    assert model.decode([155, 5]) == "⟨155⟩w5"
    assert model.decode([5, 155, 156, 6]) == "w5⟨155⟩⟨156⟩ w6"
    assert model.decode([155]) == "⟨155⟩"


def test_text_ends_at_the_first_end_of_text():
    model, _ = random_model("llada")
    assert model.decode([5, EOS, 6]) == "w5"
    assert model.decode([EOS, 155]) == ""


def test_a_byte_level_tokenizer_keeps_spaces_and_split_characters(tmp_path):
    tokenizer = write_byte_level_llada(tmp_path, vocab_size=400)
    model = load_model(str(tmp_path), device="cpu")
    model.vocab_size = 400  # of the tokenizer; the network does not run here
    ids = model.encode(Prompt("q", None, TEXT, None, None))
    assert model.decode(ids) == TEXT
    unknown = tokenizer.get_vocab_size() + 7
    middle = len(ids) // 2
    before = tokenizer.decode(ids[:middle])
    assert model.decode([*ids[:middle], unknown, *ids[middle:]]) == f"{before}⟨{unknown}⟩{TEXT[len(before) :]}"
    first, second = tokenizer.token_to_id("Ã"), tokenizer.token_to_id("©")  # the two bytes of é
    assert model.decode([first, second]) == "é"
    assert model.decode([first, unknown, second]) == f"⟨{unknown}⟩é"


@pytest.mark.parametrize(("im_end", "expected"), [(156, [7, EOS, 154, 155, 156]), (160, [7, EOS, 154, 155])])
def test_a_turn_ends_with_those_end_of_turn_tokens_that_the_model_has(im_end, expected, tmp_path):
    write_llada(tmp_path)
    write_tokenizer(tmp_path, 149, {"eos_token": "w7"})
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"] |= {"<|eot_id|>": 155, "<|im_end|>": im_end, "<|role_end|>": 154}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert load_model(str(tmp_path), device="cpu").eos_token_ids == expected


def test_a_prompt_that_holds_the_mask_token_is_refused():
    model, _ = random_model("bert")
    with pytest.raises(UserError, match=r"^prompt 'q': contains the mask token; "):
        model.encode(Prompt("q", None, "w5 [MASK] w6", None, None))


def test_a_prompt_with_tokens_beyond_the_models_vocabulary_is_refused(tmp_path):
    write_byte_level_llada(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    with pytest.raises(UserError, match=r"^prompt 'q': has the token .* the model's vocabulary ends at 159, so the"):
        model.encode(Prompt("q", None, TEXT, None, None))


def test_a_prompt_without_tokens_is_refused():
    model, _ = random_model("llada")
    with pytest.raises(UserError, match=r"^prompt 'q': has no tokens$"):
        model.encode(Prompt("q", None, "  ", None, None))


def test_messages_without_a_chat_template_are_refused():
    model, _ = random_model("llada")
    with pytest.raises(UserError, match=r"^prompt 'q': has messages, but the model has no chat template; give prompt$"):
        model.encode(Prompt("q", [{"role": "user", "content": "w5"}], None, None, None))


@pytest.mark.parametrize(("single", "prefix", "suffix"), [("B $A", [0], []), ("$A E", [], [1]), ("$A", [], [])])
def test_what_the_tokenizer_puts_around_a_text_is_found(single, prefix, suffix, tmp_path):
    write_llada(tmp_path, eos_token_id=1, pad_token_id=1)
    tokenizer = Tokenizer(models.WordLevel({"B": 0, "E": 1, "U": 2, "x": 3}, unk_token="U"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single, None, [("B", 0), ("E", 1)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = load_model(str(tmp_path), device="cpu")
    assert (model.prefix_ids, model.suffix_ids) == (prefix, suffix)
    assert model.encode(Prompt("q", None, "x x", None, None)) == [*prefix, 3, 3]


def test_dreams_own_tokenizer_needs_none_of_its_code(tmp_path):
    # As published: vocab.json and merges.txt, no tokenizer.json, a class that only the checkpoint's code has.
    write_dream(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    tokenizer = byte_level(tmp_path, [])
    (tmp_path / "tokenizer.json").unlink()
    tokenizer.model.save(str(tmp_path))
    first = tokenizer.get_vocab_size()
    added = {
        str(first + number): {"content": content, "lstrip": False, "normalized": False, "rstrip": False,
                              "single_word": False, "special": True}
        for number, content in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>"])
    }  # fmt: skip
    config = {
        "added_tokens_decoder": added,
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}",
        "eos_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "DreamTokenizer",
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    model = load_model(str(tmp_path), device="cpu")
    model.vocab_size = 400  # of the tokenizer; the network does not run here
    ids = model.encode(Prompt("q", [{"role": "user", "content": TEXT}], None, None, None))
    assert ids[0] == first + 1
    assert ids[-2] == first + 2
    assert model.tokenizer.decode(ids) == f"<|im_start|>user\n{TEXT}<|im_end|>\n"
    assert model.provenance["remote_code"] is False
    assert model.tokenizer.eos_token_id == first
