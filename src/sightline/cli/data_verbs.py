"""`sightline data read` and `sightline data show`."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from sightline.cli.output import write_json


def read(parser: ArgumentParser) -> None:
    """Arguments of `data read`."""
    parser.add_argument("source", metavar="SRC", type=Path, help="file or folder in a published format")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the store to write")
    parser.add_argument(
        "--format", default="auto", metavar="NAME", help="the format's name; `auto` recognises it, joins formats of one folder and says why (default)"
    )
    parser.add_argument(
        "--on-problem",
        choices=("refuse", "quarantine"),
        default="refuse",
        help="refuse: list all problems, write nothing (default); quarantine: keep the good rows, count and list the rest",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="stop after N rows")
    engines(parser)
    parser.add_argument("--json", action="store_true", help="the formats and counts as JSON")
    parser.set_defaults(action=_read)


def engines(parser: ArgumentParser) -> None:
    """Arguments of who computes."""
    parser.add_argument("--workers", type=_positive, metavar="N", help="processes; by default one per core that may be used")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="processes of this machine (default), or a Ray cluster; the result is the same"
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="a running cluster (`auto`, HOST:PORT); without it `--engine ray` starts one here")
    parser.add_argument("--fresh", action="store_true", help="do all rows again; otherwise a killed or refused pass goes on where it stopped")


def show(parser: ArgumentParser) -> None:
    """Arguments of `data show`."""
    parser.add_argument("store", metavar="STORE", type=Path, help="folder of a store")
    parser.add_argument("--recipe", metavar="RECIPE", help="show prompts, tokens and crops as this recipe's model gets them")
    parser.add_argument("--model", metavar="NAME", help="the model of the recipe, where it has several")
    parser.add_argument("--page", metavar="FILE", type=Path, help="write an HTML page with the pictures")
    parser.add_argument("--json", action="store_true", help="the samples as JSON")
    parser.set_defaults(action=_show)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _read(arguments: Namespace) -> int:
    from sightline.data.engine import engine_of
    from sightline.data.reading import choose, read_sets

    engine = engine_of(arguments.engine, arguments.workers, arguments.ray_address)
    chosen = choose(arguments.source, arguments.format)
    if not arguments.json:
        print(chosen)
    store = read_sets(chosen.sources, arguments.out, on_problem=arguments.on_problem, limit=arguments.limit, engine=engine, fresh=arguments.fresh)
    counts = store.counts()
    if arguments.json:
        write_json({"store": str(arguments.out), "id": store.id, **chosen.record(), **counts})
    else:
        print(f"{arguments.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0


def _show(arguments: Namespace) -> int:
    from sightline.preview import show

    result = show(arguments.store, recipe=arguments.recipe, model=arguments.model, page=arguments.page)
    if arguments.json:
        write_json(result.record())
    else:
        print(result)
    return 0
