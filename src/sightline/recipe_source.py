"""Recipe files: found by path or shipped name, extended, overridden, checked whole against a pydantic root, and written back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from sightline.errors import Problem, Refused, nearest
from sightline.recipe_findings import findings
from sightline.recipe_text import DEEPEST, LARGEST, Node, Writer, plain, read, read_value

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True, kw_only=True)
class Loaded(Generic[T]):
    """A checked recipe and where each of its values was said."""

    recipe: T
    tree: dict[str, Any]
    """The values as written, after `extends` and overrides, before defaults."""
    places: dict[str, str]
    """Dotted path -> `file:line` or `override: PATH`."""
    files: tuple[Path, ...]
    """The recipe file, then what it extends, nearest first."""

    def place(self, path: str) -> str:
        """Where the value at the dotted `path`, or the nearest mapping that should hold it, was said."""
        while path and path not in self.places:
            path = path.rpartition(".")[0]
        return self.places[path]


@dataclass(frozen=True, kw_only=True)
class Heading:
    """What the first comment block of a recipe file says."""

    description: str
    size: str
    """The line `size: ...` of the block: what hardware the recipe wants."""


def load(path: str | Path, root: type[T], overrides: Sequence[str] = (), rows: Sequence[str] | None = None) -> Loaded[T]:
    """Read a recipe file or a shipped recipe, follow `extends`, apply `key=value` overrides, check everything against `root`.

    `rows`: paths of mappings under `vary` whose entries are put in after the overrides, dotted key by key; `vary` itself is then left out. None = as it is.
    Raises Refused with all problems: first those of the text, then those of the overrides, then those of the values.
    """
    files: list[Path] = []
    node = _chain(find(path), files)
    problems: list[Problem] = []
    for override in overrides:
        node = _overridden(node, override, problems)
    for row in rows or ():
        node = _changed(node, row, problems)
    if rows is not None and isinstance(node.value, dict):
        node = Node(value={key: value for key, value in node.value.items() if key != "vary"}, place=node.place)
    if problems:
        raise Refused(problems)
    tree = plain(node)
    try:
        recipe = root.model_validate_json(to_json(tree, inf_nan_mode="constants"))
    except ValidationError as error:
        raise Refused(findings(error, root, node)) from error
    return Loaded(recipe=recipe, tree=tree, places=_places(node, ""), files=tuple(files))


def dump(recipe: BaseModel) -> str:
    """The recipe with every default written out, as YAML that `load` reads back equal."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=Writer, sort_keys=False, allow_unicode=True, width=160)


def schema(root: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema 2020-12 of a recipe file, for editors.

    Nothing is required in it, because a file that extends another may leave anything out: `load` names what is missing.
    """
    drawn = _optional(root.model_json_schema(mode="validation"))
    drawn["properties"]["extends"] = {"type": "string", "description": "A recipe file, or the name of a shipped recipe, that this one changes."}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **drawn}


def shipped() -> dict[str, Path]:
    """The recipes that come with the package: name -> file. They lie in the package when installed, and beside `src` in a checkout."""
    package = Path(__file__).resolve().parent
    folders = (package / "recipes", package.parent.parent / "recipes")
    folder = next((folder for folder in folders if folder.is_dir()), None)
    assert folder is not None, "the package was built without its recipes"
    files = sorted([*folder.glob("*.yaml"), *folder.glob("studies/*.yaml")])
    found = {file.stem: file for file in files}
    assert len(found) == len(files), "two shipped recipes have one name"
    return found


def find(name: str | Path) -> Path:
    """The file at a path, or the shipped recipe of that name. Raises Refused for neither."""
    path = Path(name)
    if path.is_file():
        return path
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    raise Refused(
        Problem(
            code="recipe/not-found",
            place=str(name),
            found="no such file and no shipped recipe of this name",
            allowed="a path, or one of: " + ", ".join(known),
            fix=nearest(path.stem, list(known)),
        )
    )


def heading(path: Path) -> Heading:
    """The comment lines at the top of a recipe file."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").rstrip())
    size = next((line.removeprefix("size:").strip() for line in lines if line.startswith("size:")), "")
    return Heading(description=" ".join(line for line in lines if line and not line.startswith(("size:", "yaml-language-server:"))), size=size)


def _chain(path: Path, files: list[Path]) -> Node:
    """The file merged over what it extends."""
    trail = [*files, path]
    if path.resolve() in [file.resolve() for file in files]:
        raise Refused(Problem(code="recipe/extends-cycle", place=str(files[-1]), found=" -> ".join(map(str, trail)), allowed="a chain that ends"))
    files.append(path)
    node = read(_text(path), str(path))
    if not isinstance(node.value, dict):
        raise Refused(Problem(code="recipe/not-a-mapping", place=node.place, found=type(node.value).__name__, allowed="a mapping of keys to values"))
    if "extends" not in node.value:
        return node
    target = node.value["extends"]
    own = Node(value={key: value for key, value in node.value.items() if key != "extends"}, place=node.place)
    if not isinstance(target.value, str):
        raise Refused(Problem(code="recipe/extends", place=target.place, found=repr(plain(target)), allowed="a recipe file or the name of a shipped recipe"))
    return _merged(_chain(_extended(path, target), files), own)


