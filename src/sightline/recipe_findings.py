"""From pydantic's errors to problems with file and line, the value found, what is allowed and the nearest name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from sightline.errors import Problem, nearest
from sightline.kinds import Family
from sightline.recipe_text import Node, plain

Path = tuple[str, ...]

_CODES = {
    "extra_forbidden": "unknown-key",
    "missing": "missing-key",
    "unknown_kind": "unknown-kind",
    "union_tag_invalid": "unknown-kind",
    "kind_type": "wrong-type",
}
# pydantic speaks of JSON; a recipe is YAML
_WORDS = {
    "an object": "a mapping",
    "a valid dictionary": "a mapping",
    "a valid array": "a list",
    "a valid list": "a list",
    "a valid tuple": "a list",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid path": "a path",
}


@dataclass(frozen=True, kw_only=True)
class _Spot:
    """What an error is about."""

    path: Path
    node: Node
    """The value at the path, or the nearest one around it."""
    written: bool
    """Whether the recipe says anything at the path."""
    at_union: bool
    """Whether pydantic's location ends in the tag of a union's alternative."""


def findings(error: ValidationError, root: type[BaseModel], tree: Node) -> list[Problem]:
    """Every error once, in the order of the schema. `tree` is what was checked against `root`."""
    located = [(details, _follow(tree, details)) for details in error.errors(include_url=False)]
    problems: dict[tuple[str, Path], Problem] = {}
    for details, spot in located:
        path = spot.path
        if spot.at_union and any(other.path[: len(path)] == path and len(other.path) > len(path) for _, other in located):
            continue  # this alternative of a union does not even have the shape; another one got further and says more
        code = _CODES.get(details["type"], "wrong-type" if details["type"].endswith("_type") else "value")
        problem = _problem(code, details, spot, _models(root, tree, path[:-1]))
        earlier = problems.get((code, path))
        if earlier:  # alternatives of a union, each refusing the same value; or several faults of one value
            allowed = earlier.allowed if problem.allowed in earlier.allowed else f"{earlier.allowed}, or {problem.allowed}"
            problem = replace(problem, allowed=allowed, fix=earlier.fix or problem.fix)
        problems[code, path] = problem
    return _without_misspelt(problems)


def _without_misspelt(problems: dict[tuple[str, Path], Problem]) -> list[Problem]:
    """A misspelt key is one problem: the key that is missing because of it is not named again."""
    meant = {(*path[:-1], problem.fix.split("'")[1]) for (code, path), problem in problems.items() if code == "unknown-key" and problem.fix}
    return [problem for (code, path), problem in problems.items() if not (code == "missing-key" and path in meant)]


def _follow(tree: Node, details: ErrorDetails) -> _Spot:
    node, path, written, at_union = tree, (), True, False
    for position, step in enumerate(map(str, details["loc"])):
        at_union = False
        if below := _below(node, step):
            inner, node = below
            path = (*path, *inner)
        elif details["type"] == "fault" or (position == len(details["loc"]) - 1 and details["type"] in ("missing", "unknown_kind")):
            path, written = (*path, step), False
        else:
            at_union = True
    return _Spot(path=path, node=node, written=written, at_union=at_union)


def _below(node: Node, step: str) -> tuple[Path, Node] | None:
    """The node under a key, an item's number or an item's `name`; also under a key of the short form `{KIND: {key: value}}`."""
    if isinstance(node.value, list):
        names = [item.value["name"].value if isinstance(item.value, dict) and "name" in item.value else None for item in node.value]
        number = names.index(step) if step in names else int(step) if step.isdecimal() else len(names)
        return ((str(number),), node.value[number]) if number < len(names) else None
    if not isinstance(node.value, dict):
        return None
    if step in node.value:
        return (step,), node.value[step]
    if len(node.value) == 1:
        [(kind, inner)] = node.value.items()
        return ((kind, step), inner.value[step]) if isinstance(inner.value, dict) and step in inner.value else None
    return None


def _problem(code: str, details: ErrorDetails, spot: _Spot, models: list[type[BaseModel]]) -> Problem:
    path, dotted, context = spot.path, ".".join(spot.path), details.get("ctx", {})
    found, allowed, fix = f"{dotted} = {_shown(details['input'])}" if dotted else _shown(details["input"]), details["msg"], ""
    if code == "unknown-key":
        names = [name for model in models for name in model.model_fields]
        found, allowed, fix = dotted, ", ".join(names) or "no key here", nearest(path[-1], names)
    elif code == "missing-key":
        described = [model.model_fields[path[-1]].description for model in models if path[-1] in model.model_fields]
        found, allowed, fix = f"no {dotted}", next((text for text in described if text), "a value"), f"add `{path[-1]}:`"
    elif code == "unknown-kind":
        choices = context.get("choices") or re.findall(r"'([^']*)'", context.get("expected_tags", ""))
        allowed, fix = ", ".join(choices), nearest(str(context.get("tag", details["input"])), choices)
    elif details["type"] == "fault":
        value = _shown(plain(spot.node))
        found = f"{dotted} = {value}" if dotted and spot.written else f"no {dotted}" if dotted else value
    elif details["type"] in ("literal_error", "enum"):
        allowed = context["expected"]
        fix = nearest(str(details["input"]), re.findall(r"'([^']*)'", allowed))
    else:
        allowed = allowed.removeprefix("Input should be ").removeprefix("Value error, ")
        allowed = _WORDS.get(allowed, allowed)
    return Problem(code=f"recipe/{code}", place=spot.node.place, found=found, allowed=allowed, fix=fix)


def _shown(value: object, width: int = 80) -> str:
    text = json.dumps(to_jsonable_python(value, fallback=str), ensure_ascii=False)
    return text if len(text) <= width else text[: width - 3] + "..."


def _models(root: type[BaseModel], tree: Node, path: Path) -> list[type[BaseModel]]:
    """The classes that may stand at `path`: more than one only below a union."""
    annotations: list[Any] = [root]
    node = tree
    for key in path:
        annotations = [inner for annotation in annotations for option in _options(annotation, node) for inner in _inside(option, key)]
        node = (_below(node, key) or (key, node))[1]
    options = [option for annotation in annotations for option in _options(annotation, node)]
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


def _options(annotation: Any, node: Node) -> Iterator[Any]:
    """The alternatives of a type, with the class that a family chooses for the node's `kind`."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        family = next((item for item in metadata if isinstance(item, Family)), None)
        if family is None:
            yield from _options(inner, node)
        elif isinstance(node.value, dict):
            kinds = [node.value["kind"].value] if "kind" in node.value else [family.default, *list(node.value)[:1]]  # the first key of {KIND: {...}}
            yield from (cls for name, cls in family.table().items() if name in kinds)
    elif get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            yield from _options(option, node)
    else:
        yield annotation
        if get_origin(annotation) is list and isinstance(node.value, dict):  # where one mapping may stand for a list of one
            yield from _options(get_args(annotation)[0], node)


def _inside(option: Any, key: str) -> Iterator[Any]:
    """The type of the value under `key` of a value of type `option`."""
    arguments = get_args(option)
    if isinstance(option, type) and issubclass(option, BaseModel):
        if key in option.model_fields:
            yield option.model_fields[key].rebuild_annotation()
        elif "kind" in option.model_fields and option.model_fields["kind"].default == key:
            yield option  # the short form {KIND: {...}}
    elif get_origin(option) is dict:
        yield arguments[1]
    elif arguments:
        yield arguments[int(key)] if get_origin(option) is tuple and arguments[-1] is not Ellipsis and key.isdecimal() else arguments[0]
