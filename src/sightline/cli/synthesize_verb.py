"""`sightline data synthesize`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from sightline.cli.output import write_json
from sightline.errors import Problem, Refused


def synthesize(parser: ArgumentParser) -> None:
    """Arguments of `data synthesize`."""
    parser.add_argument("store", metavar="STORE", type=Path, help="folder of a store with boxes, masks, texts, captions or questions")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the store to write")
    parser.add_argument(
        "--kinds",
        metavar="KIND[=N],..",
        help="kinds of questions and how many of each a picture gets at most, such as grounding=8,counting=2,list (default: all)",
    )
    parser.add_argument("--languages", metavar="en,zh", help="one is drawn for each question (default: both)")
    parser.add_argument("--tile", type=int, metavar="PX", help="cut pictures into tiles of this side first")
    parser.add_argument("--gap", type=int, metavar="PX", help="overlap of tiles (default: an eighth of the side)")
    parser.add_argument("--crowded", type=int, metavar="N", help="cut tiles again in which a label has more objects than this")
    parser.add_argument("--labels", metavar="FILE", help="label table, CSV (default: the one that Sightline brings)")
    parser.add_argument("--phrasings", metavar="FILE", help="wordings, YAML (default: those that Sightline brings)")
    parser.add_argument(
        "--statistics",
        type=Path,
        metavar="FILE",
        help="how often labels occur: read where it is, else written; the same file keeps all rows when pictures are added",
    )
    parser.add_argument("--together", action="store_true", help="one row per picture instead of one per question")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other questions (default: 0)")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write an HTML page of 60 examples")
    parser.add_argument("--json", action="store_true", help="counts and coverage as JSON")
    parser.set_defaults(action=_synthesize)


def _synthesize(arguments: Namespace) -> int:
    from pydantic import ValidationError

    from sightline.data.synthesis.synthesize import Synthesize
    from sightline.data.tiling_annotations import Tile
    from sightline.synthesis_page import synthesize as made_by

    fields: dict[str, Any] = {"together": arguments.together}
    fields |= {name: getattr(arguments, name) for name in ("labels", "phrasings") if getattr(arguments, name)}
    fields |= {"languages": arguments.languages.split(",")} if arguments.languages else {}
    fields |= {"kinds": _kinds(arguments.kinds, Synthesize().kinds)} if arguments.kinds else {}
    try:
        config = Synthesize.model_validate(fields)
        tile = _tile(Tile, arguments)
    except ValidationError as error:
        raise Refused([_problem(fault) for fault in error.errors()]) from None
    result = made_by(arguments.store, arguments.out, config, tile=tile, statistics=arguments.statistics, seed=arguments.seed, page=arguments.page)
    if arguments.json:
        write_json(result.record())
    else:
        print(result)
    return 0


def _tile(kind: Any, arguments: Namespace) -> Any:
    if arguments.tile is None:
        return None
    gap = arguments.tile // 8 if arguments.gap is None else arguments.gap
    return kind(window=arguments.tile, gap=gap, crowded=arguments.crowded, smallest=min(128, max(arguments.tile, 16)))


def _kinds(text: str, usual: Any) -> dict[str, int]:
    """`grounding=8,list` as a table; a kind without a number gets its usual one, at least 1."""
    found: dict[str, int] = {}
    for word in text.split(","):
        kind, equals, number = word.partition("=")
        if equals and not number.isdecimal():
            raise Refused(Problem(code="usage/kinds", place="--kinds", found=word, allowed="KIND or KIND=N", fix="give a whole number"))
        found[kind] = int(number) if equals else max(usual.get(kind, 0), 1)
    return found


def _problem(fault: Any) -> Problem:
    place = ".".join(str(part) for part in fault["loc"])
    return Problem(code="usage/option", place=place or "data synthesize", found=str(fault["input"])[:120], allowed=str(fault["msg"]))
