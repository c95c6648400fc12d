"""What a tokenizer does not know of a prompt, and what a chat template leaves out of it."""

import json
import logging

import pytest
from test_models_run import run_of, write_prompts
from test_models_special_tokens import character_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BertTokenizer, EsmTokenizer, PreTrainedTokenizerFast

from checkpoints import write_llada
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.text import Unknown, find_unknown, render_chat, warn_of_unknown
from horizons.prompts import Prompt
from horizons.report.pages import describe_runs
from horizons.run import generate_run
from horizons.store.files import read_results
from workflows import REPOSITORY


def fast(model, pre_tokenizer=None, normalizer=None, special=(), **names):
    tokenizer = Tokenizer(model)
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def word_level(**names):
    return fast(
        models.WordLevel({"[UNK]": 0, "red": 1, "fox": 2}, unk_token="[UNK]"), pre_tokenizers.Whitespace(), **names
    )


@pytest.mark.parametrize("names", [{}, {"unk_token": "[UNK]"}])
def test_words_that_a_tokenizer_lacks_are_counted_though_its_config_names_no_unknown_token(names):
    tokenizer = word_level(**names)
    assert find_unknown(tokenizer, "red Fox  fox dog") == Unknown(["Fox", "dog"], 4)
    assert find_unknown(tokenizer, "red fox") == Unknown([], 2)


def test_the_unknown_token_written_out_is_not_unknown():
    tokenizer = fast(
        models.WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]"), pre_tokenizers.Whitespace(), special=["[UNK]"]
    )
    assert find_unknown(tokenizer, "red [UNK] red") == Unknown([], 3)
    w0 = fast(models.WordLevel({"w0": 0, "w1": 1}, unk_token="w0"), pre_tokenizers.Whitespace())
    assert find_unknown(w0, "w0 w1 w2 w01") == Unknown(["w2", "w01"], 4)


def test_what_a_tokenizer_without_an_unknown_token_drops_is_counted():
    tokenizer = character_tokenizer(None)
    assert find_unknown(tokenizer, "GAT TACA") == Unknown([], 7)
    assert find_unknown(tokenizer, "xGAyz T n") == Unknown(["xGAyz", "n"], 5)
    assert find_unknown(tokenizer, "gat") == Unknown(["gat"], 1)
    assert find_unknown(tokenizer, "gat").is_all
    assert not find_unknown(tokenizer, "gaT").is_all
    assert not find_unknown(tokenizer, " ").is_all


def test_bytes_are_not_unknown():
    bytes_of = {f"<0x{number:02X}>": number for number in range(256)}
    model = models.BPE({**bytes_of, "<unk>": 256, "a": 257}, [], unk_token="<unk>", byte_fallback=True)
    assert find_unknown(fast(model, unk_token="<unk>"), "a é 狐") == Unknown([], 8)
    no_bytes = models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", byte_fallback=True)
    assert find_unknown(fast(no_bytes, unk_token="<unk>"), "aéa").pieces == ["é"]


@pytest.mark.parametrize("text", ["the quick brown fox", " déjà vu\n\tand e\u0301", "狐 🦊", "  ", "x\u200by\x07z"])
def test_a_byte_level_tokenizer_knows_everything(text):
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for trim in (False, True):
        tokenizer = fast(models.BPE(alphabet, []), pre_tokenizers.ByteLevel(add_prefix_space=trim), normalizers.NFC())
        tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
        assert find_unknown(tokenizer, text).pieces == []


@pytest.mark.parametrize("names", [{}, {"unk_token": "<unk>"}])
def test_the_space_before_an_unknown_word_is_no_known_part_of_it(names):
    tokenizer = fast(
        models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("▁red", -1.0)], 0), pre_tokenizers.Metaspace(), **names
    )
    found = find_unknown(tokenizer, "狐 犬")
    assert found == Unknown(["狐", "犬"], 2)
    assert found.is_all
    assert find_unknown(tokenizer, "red 犬") == Unknown(["犬"], 2)


def test_tokenizers_written_in_python_are_counted_too(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["<cls>", "<pad>", "<eos>", "<unk>", "L", "A", "G", "<mask>"]))
    tokenizer = EsmTokenizer(str(tmp_path / "vocab.txt"))
    assert find_unknown(tokenizer, "LAG").pieces == []
    assert find_unknown(tokenizer, "L A <unk>").pieces == []
    assert find_unknown(tokenizer, "LAG l").pieces == ["l"]
    assert find_unknown(tokenizer, "lag").is_all


def test_a_bert_that_lowercases_knows_capitals_and_one_without_its_vocabulary_knows_nothing():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "word", "##s"]
    vocabulary = {word: number for number, word in enumerate(words)}
    assert find_unknown(BertTokenizer(vocabulary, do_lower_case=True), "A Words").pieces == []
    assert find_unknown(BertTokenizer(vocabulary, do_lower_case=False), "A words").pieces == ["A"]
    assert find_unknown(BertTokenizer(), "a word").is_all