def _extended(path: Path, target: Node) -> Path:
    """What `extends` names: a file beside the recipe, or a shipped recipe (so that a copied recipe still finds its base)."""
    name = str(target.value)
    beside = Path(os.path.normpath(path.parent / name))
    if beside.is_file():
        return beside
    known = shipped()
    if Path(name).name == name and name.removesuffix(".yaml") in known:
        return known[name.removesuffix(".yaml")]
    allowed = "a path relative to this file, or one of: " + ", ".join(known)
    raise Refused(Problem(code="recipe/extends", place=target.place, found=f"{name}: no such file", allowed=allowed, fix=nearest(Path(name).stem, list(known))))


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise Refused(Problem(code="recipe/too-large", place=str(path), found=f"{path.stat().st_size} bytes", allowed=f"at most {LARGEST}"))
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise Refused(Problem(code="recipe/encoding", place=str(path), found=f"byte {error.start} is not UTF-8", allowed="UTF-8 text")) from error


def _merged(base: Node, over: Node) -> Node:
    """Mappings are merged key by key; lists and scalars are replaced, and so is a mapping whose `kind` changes: its other keys belong to the old kind."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)) or _kind(over) not in (None, _kind(base)):
        return over
    value = dict(base.value)
    for key, inner in over.value.items():
        value[key] = _merged(value[key], inner) if key in value else inner
    return Node(value=value, place=over.place)


def _kind(node: Node) -> object:
    return node.value["kind"].value if isinstance(node.value, dict) and "kind" in node.value else None


def _overridden(node: Node, override: str, problems: list[Problem]) -> Node:
    """The tree with one `dotted.path=value` put in; what is wrong with the override joins `problems`."""
    path, equals, text = override.partition("=")
    place = f"override: {path}"
    steps = path.split(".")
    undecoded = any("\ud800" <= character <= "\udfff" for character in override)  # bytes of the command line that are no UTF-8
    if not equals or not all(steps) or len(steps) > DEEPEST or undecoded:
        shown = override[:80].encode(errors="backslashreplace").decode()
        allowed = f"KEY.KEY=VALUE in UTF-8, at most {DEEPEST} keys"
        problems.append(Problem(code="recipe/override", place=f"override: {shown}", found=shown, allowed=allowed))
        return node
    try:
        return _put(node, steps, read_value(text, place))
    except Refused as refused:
        problems.extend(refused.problems)
        return node


def _changed(node: Node, path: str, problems: list[Problem]) -> Node:
    """The tree with the changes of one row, each of which keeps the place where it was written; what is wrong with them joins `problems`."""
    changes = node
    for step in path.split("."):
        assert isinstance(changes.value, dict), "the recipe was read before its rows were asked for"
        changes = changes.value[step]
    for key, value in changes.value.items() if isinstance(changes.value, dict) else ():
        try:
            node = _put(node, key.split("."), value)
        except Refused as refused:
            problems.extend(refused.problems)
    return node


def _put(node: Node, path: Sequence[str], value: Node) -> Node:
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(node.value, list):
        index = _index(node.value, key, value.place)
        items = [_put(item, rest, value) if position == index else item for position, item in enumerate(node.value)]
        return Node(value=items, place=node.place)
    if isinstance(node.value, dict) or node.value is None:
        mapping = node.value or {}
        empty = Node(value={}, place=value.place)
        return Node(value={**mapping, key: _put(mapping.get(key, empty), rest, value)}, place=node.place)
    found = f"{key!r} inside {node.value!r} ({node.place})"
    raise Refused(Problem(code="recipe/override", place=value.place, found=found, allowed="a key of a mapping or an item of a list"))


def _index(items: list[Node], key: str, place: str) -> int:
    """The place in a list of its item number `key`, or of the item whose `name` is `key`."""
    names = [plain(item).get("name") if isinstance(item.value, dict) else None for item in items]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    allowed = ", ".join([f"0 to {len(items) - 1}" if items else "nothing: the list is empty", *(name for name in names if isinstance(name, str))])
    raise Refused(Problem(code="recipe/override", place=place, found=f"no item {key!r} in the list", allowed=allowed))


def _places(node: Node, path: str) -> dict[str, str]:
    inner = node.value.items() if isinstance(node.value, dict) else enumerate(node.value) if isinstance(node.value, list) else ()
    places = {path: node.place}
    for key, value in inner:
        places |= _places(value, f"{path}.{key}" if path else str(key))
    return places


def _optional(drawn: Any) -> Any:
    """A JSON schema without `required`. A property of that name keeps its place: its value is a mapping, not a list."""
    if isinstance(drawn, dict):
        return {key: _optional(value) for key, value in drawn.items() if not (key == "required" and isinstance(value, list))}
    return [_optional(item) for item in drawn] if isinstance(drawn, list) else drawn
