"""Between prompts and token ids: the chat template, the special tokens around a text, and what a tokenizer lacks."""

import json
import logging
import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer, models

from horizons.errors import UserError, first_line
from horizons.prompts import Prompt
from horizons.strict_json import shorten

MARK = "⁅{}⁆"  # at the end of the content of each message, to see that a template writes it

# How tokenizers write the space before a word.
SPACES = "▁Ġ \t\r\n"

logger = logging.getLogger(__name__)


class Unknown(NamedTuple):
    """What of a text a tokenizer does not know."""

    pieces: list[str]  # of the text, one for each token; where the tokenizer does not say which, ""
    total: int  # tokens of the text, those that are a space alone not counted

    @property
    def is_all(self) -> bool:
        """Whether nothing of the text is known."""
        return 0 < len(self.pieces) >= self.total


def special_tokens_around(tokenizer: Any) -> tuple[list[int], list[int]]:  # noqa: ANN401
    """The ids that a tokenizer puts before and after a text, as it says itself, whatever text it knows."""
    if not getattr(tokenizer, "is_fast", False):
        text = -1  # no token's id
        full = tokenizer.build_inputs_with_special_tokens([text])
        return full[: full.index(text)], full[full.index(text) + 1 :]
    processor = tokenizer.backend_tokenizer.post_processor
    if processor is None:
        return [], []
    encoded = processor.process(Tokenizer(models.WordLevel({"x": 0}, unk_token="x")).encode("x"))
    text = encoded.sequence_ids.index(0)
    return encoded.ids[:text], encoded.ids[text + 1 :]


def encode_text(tokenizer: Any, prompt: Prompt, prefix: list[int], suffix: list[int]) -> list[int]:  # noqa: ANN401
    """The ids of a plain prompt with `prefix` and without `suffix`, which goes behind the masks.

    Raises UserError where the tokenizer's own encoding of this prompt is not its text between the two.
    """
    token_ids = prefix + tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    own = tokenizer(prompt.text)["input_ids"]
    if own != token_ids + suffix:
        raise UserError(
            f"prompt {prompt.id!r}: the tokenizer's own encoding is {shorten(own)}, and not its text with {prefix} "
            f"before and {suffix} after it, which is {shorten(token_ids + suffix)}; the masks can't be placed in it, "
            "so give messages, or mend the tokenizer's post-processor"
        )
    return token_ids


def encode_continuation(tokenizer: Any, prompt: Prompt, text: str) -> list[int]:  # noqa: ANN401
    """The ids of a text that follows a prompt: those behind the prompt's own where the two are encoded together.

    Where the prompt's own become others by what follows, the ids of the text alone.
    """
    before = seen_text(tokenizer, prompt)
    own = tokenizer(before, add_special_tokens=False)["input_ids"]
    both = tokenizer(before + text, add_special_tokens=False)["input_ids"]
    if both[: len(own)] == own:
        return both[len(own) :]
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def seen_text(tokenizer: Any, prompt: Prompt) -> str:  # noqa: ANN401
    """The text of a prompt as the model sees it, with what a chat template adds; nothing of one given as token ids."""
    if prompt.messages is not None:
        return render_chat(tokenizer, prompt)
    return prompt.text or ""


def render_chat(tokenizer: Any, prompt: Prompt) -> str:  # noqa: ANN401
    """The text that the chat template makes of the messages of a prompt, up to where the answer begins.

    Raises UserError where there is no template, it fails, or what it writes lacks the content of a message.
    """
    if not tokenizer.chat_template:
        raise UserError(f"prompt {prompt.id!r}: has messages, but the model has no chat template; give prompt")
    messages = prompt.messages or []
    marked = [{**message, "content": message["content"] + MARK.format(at)} for at, message in enumerate(messages)]
    rendered = _apply_template(tokenizer, prompt, messages)
    # Whether a short content is there could be chance; with a mark at its end it can't.
    for wanted, text in ((messages, rendered), (marked, _apply_template(tokenizer, prompt, marked))):
        lacking = _first_lacking(wanted, text)
        if lacking is not None:
            raise UserError(
                f"prompt {prompt.id!r}: the model's chat template leaves out or changes the content of message "
                f"{lacking + 1} ({shorten(messages[lacking]['role'])}); give prompt, with the text as the model is to "
                "see it"
            )
    return rendered


def _apply_template(tokenizer: Any, prompt: Prompt, messages: list[dict[str, str]]) -> str:  # noqa: ANN401
    try:
        # Not tokenized by the template: then the tokenizer would put its special tokens around it once more.
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template can raise whatever Python can
        if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
            names = ", ".join(sorted(tokenizer.chat_template))
            problem = f"has chat templates by name ({names}) and none called default; rename one, or give prompt"
            raise UserError(f"prompt {prompt.id!r}: the model {problem}") from error
        logger.info("prompt %r: the chat template fails", prompt.id, exc_info=error)
        raise UserError(f"prompt {prompt.id!r}: the model's chat template refuses it: {first_line(error)}") from error