def write_words(folder, chat_template=None):
    """A LLaDA whose tokenizer knows w0 to w148 and has an unknown token of its own."""
    write_llada(folder)
    vocabulary = {"<unk>": 0} | {f"w{number}": number for number in range(1, 149)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    if chat_template is not None:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def test_a_prompt_of_which_nothing_is_known_is_refused_and_named(tmp_path):
    write_words(tmp_path, "{% for m in messages %}w7 {{ m.content }} w8 {% endfor %}")
    model = load_model(str(tmp_path), device="cpu")
    with pytest.raises(UserError, match=r"^prompt 'q': the tokenizer knows nothing of its text; "):
        model.encode(Prompt("q", None, "the fox", None, None))
    with pytest.raises(UserError, match=r"^prompt 'q': the tokenizer knows nothing of its text; "):
        model.encode(Prompt("q", [{"role": "user", "content": "the fox"}], None, None, None))
    some = Prompt("q", [{"role": "system", "content": "the fox"}, {"role": "user", "content": "w5"}], None, None, None)
    assert model.encode(some) == [7, 0, 0, 8, 7, 5, 8]
    assert model.unknown_tokens(some) == Unknown(["the", "fox"], 7)


def test_a_tokenizer_that_fails_on_a_prompt_is_an_error_of_one_line(tmp_path):
    write_words(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["unk_token"] = "<none>"  # which its vocabulary lacks
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    model = load_model(str(tmp_path), device="cpu")
    assert model.encode(Prompt("q", None, "w5 w6", None, None)) == [5, 6]
    with pytest.raises(UserError, match=r"^prompt 'q': the tokenizer can't encode it: WordLevel error: Missing "):
        model.encode(Prompt("q", None, "w5 fox", None, None))


def test_unknown_tokens_are_a_warning_and_stand_in_results_and_report(tmp_path, caplog):
    write_words(tmp_path / "model")
    write_prompts(tmp_path / "prompts.jsonl", ["w1 w2 w3", "w4 Fox w5 w6 dog"])
    generate_run(run_of(tmp_path), tmp_path / "00000.json.gz")
    assert (
        "the tokenizer does not know 2 of 8 tokens of the prompts (25.0%), such as 'Fox' in prompt 'q1'; "
        in caplog.text
    )
    results = read_results(tmp_path / "00000.json.gz")
    assert [output["unknown_tokens"] for output in results["outputs"]] == [0, 2]
    assert results["metrics"]["unknown_tokens"] == 2
    table = describe_runs([tmp_path / "00000.json.gz"])
    assert table[table["key"] == "metrics.unknown_tokens"]["value"].tolist() == ["2"]


def test_a_share_of_unknown_tokens_that_rounds_to_nothing_is_said_as_a_number(caplog):
    prompt = Prompt("q", None, "", None, None)
    warn_of_unknown([prompt, prompt], [Unknown([], 99_999), Unknown([""], 1)])
    assert "does not know 1 of 100000 tokens of the prompts (1e-05), such as one in prompt 'q'" in caplog.text


def test_of_the_default_models_prompts_everything_is_known(caplog):
    with caplog.at_level(logging.WARNING):
        model = load_model(str(REPOSITORY / "resources" / "tiny-llada"), device="cpu")
        lines = (REPOSITORY / "config" / "prompts" / "waiting_line.jsonl").read_text().splitlines()[::20]
        for content in map(json.loads, lines):
            assert model.unknown_tokens(Prompt("q", content["messages"], None, None, None)).pieces == []
    assert not caplog.records


def chat(template):
    return word_level(chat_template=template)


SYSTEM_AND_USER = [{"role": "system", "content": "red\nfox "}, {"role": "user", "content": "s"}]
WHOLE = [
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}",
    "{{ messages[0].content.strip() }}\n\n{{ messages[1].content }} {{ bos_token }}",
    "{% for m in messages %}{{ m.content.split() | join(' ') }} {% endfor %}",
    {"default": "{% for m in messages %}{{ m.content }}{% endfor %}", "tool_use": "x"},
]
LACKING = [
    ("{% for m in messages %}{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endfor %}", 1),
    ("{% for m in messages %}{{ m.role }}{% for p in m['content'] %}{% if p.type == 'text' %}{{ p.text }}{% endif %}"
     "{% endfor %}{% endfor %}", 1),
    ("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", 1),
    ("{{ messages[0].content }} user", 2),  # whose s is not that of the second message
    ("{% for m in messages %}{{ m.content[:8] }} {% endfor %}", 1),
    ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", 1),
    ("no message at all", 1),
]  # fmt: skip


@pytest.mark.parametrize("template", WHOLE)
def test_a_template_that_writes_all_content_is_used_whatever_it_does_to_white_space(template):
    rendered = render_chat(chat(template), Prompt("q", SYSTEM_AND_USER, None, None, None))
    assert rendered.split()[:2] in (["red", "fox"], ["system:", "red"], ["red", "foxs"])
    assert "⁅" not in rendered


@pytest.mark.parametrize(("template", "message"), LACKING)
def test_a_template_that_leaves_content_out_is_refused(template, message):
    with pytest.raises(UserError, match=rf"^prompt 'q': .* leaves out or changes the content of message {message} \("):
        render_chat(chat(template), Prompt("q", SYSTEM_AND_USER, None, None, None))


FAILING = [
    ("{{ raise_exception('no system role') }}", "the model's chat template refuses it: no system role"),
    ("{{ messages[0].content + 1 }}", "the model's chat template refuses it: can only concatenate str"),
    ("{{ messages[7].content.x }}", "the model's chat template refuses it: "),
    ("{{ 1 / 0 }}", "the model's chat template refuses it: division by zero"),
    ("{% for m in messages %}", "the model's chat template refuses it: "),
    ({"tool_use": "x", "rag": "y"}, r"the model has chat templates by name \(rag, tool_use\) and none called default"),
    (None, "has messages, but the model has no chat template; give prompt"),
    ("", "has messages, but the model has no chat template; give prompt"),
]


@pytest.mark.parametrize(("template", "problem"), FAILING)
def test_a_template_that_fails_is_an_error_of_one_line(template, problem):
    with pytest.raises(UserError, match=f"^prompt 'q': {problem}") as raised:
        render_chat(chat(template), Prompt("q", SYSTEM_AND_USER, None, None, None))
    assert "\n" not in str(raised.value)
