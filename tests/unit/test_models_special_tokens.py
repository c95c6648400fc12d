"""Which tokens are the mask, the end of text and around a text: what a checkpoint's files and the experiment say."""

import json
import logging

import pytest
from test_models_loading import change_config, refusal
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertTokenizer, EsmTokenizer, PreTrainedTokenizerFast

from checkpoints import EOS, MASK, write_bert, write_dream, write_llada, write_tokenizer
from horizons.config import parse_experiment
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.text import encode_text, special_tokens_around
from horizons.prompts import Prompt


def say_in_generation_config(folder, **content):
    (folder / "generation_config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("configured", "generation", "expected"),
    [(2, [2, 1], [1, 2]), (2, 7, [2, 7]), (None, [5], [5]), ([3, 4], None, [3, 4]), (2, [], [2])],
)
def test_a_text_ends_at_what_either_config_says(configured, generation, expected, tmp_path):
    write_llada(tmp_path, eos_token_id=configured)
    say_in_generation_config(tmp_path, eos_token_id=generation, temperature="hot", anything={})
    assert load_model(str(tmp_path), device="cpu").eos_token_ids == expected


def test_an_end_of_text_outside_the_vocabulary_is_found_when_the_model_is_loaded(tmp_path):
    write_dream(tmp_path)
    problem = (
        "eos_token_id is {}; {} is not in the vocabulary of 160, so put the model's end-of-text token there, or null"
    )
    say_in_generation_config(tmp_path, eos_token_id=[EOS, 160])
    assert refusal(tmp_path) == f"generation_config.json: {problem.format([EOS, 160], 160)}"
    say_in_generation_config(tmp_path)
    for token in (160, 10**9, -1):
        change_config(tmp_path, eos_token_id=token)
        assert refusal(tmp_path) == f"config.json: {problem.format(token, token)}"


def test_an_end_of_text_of_the_tokenizer_that_the_model_lacks_is_none_and_a_warning(tmp_path, caplog):
    write_llada(tmp_path, eos_token_id=None)
    write_tokenizer(tmp_path, 170, {"eos_token": "w165"})
    assert load_model(str(tmp_path), device="cpu").eos_token_ids == []
    assert "the tokenizer's end-of-text token is 165, beyond the model's vocabulary of 160" in caplog.text


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("value", ["1", 1.0, True, [1, "2"], {"id": 1}])
def test_an_id_of_the_wrong_type_is_refused_by_file_and_key(file, value, tmp_path):
    write_bert(tmp_path)
    path = tmp_path / file
    content = json.loads(path.read_text()) if path.exists() else {}
    for key in ("eos_token_id", "pad_token_id", "bos_token_id"):
        path.write_text(json.dumps(content | {key: value}))
        assert refusal(tmp_path) == f"{file}: {key} is {value!r}; it must be an id, a list of ids or null"


def test_a_generation_config_that_is_damaged_is_refused(tmp_path):
    write_dream(tmp_path)
    for damage in ("{", "[]", ""):
        (tmp_path / "generation_config.json").write_text(damage)
        assert refusal(tmp_path).startswith("generation_config.json ")


def test_a_true_is_no_id_of_the_mask_token(tmp_path):
    write_llada(tmp_path, mask_token_id=True)
    assert refusal(tmp_path) == "config.json: mask_token_id is True; it must be an id in the vocabulary of 160"


def test_mask_tokens_that_differ_are_refused_until_the_experiment_says_which(tmp_path):
    write_llada(tmp_path)
    write_tokenizer(tmp_path, 149, {"mask_token": "w7"})
    expected = "config.json: mask_token_id is 150, the tokenizer's mask token is 7; say which is right with "
    assert refusal(tmp_path) == f"{expected}model.mask_token_id"
    assert load_model(str(tmp_path), device="cpu", mask_token_id=7).mask_token_id == 7
    assert load_model(str(tmp_path), device="cpu", mask_token_id=MASK).mask_token_id == MASK
    write_tokenizer(tmp_path, 149)
    say_in_generation_config(tmp_path, mask_token_id=151)
    assert "generation_config.json: mask_token_id is 151; say which" in refusal(tmp_path)


def test_a_mask_token_that_a_tokenizer_numbers_beyond_the_model_is_a_warning(tmp_path, caplog):
    write_llada(tmp_path)
    write_tokenizer(tmp_path, 160, {"mask_token": "<mask>"})  # not in its vocabulary
    assert load_model(str(tmp_path), device="cpu").mask_token_id == MASK
    assert "config.json: mask_token_id is 150, the tokenizer's mask token is 160; the first is taken" in caplog.text


def test_the_experiments_mask_token_is_that_of_a_model_whose_files_say_none(tmp_path):
    write_llada(tmp_path, mask_token_id=None)
    assert refusal(tmp_path).endswith("the tokenizer has no mask token; give model.mask_token_id")
    model = load_model(str(tmp_path), None, "auto", "cpu", False, 5)
    assert model.mask_token_id == 5
    with pytest.raises(UserError, match="prompt 'q': contains the mask token"):
        model.encode(Prompt("q", None, "w4 w5", None, None))
    for token, problem in ((160, "it must be an id in the vocabulary of 160"), (EOS, "which is also the padding or ")):
        assert problem in refusal(tmp_path, mask_token_id=token)
        assert refusal(tmp_path, mask_token_id=token).startswith(f"model.mask_token_id is {token}")


