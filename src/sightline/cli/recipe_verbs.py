"""`sightline recipe ls|show|copy|schema`."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from sightline.cli.output import write_json, write_table
from sightline.errors import Problem, Refused


def ls(parser: ArgumentParser) -> None:
    """Arguments of `recipe ls`."""
    parser.add_argument("--json", action="store_true", help="a list of {name, size, description, path}")
    parser.set_defaults(action=_ls)


def show(parser: ArgumentParser) -> None:
    """Arguments of `recipe show`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted overrides; they imply --resolved")
    parser.add_argument("--resolved", action="store_true", help="after `extends`, overrides and checks, with every default written out")
    parser.add_argument("--json", action="store_true", help="{name, path, text}, or the resolved recipe")
    parser.set_defaults(action=_show)


def copy(parser: ArgumentParser) -> None:
    """Arguments of `recipe copy`."""
    parser.add_argument("recipe", metavar="RECIPE", help="the name of a shipped recipe")
    parser.add_argument("file", metavar="FILE", type=Path, help="the file to write; it must not exist")
    parser.set_defaults(action=_copy)


def schema(parser: ArgumentParser) -> None:
    """Arguments of `recipe schema`."""
    parser.add_argument("--json", action="store_true", help="the schema is JSON with or without this flag")
    parser.set_defaults(action=_schema)


def _ls(arguments: Namespace) -> int:
    from sightline.recipe_source import heading, shipped

    headings = {name: (heading(path), path) for name, path in shipped().items()}
    if arguments.json:
        write_json([{"name": name, "size": head.size, "description": head.description, "path": str(path)} for name, (head, path) in headings.items()])
    else:
        write_table([("name", "size", "description"), *((name, head.size, _first_sentence(head.description)) for name, (head, _) in headings.items())])
    return 0


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]


def _show(arguments: Namespace) -> int:
    from sightline.recipe_source import dump, find, load

    path = find(arguments.recipe)
    if not (arguments.resolved or arguments.overrides):
        text = path.read_text(encoding="utf-8")
        if arguments.json:
            write_json({"name": path.stem, "path": str(path), "text": text})
        else:
            print(text, end="")
        return 0
    from sightline.recipe import Recipe

    recipe = load(path, Recipe, arguments.overrides).recipe
    if arguments.json:
        write_json(recipe.model_dump(mode="json"))
    else:
        print(dump(recipe), end="")
    return 0


def _copy(arguments: Namespace) -> int:
    from sightline.lineage import write_text
    from sightline.recipe_source import find

    path = find(arguments.recipe)
    if arguments.file.exists():
        raise Refused(Problem(code="usage/file-exists", place=str(arguments.file), found="a file that is already there", allowed="a new file"))
    write_text(arguments.file, path.read_text(encoding="utf-8"))
    print(arguments.file)
    return 0


def _schema(arguments: Namespace) -> int:
    from sightline.recipe import Recipe
    from sightline.recipe_source import schema

    print(json.dumps(schema(Recipe), indent=1))
    return 0
