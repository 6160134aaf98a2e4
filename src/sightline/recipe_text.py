"""Recipe text: YAML 1.2 core scalars without aliases, tags or duplicate keys, in which every node knows its file and line.

PyYAML's own loader reads YAML 1.1, where `1e-3` is text, `no` is a boolean and `12:30` is 750; only its scanner, parser and composer are used here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from sightline.errors import Problem, Refused

LARGEST = 1 << 18
"""Bytes of one recipe file. A recipe written by hand is a hundredth of it."""
DEEPEST = 40
"""Levels of nesting."""
LONGEST_NUMBER = 40
"""Characters of a whole number."""

Scalar: TypeAlias = "str | int | float | bool | None"

_TAG = "tag:yaml.org,2002:"
# YAML 1.2.2, section 10.3.2: the core schema's tag resolution, in its order
_CORE = {
    None: [
        (_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
        (_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
        (_TAG + "int", re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")),
        (_TAG + "float", re.compile(r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")),
    ]
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A value of a recipe and where it was said."""

    value: Scalar | dict[str, Node] | list[Node]
    place: str


class _Reader(Reader, Scanner, Parser, Composer, BaseResolver):
    """PyYAML's text-to-nodes half. What would make a recipe mean something else than it shows is refused."""

    yaml_implicit_resolvers = _CORE

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        BaseResolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise yaml.MarkedYAMLError(problem="anchors (&) and aliases (*) are not read: use `extends`", problem_mark=event.start_mark)
        if event.tag is not None:
            raise yaml.MarkedYAMLError(problem=f"tags ({event.tag}) are not read", problem_mark=event.start_mark)
        if self._depth == DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels of nesting", problem_mark=event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class Writer(yaml.SafeDumper):
    """Quotes exactly what the reader would take for something other than text."""

    yaml_implicit_resolvers = _CORE

    def ignore_aliases(self, data: Any) -> bool:
        """Every value is written out: the reader takes no aliases."""
        return True

    def represent_scalar(self, tag: str, value: Any, style: str | None = None) -> yaml.ScalarNode:
        """Unicode's own line breaks are escaped: PyYAML writes them as they are and reads them back as a newline."""
        return super().represent_scalar(tag, value, '"' if any(mark in value for mark in "\x85\u2028\u2029") else style)


def read(text: str, name: str) -> Node:
    """The document in `text`; places are `name:line`. Raises Refused when it is not a strict recipe text."""
    return _read(text, lambda line: f"{name}:{line}")


def read_value(text: str, place: str) -> Node:
    """The value of an override: a flow list, a flow mapping or quoted text is read as YAML, anything else is one scalar to its last character."""
    if text[:1] in ("[", "{", '"', "'"):
        return _read(text, lambda _: place)
    tag = next((tag for tag, pattern in _CORE[None] if pattern.match(text)), _TAG + "str")
    problems: list[Problem] = []
    node = Node(value=_scalar(tag, text, place, problems), place=place)
    if problems:
        raise Refused(problems)
    return node


def plain(node: Node) -> Any:
    """The value without places."""
    if isinstance(node.value, dict):
        return {key: plain(inner) for key, inner in node.value.items()}
    return [plain(inner) for inner in node.value] if isinstance(node.value, list) else node.value


def _read(text: str, place: Callable[[int], str]) -> Node:
    if len(text) > LARGEST:
        raise Refused(Problem(code="recipe/too-large", place=place(1), found=f"{len(text)} characters", allowed=f"at most {LARGEST}"))
    try:
        root = _Reader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        found = ", ".join(part for part in (error.context, error.problem) if part)
        raise Refused(Problem(code="recipe/yaml", place=place(mark.line + 1 if mark else 1), found=found, allowed="one YAML document")) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise Refused(Problem(code="recipe/yaml", place=place(line), found=f"character {error.character!r}", allowed="printable characters")) from error
    if root is None:
        return Node(value=None, place=place(1))
    problems: list[Problem] = []
    node = _node(root, place(root.start_mark.line + 1), place, problems)
    if problems:
        raise Refused(problems)
    return node


def _node(node: yaml.Node, here: str, place: Callable[[int], str], problems: list[Problem]) -> Node:
    if isinstance(node, yaml.ScalarNode):
        return Node(value=_scalar(node.tag, node.value, here, problems), place=here)
    if isinstance(node, yaml.SequenceNode):
        return Node(value=[_node(item, place(item.start_mark.line + 1), place, problems) for item in node.value], place=here)
    mapping: dict[str, Node] = {}
    for key, value in node.value:
        there = place(key.start_mark.line + 1)
        if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TAG + "str", _TAG + "int"):
            found = key.value if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
            problems.append(Problem(code="recipe/key", place=there, found=f"the key {found!r}", allowed="text or a whole number", fix="put the key in quotes"))
        elif key.value in mapping:
            first = mapping[key.value].place
            problems.append(Problem(code="recipe/duplicate-key", place=there, found=f"{key.value!r} again, first at {first}", allowed="each key once"))
        else:
            mapping[key.value] = _node(value, there, place, problems)
    return Node(value=mapping, place=here)


def _scalar(tag: str, text: str, place: str, problems: list[Problem]) -> Scalar:
    match tag.removeprefix(_TAG):
        case "null":
            return None
        case "bool":
            return text[0] in "tT"
        case "int" if len(text) <= LONGEST_NUMBER:
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        case "float" if text.lower().lstrip("+-") in (".inf", ".nan"):
            return float(text.replace(".", "", 1))
        case "float" if math.isfinite(float(text)):
            return float(text)
        case "str":
            return text
    problems.append(Problem(code="recipe/number", place=place, found=text[:LONGEST_NUMBER], allowed="a number that float64 or 128 bits can hold"))
    return None