def _first_lacking(messages: Sequence[dict[str, str]], rendered: str) -> int | None:
    """The first message whose content a text lacks, in order and but for white space; None where all are there."""
    text, start = "".join(rendered.split()), 0
    for number, message in enumerate(messages):
        content = "".join(message["content"].split())
        found = text.find(content, start)
        if found < 0:
            return number
        start = found + len(content)
    return None


def find_unknown(tokenizer: Any, text: str) -> Unknown:  # noqa: ANN401
    """The pieces of a text that a tokenizer turns into its unknown token, or drops, as one without such a token does.

    The unknown token itself, where the text holds it as it is written, is no such piece; nor are bytes, into which
    some tokenizers fall back.
    """
    if not getattr(tokenizer, "is_fast", False):
        return _find_unknown_by_words(tokenizer, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    token_ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    tokens, unknown_ids = tokenizer.convert_ids_to_tokens(token_ids), _unknown_ids(tokenizer)
    pieces = _dropped_words(text, offsets) if isinstance(tokenizer.backend_tokenizer.model, models.BPE) else []
    total = len(pieces) + sum(bool(token.strip(SPACES)) for token in tokens)
    for token_id, token, (first, last) in zip(token_ids, tokens, offsets, strict=True):
        piece = text[first:last].strip()
        if token_id in unknown_ids and piece != token:
            pieces.append(piece)
    return Unknown(pieces, total)


def _dropped_words(text: str, offsets: Sequence[tuple[int, int]]) -> list[str]:
    """For each stretch of a text that no token stands for, the word it is in.

    White space is none, nor what normalizers remove or join to a letter: controls and accents. In a word with a gap the
    tokens after it have too low offsets, so the word is all that can be said.
    """
    covered = set()
    for first, last in offsets:
        covered.update(range(first, last))
    words, before = [], True
    for at, letter in enumerate(text):
        here = at in covered or letter.isspace() or unicodedata.category(letter)[0] in "MC"
        if before and not here:
            begin = at - len((text[:at] + "|").split()[-1]) + 1
            words.append(text[begin:].split()[0])
        before = here
    return words


def _find_unknown_by_words(tokenizer: Any, text: str) -> Unknown:  # noqa: ANN401
    """`find_unknown` of a tokenizer written in Python, which does not say where in the text its tokens are."""
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = tokenizer.convert_ids_to_tokens(token_ids)
    total = sum(bool(token.strip(SPACES)) for token in tokens)
    unknown_id = tokenizer.unk_token_id
    count = token_ids.count(unknown_id) - text.count(tokenizer.unk_token) if unknown_id is not None else 0
    if count <= 0:
        return Unknown([], total)
    words = (word for word in text.split() if word != tokenizer.unk_token)
    lacking = (word for word in words if unknown_id in tokenizer(word, add_special_tokens=False)["input_ids"])
    return Unknown([next(lacking, "")] * count, total)


def _unknown_ids(tokenizer: Any) -> set[int]:  # noqa: ANN401
    """The token for what is unknown, as a tokenizer's config names it and as its model does, which may be alone."""
    named, backend = tokenizer.unk_token_id, tokenizer.backend_tokenizer
    if isinstance(backend.model, models.Unigram):  # which tells its own only as a whole
        own = json.loads(backend.to_str())["model"].get("unk_id") if named is None else None
    else:
        own = backend.token_to_id(getattr(backend.model, "unk_token", None) or "")
    return {named, own} - {None}


def content_of(prompt: Prompt) -> str:
    """The text of a prompt without its roles and without what a chat template adds."""
    return prompt.text or "\n".join(message["content"] for message in prompt.messages or [])


def warn_of_unknown(prompts: Sequence[Prompt], unknown: Sequence[Unknown]) -> None:
    """Say how much of the prompts the tokenizer does not know, with an example, where it is anything."""
    count, total = sum(len(found.pieces) for found in unknown), sum(found.total for found in unknown)
    if not count:
        return
    prompt, found = next((prompt, found) for prompt, found in zip(prompts, unknown, strict=True) if found.pieces)
    example = next(filter(None, found.pieces), None)
    logger.warning(
        "the tokenizer does not know %d of %d tokens of the prompts (%s), such as %s in prompt %r; is it the model's, "
        "and are the prompts in its form (case, spaces, language)?",
        count,
        total,
        f"{count / total:.2g}" if count / total < 0.001 else f"{count / total:.1%}",
        "one" if example is None else shorten(example),
        prompt.id,
    )
