"""The files that an experiment names, which its results depend on. No torch."""

from pathlib import Path

# Weights, config and tokenizer, the checkpoint's own code, and what turns messages into a prompt.
DECIDING = {".json", ".safetensors", ".model", ".txt", ".tiktoken", ".py", ".jinja"}
NAMED_TEMPLATES = "additional_chat_templates"  # where transformers saves the templates that have a name


def local_path(name: str) -> Path:
    """A path as the user wrote it, `~` expanded; the path itself where nobody has such a home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def checkpoint_files(folder: str | Path) -> list[Path]:
    """The files of a local checkpoint that decide its numbers, in order; none where there is no such folder.

    Everything that transformers reads there is among them, whether or not this model needs it.
    """
    folder = local_path(str(folder))
    files = [path for path in folder.glob("*") if path.suffix in DECIDING]
    return sorted([*files, *(folder / NAMED_TEMPLATES).glob("*.jinja")])
