"""YAML in and out: what a person writes, and what ``kubectl`` reads. Pure.

Reading takes the part of YAML that says the same to every reader. Plain ``null``, ``true``, ``false`` and integers
are what they look like; any other plain text is text: ``off``, ``yes``, ``0.5``, ``010``, ``12:30`` and
``2026-01-01`` never turn into something else. A key twice, anchors, aliases and tags are refused.

Writing quotes whatever any reader of any YAML version might take for something else than a string.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from k8s.errors import Problem

__all__ = ["Parsed", "YamlError", "dotted", "parse_yaml", "to_yaml"]

Path = tuple[str | int, ...]


class YamlError(Exception):
    """A text is no YAML that is taken here; ``problem`` says where and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Parsed:
    """``value`` of dict (keys are str), list, str, int, bool and None; ``lines`` the line of each path, from 1."""

    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)


_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_CONSTANTS: Final = {"": None, "~": None, "null": None, "true": True, "false": False}
_DEPTH_LIMIT: Final = 40
#: More digits than any number of a profile has; int() takes time for many.
_DIGITS_LIMIT: Final = 18


def parse_yaml(text: str) -> Parsed:
    """The one document of ``text``. Raises YamlError."""
    try:
        _refuse_references(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as exc:
        mark = exc.problem_mark or exc.context_mark
        said = exc.problem or exc.context or "it cannot be read"
        raise YamlError(Problem("", f"no YAML: {said}", mark.line + 1 if mark else None)) from exc
    except yaml.YAMLError as exc:
        raise YamlError(Problem("", f"no YAML: {str(exc).splitlines()[0]}")) from exc
    lines: dict[Path, int] = {}
    return Parsed(_value(node, (), lines) if node else None, lines)


def _refuse_references(text: str) -> None:
    """Anchors and aliases can make a small file endless, and tags anything; depth is bounded before recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            message = "anchors and aliases (& and *) are not taken: say it in defaults, or twice"
            raise YamlError(Problem("", message, line))
        if getattr(event, "tag", None):
            raise YamlError(Problem("", f"tags ({event.tag}) are not taken", line))
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH_LIMIT:
            raise YamlError(Problem("", "it nests too deeply", line))


def _value(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value(one, (*path, i), lines) for i, one in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines)
    return _scalar(node, path)


def _mapping(node: yaml.MappingNode, path: Path, lines: dict[Path, int]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise YamlError(Problem(dotted(path), "a key must be text", line))
        key = key_node.value
        if key in made:
            first = lines[(*path, key)]
            message = f"it is there twice, first on line {first}"
            raise YamlError(Problem(dotted((*path, key)), message, line))
        lines[(*path, key)] = line
        made[key] = _value(value_node, (*path, key), lines)
    return made


def _scalar(node: yaml.Node, path: Path) -> Any:
    text = str(node.value)
    if node.style is not None:
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if len(text) <= _DIGITS_LIMIT and text != "-0" and _INTEGER.fullmatch(text):
        return int(text)
    return text


def dotted(path: Path) -> str:
    """``stages.retrain.volumes[0].claim``; a key that is no plain word is quoted."""
    made = ""
    for part in path:
        if isinstance(part, int):
            made += f"[{part}]"
        else:
            shown = part if re.fullmatch(r"[\w./-]{1,80}", part) else repr(part[:80])
            made += f".{shown}" if made else shown
    return made


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Block style, lists indented as kubectl prints them, nothing folded or referred to."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


#: Begins with a letter or /, holds nothing that a reader of YAML looks at, and is no word of YAML 1.1 or 1.2.
_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9_./-]|:(?=[A-Za-z0-9_./-]))*")
#: What some readers take for the end of a line, and others do not.
_BREAKS: Final = frozenset("\r\x85\u2028\u2029\ufeff")
_WORDS: Final = frozenset(
    {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"}
)


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.Node:
    style = '"'
    if "\n" in data and not _BREAKS.intersection(data):
        style = "|"
    elif _PLAIN.fullmatch(data) and data.lower() not in _WORDS:
        style = ""
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(document: Mapping[str, Any]) -> str:
    """``document`` (of dict, list, tuple, str, int, bool, None) as one YAML document, keys in the order they have."""
    text: str = yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, width=2**31, allow_unicode=True, indent=2
    )
    return text
