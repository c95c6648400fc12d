"""YAML as it is accepted from users: UTF-8, one mapping, no key twice, no types that no key has. No torch."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from horizons.errors import UserError, first_line
from horizons.strict_json import shorten

TIMESTAMP, INT, FLOAT, MERGE = (f"tag:yaml.org,2002:{name}" for name in ("timestamp", "int", "float", "merge"))


def read_yaml(path: Path, what: str = "an experiment") -> dict[str, Any]:
    """The mapping in a YAML file; `what` says in errors what the file should hold.

    Raises UserError, with the line where it is known, for a file that can't be read, is empty, is not YAML, repeats a
    key or holds something that is not of its type.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
        json.dumps(content, default=str)  # ValueError for what refers to itself
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: can't be read: not UTF-8 ({error.reason}); save it as UTF-8") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML{_describe(error)}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not valid YAML: it is nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: an anchor (&) is part of what it stands for") from error
    if content is None:
        raise UserError(f"{path}: is empty; {what} is a mapping of keys to values")
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}; {what} is a mapping of keys to values")
    return content


def _describe(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f": {first_line(error)}"
    context = f"{error.context}, " if error.context else ""
    return f" in line {mark.line + 1}: {context}{error.problem}"


class _StrictLoader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys without a word, and fails with any exception for a value of no type."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        # Before anything is constructed, for then merged keys (<<), which may be given anew, stand among the others.
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem(f"a key is a {key.id}; a value with braces, such as '{{{{ x }}}}', needs quotes", key)
            if (key.tag, key.value) in seen:
                raise _problem(f"key {key.value!r} is repeated", key)
            seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:  # noqa: ANN401
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # of the conversions of tagged scalars, such as `!!int x`
            raise _problem(f"{shorten(node.value)} is no {node.tag.rsplit(':')[-1]}", node) from error


def _problem(text: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


# Without dates, which no key has, and without numbers in octal or to the base 60: `2026-02-30`, `012` and `1:30` are
# text, as in YAML 1.2.
_StrictLoader.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] not in (TIMESTAMP, INT, FLOAT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(INT, re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
_StrictLoader.add_implicit_resolver(
    FLOAT,
    re.compile(r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+][0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)
