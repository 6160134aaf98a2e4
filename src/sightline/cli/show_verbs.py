"""`sightline show tiles` and `sightline show model`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from sightline.cli.output import write_json, write_table
from sightline.errors import Problem, Refused


def tiles(parser: ArgumentParser) -> None:
    """Arguments of `show tiles`."""
    _recipe_arguments(parser, more="RECIPE|KEY=VALUE", said="further recipes, shown side by side, and dotted overrides, such as model.tiler.size=336")
    parser.add_argument("--size", nargs="+", action="extend", default=[], metavar="WxH", help="sizes of pictures in px, such as 1000x600")
    parser.add_argument("--sizes", type=Path, metavar="FILE", help='a JSON list of sizes, each [W, H] or "WxH"')
    parser.add_argument("--image", type=Path, metavar="FILE", help="a picture: its size stands first, and --out draws over it")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="draw crops, overlaps and reading order over the picture, or over grey at the first size")
    parser.add_argument("--model", metavar="NAME", help="the model of the recipe, where several see pictures")
    parser.set_defaults(action=_tiles)


def model(parser: ArgumentParser) -> None:
    """Arguments of `show model`."""
    _recipe_arguments(parser)
    parser.set_defaults(action=_model)


def _recipe_arguments(parser: ArgumentParser, more: str = "KEY=VALUE", said: str = "dotted overrides, such as model.tiler.size=336") -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar=more, help=said)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _tiles(arguments: Namespace) -> int:
    from sightline.samples.pictures import read_picture, rgb_pixels
    from sightline.tile_picture import SIZES, chosen_model, read_sizes, tile_rows, write_drawing

    if arguments.out and arguments.out.suffix.lower() != ".png":
        raise Refused(Problem(code="usage/not-a-png", place="--out", found=str(arguments.out), allowed="a file that ends in .png"))
    # --size takes as many words as follow it: overrides among them are told apart by their sign
    words = [*arguments.overrides, *(word for word in arguments.size if "=" in word)]
    overrides = [word for word in words if "=" in word]
    recipes = [arguments.recipe, *(word for word in words if "=" not in word)]
    sizes = read_sizes([word for word in arguments.size if "=" not in word], arguments.sizes)
    seen = [(recipe, chosen_model(recipe, overrides, arguments.model)) for recipe in recipes]
    picture = rgb_pixels(read_picture(arguments.image)) if arguments.image else None
    if picture is not None:
        sizes = [(picture.shape[1], picture.shape[0]), *sizes]
    rows = [(recipe, row) for recipe, model in seen for row in tile_rows(model, sizes or SIZES)]
    if arguments.json:
        write_json([({"recipe": recipe} if len(seen) > 1 else {}) | row.record() for recipe, row in rows])
    else:
        head = ("size", "grid", "resized", "crops", "tokens")
        write_table([("recipe", *head) if len(seen) > 1 else head, *((recipe, *row.cells()) if len(seen) > 1 else row.cells() for recipe, row in rows)])
    if arguments.out:
        write_drawing(arguments.out, seen, rows[0][1].size, picture)
    return 0


def _model(arguments: Namespace) -> int:
    from sightline.plan import plan

    result = plan(arguments.recipe, overrides=arguments.overrides, model_only=True)
    if arguments.json:
        write_json(result.record())
    else:
        print(result)
    return 0