def test_the_experiments_mask_token_goes_before_a_masked_lms_tokenizer(tmp_path, caplog):
    write_bert(tmp_path, mask_token_id=9)
    assert load_model(str(tmp_path), device="cpu").mask_token_id == 2
    assert "the tokenizer's mask token is 2, config.json: mask_token_id is 9; the first is taken" in caplog.text
    assert load_model(str(tmp_path), device="cpu", mask_token_id=9).mask_token_id == 9


def test_mask_token_id_is_a_key_of_the_experiment():
    content = {"model": {"name": "m"}, "dataset": {"path": "p"}}
    assert parse_experiment(content, "x").model.mask_token_id is None
    content["model"]["mask_token_id"] = 5
    assert parse_experiment(content, "x").model.mask_token_id == 5
    for value in (-1, "5", 5.0, True):
        content["model"]["mask_token_id"] = value
        with pytest.raises(UserError, match=r"^x: model\.mask_token_id is "):
            parse_experiment(content, "x")


CHARACTERS = {"[CLS]": 0, "[SEP]": 1, "[MASK]": 2, "[PAD]": 3, "A": 4, "C": 5, "G": 6, "T": 7}


def character_tokenizer(processor, vocabulary=CHARACTERS):
    """Letters A, C, G, T and no unknown token: what it does not know it drops."""
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[MASK]", "[PAD]"])
    if processor is not None:
        tokenizer.post_processor = processor
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", pad_token="[PAD]")


CLS, SEP = ("[CLS]", 0), ("[SEP]", 1)
LAYOUTS = [
    (processors.TemplateProcessing("[CLS] $A [SEP]", None, [CLS, SEP]), [0], [1]),
    (processors.TemplateProcessing("[CLS] $A", None, [CLS]), [0], []),
    (processors.TemplateProcessing("$A [SEP]", None, [SEP]), [], [1]),  # as T5's
    (processors.TemplateProcessing("[CLS] [CLS] $A [SEP] [SEP]", None, [CLS, SEP]), [0, 0], [1, 1]),
    (processors.BertProcessing(SEP, CLS), [0], [1]),
    (processors.RobertaProcessing(SEP, CLS), [0], [1]),
    (processors.ByteLevel(), [], []),
    (
        processors.Sequence([processors.ByteLevel(), processors.TemplateProcessing("[CLS] $A", None, [CLS])]),
        [0],
        [],
    ),
    (None, [], []),
]


@pytest.mark.parametrize(("processor", "prefix", "suffix"), LAYOUTS)
def test_the_special_tokens_around_a_text_are_found_though_the_tokenizer_knows_few_letters(processor, prefix, suffix):
    tokenizer = character_tokenizer(processor)
    assert special_tokens_around(tokenizer) == (prefix, suffix)
    prompt = Prompt("q", None, "GATTACA", None, None)
    assert encode_text(tokenizer, prompt, prefix, suffix) == [*prefix, 6, 4, 7, 7, 4, 5, 4]


def test_a_letter_that_is_also_a_special_token_does_not_shift_the_layout():
    vocabulary = {**CHARACTERS, "a": 8}
    template = processors.TemplateProcessing("a $A [SEP]", None, [("a", 8), SEP])
    assert special_tokens_around(character_tokenizer(template, vocabulary)) == ([8], [1])


def test_tokenizers_written_in_python_say_what_they_put_around_a_text(tmp_path):
    letters = ["<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(letters))
    tokenizer = EsmTokenizer(str(tmp_path / "vocab.txt"))
    assert not tokenizer.is_fast
    assert special_tokens_around(tokenizer) == ([0], [2])
    assert encode_text(tokenizer, Prompt("q", None, "LAG", None, None), [0], [2]) == [0, 4, 5, 6]


def test_a_berts_tokenizer_lowercases_and_knows_its_layout():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "word"]
    tokenizer = BertTokenizer({word: number for number, word in enumerate(words)}, do_lower_case=True)
    assert special_tokens_around(tokenizer) == ([2], [3])
    assert encode_text(tokenizer, Prompt("q", None, "A Word", None, None), [2], [3]) == [2, 5, 6]


def test_a_prompt_whose_own_encoding_is_not_of_this_layout_is_refused():
    tokenizer = character_tokenizer(LAYOUTS[0][0])
    with pytest.raises(UserError, match=r"^prompt 'q': the tokenizer's own encoding is \[0, 4, 5, 1\], and not its "):
        encode_text(tokenizer, Prompt("q", None, "AC", None, None), [], [1])


def test_a_special_token_around_a_text_that_the_model_lacks_is_found_when_it_is_loaded(tmp_path):
    write_llada(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing("$A E", None, [("E", 160)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert refusal(tmp_path).startswith("its tokenizer puts the token 160 around a text; the model's vocabulary ends")


def test_a_tokenizer_with_far_fewer_tokens_than_the_model_is_a_warning(tmp_path, caplog):
    write_llada(tmp_path)
    with caplog.at_level(logging.WARNING):
        load_model(str(tmp_path), device="cpu")
        assert not caplog.records  # 149 of 160
        write_tokenizer(tmp_path, 60)
        load_model(str(tmp_path), device="cpu")
    assert f"{tmp_path}: its tokenizer has 60 tokens, the model's vocabulary 160; " in caplog.text
