"""Writes the tables of all recipe keys into docs/recipes.md, from the JSON schema: `python tools/recipe_keys.py`. A test fails when the page is behind."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipes.md"
BEGIN, END = "<!-- keys: written by tools/recipe_keys.py -->\n", "<!-- end of keys -->\n"
_WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "object": "mapping", "array": "list", "null": "nothing"}
_BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
_LONGEST_DEFAULT = 60

Schema = dict[str, Any]


def drawn() -> Schema:
    """The schema of recipes with `extends`, and with the readers' options among its definitions."""
    from sightline.data.reading import READER
    from sightline.recipe import Recipe
    from sightline.recipe_source import schema

    whole = Recipe.model_json_schema()
    whole["properties"]["extends"] = schema(Recipe)["properties"]["extends"]
    readers = {kind: cls.model_json_schema() for kind, cls in sorted(READER.table().items())}
    form = whole["$defs"]["ReadConfig"]["properties"]["format"]
    form |= {"enum": ["auto", *readers], "anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in readers]}
    return {**whole, "$defs": {**whole["$defs"], **readers}}


def references(schema: Any) -> Iterator[tuple[str, str]]:
    """(what stands between, definition) of every definition that a value of this schema may hold: `[]` for items of a list, `.NAME` for values of a mapping."""
    if "$ref" in schema:
        yield "", schema["$ref"].rpartition("/")[2]
    for option in schema.get("anyOf", ()):
        yield from references(option)
    for key, step in (("items", "[]"), ("additionalProperties", ".NAME")):
        if isinstance(schema.get(key), dict):
            yield from ((step + between, name) for between, name in references(schema[key]))


def sections(whole: Schema) -> Iterator[tuple[str, Schema]]:
    """(path, definition) of every table, those nearer to the top of a recipe first. A definition that stands in several places is shown once, at the first."""
    waiting, seen = deque([("", whole)]), set[str]()
    while waiting:
        path, section = waiting.popleft()
        yield path, section
        for key, below in section.get("properties", {}).items():
            for between, name in references(below):
                if name not in seen:
                    seen.add(name)
                    waiting.append(((f"{path}.{key}" if path else key) + between, whole["$defs"][name]))


def said(schema: Schema) -> str:
    """What a value may be, in words."""
    if "$ref" in schema:
        return "mapping"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if "anyOf" in schema:
        kinds = schema.get("properties", {}).get("kind", {}).get("enum")
        if kinds:
            return f"mapping, kind {', '.join(f'`{kind}`' for kind in kinds)}"
        return " or ".join(dict.fromkeys(said(option) for option in schema["anyOf"] if option.get("type") != "null"))
    word = _WORDS.get(schema.get("type", ""), "anything")
    if isinstance(schema.get("items"), dict):
        word = f"list of {said(schema['items'])}"
    elif isinstance(schema.get("additionalProperties"), dict):
        word = f"mapping of {said(schema['additionalProperties'])}"
    bounds = [text.format(f"{schema[bound]:g}") for bound, text in _BOUNDS.items() if bound in schema]
    return " ".join([word, *bounds])


def default(schema: Schema, required: bool) -> str:
    """What stands there when the key is left out."""
    if "default" not in schema:
        return "**needed**" if required else "none"
    text = "none" if schema["default"] is None else f"`{json.dumps(schema['default'], ensure_ascii=False)}`"
    return text if len(text) <= _LONGEST_DEFAULT else "see `recipe show --resolved`"


def tables(whole: Schema) -> str:
    """All tables as Markdown."""
    lines: list[str] = []
    for path, section in sections(whole):
        properties = section.get("properties", {})
        kind = properties.get("kind", {}).get("const")
        lines += [f"### {_title(path, kind)}", "", " ".join(section.get("description", "").split()), ""]
        rows = [(key, below) for key, below in properties.items() if key != "kind"]
        lines += ["| key | value | default | meaning |", "| --- | --- | --- | --- |"] if rows else ["No keys besides `kind`.", ""]
        for key, below in rows:
            cells = (f"`{key}`", said(below), default(below, key in section.get("required", ())), " ".join(below.get("description", "").split()))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines += [""] if rows else []
    return "\n".join(lines)


def _title(path: str, kind: str | None) -> str:
    holder, _, last = path.rpartition(".")
    if kind is None:
        return f"`{path}`" if path else "The whole recipe"
    return f"`{holder}`, format `{kind}`" if last == "format" else f"`{path}`, kind `{kind}`"


def page(text: str) -> str:
    """The text of the page with tables of today."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin and end, f"{PAGE.name} has lost its marks"
    return head + BEGIN + "\n" + tables(drawn()) + END + tail


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
