"""`sightline soup average`, `soup maximum` and `soup greedy`: models mixed by hand, chosen on a store and reported on another."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.output import write_json

if TYPE_CHECKING:
    from sightline.run_soups import Evaluation


def average(parser: ArgumentParser) -> None:
    """Arguments of `soup average`."""
    _arguments(parser, "average")
    parser.add_argument("--weights", type=_numbers, metavar="W,W,..", help="a weight for each model, in their order; default: all alike")


def maximum(parser: ArgumentParser) -> None:
    """Arguments of `soup maximum`."""
    _arguments(parser, "maximum")


def greedy(parser: ArgumentParser) -> None:
    """Arguments of `soup greedy`."""
    _arguments(parser, "greedy")
    parser.add_argument("--by-part", action="store_true", help="choose models for each of --parts apart")
    parser.add_argument(
        "--accept",
        choices=["better", "no-worse", "surely-better"],
        default="better",
        help="a model stays when the score rises (default), does not fall, or rises by more than chance (paired 95 %% interval above 0)",
    )


def _arguments(parser: ArgumentParser, method: str) -> None:
    chooses = method != "average"
    parser.add_argument("models", nargs="+", metavar="MODEL", help="run, model directory, checkpoint folder, or adapter folder")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="DIR/model is the soup, DIR/table.md and DIR/table.json compare it; given again, it goes on"
    )
    parser.add_argument(
        "--select-on", action="append", default=[], required=chooses, metavar="STORE", help="store of samples whose score decides; may be repeated"
    )
    parser.add_argument(
        "--report-on", action="append", default=[], metavar="STORE", help="store of samples that decide nothing, for the table; may be repeated"
    )
    parser.add_argument("--benchmark", choices=["questions", "captions"], default="questions", help="how samples are asked and scored")
    parser.add_argument("--limit", type=int, metavar="N", help="ask about the first N samples of each store")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16", help="compute type of answering")
    parser.add_argument("--parts", type=lambda text: tuple(text.split(",")), default=(), metavar="PART,..", help="mix these parts only; --base gives all else")
    parser.add_argument("--base", metavar="MODEL", help="the model that gives what is not mixed, and onto which adapters alone are merged")
    parser.add_argument("--allow-test-selection", action="store_true", help="choose by what is reported, which the table and the lineage then say")
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    parser.set_defaults(action=partial(_soup, method))


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _soup(method: str, arguments: Namespace) -> int:
    from sightline.errors import Problem, Refused
    from sightline.lineage import Lineage, sha256_json
    from sightline.run_soups import Kitchen, cook
    from sightline.soup_recipe import SoupConfig
    from sightline.train.soup import open_ingredient

    names: list[str] = arguments.models
    weights = getattr(arguments, "weights", None)
    problems = []
    if len(set(names)) < len(names):
        problems.append(Problem(code="usage/soup", place="MODEL", found="a model named twice", allowed="different models", fix="give it a weight: --weights"))
    if weights is not None and (len(weights) != len(names) or min(weights) <= 0):
        problems.append(
            Problem(
                code="usage/soup", place="--weights", found=f"{weights} for {len(names)} models", allowed="a number above 0 for each", fix="--weights 1,2,1"
            )
        )
    if arguments.parts and not arguments.base:
        problems.append(Problem(code="usage/soup", place="--parts", found="parts without a base", allowed="the model that gives all else", fix="--base MODEL"))
    if getattr(arguments, "by_part", False) and not arguments.parts:
        problems.append(Problem(code="usage/soup", place="--by-part", found="no --parts", allowed="parts to choose for", fix="--parts PART,PART"))
    if problems:
        raise Refused(problems)
    base = open_ingredient(Path(arguments.base)) if arguments.base else None
    ingredients = {name: open_ingredient(Path(name), base) for name in names}
    asked = {said: _evaluation(said, arguments) for said in dict.fromkeys([*arguments.select_on, *arguments.report_on])}
    config = SoupConfig(
        method=method,  # pyright: ignore[reportArgumentType]
        ingredients=tuple(names),
        weights=dict(zip(names, weights)) if weights is not None else {},
        parts=arguments.parts,
        base=arguments.base if arguments.parts else None,
        by_part=getattr(arguments, "by_part", False),
        select_on=tuple(one.name for said, one in asked.items() if said in arguments.select_on),
        accept=getattr(arguments, "accept", "better"),
        allow_test_selection=arguments.allow_test_selection,
    )
    kitchen = Kitchen(
        ingredients={**ingredients, **({arguments.base: base} if base is not None and arguments.parts else {})},
        folder=arguments.out,
        selection=[asked[said] for said in dict.fromkeys(arguments.select_on)],
        report=[asked[said] for said in dict.fromkeys(arguments.report_on)],
    )
    parents = {name: Lineage.read(one.folder).id for name, one in ingredients.items() if (one.folder / "lineage.json").is_file()}
    fingerprint = sha256_json([config.model_dump(mode="json"), kitchen.ids, sorted(one.id for one in asked.values())])
    table = cook(arguments.out.name, config, names, kitchen, arguments.out / "model", fingerprint, parents)
    if arguments.json:
        write_json({**table.record(), "model": str(arguments.out / "model")})
    else:
        print(table.markdown() if table.lines else f"{' + '.join(names)}: {arguments.out / 'model'}")
    return 0


def _evaluation(store: str, arguments: Namespace) -> Evaluation:
    from sightline.evaluate.benchmarks import Captions, Questions
    from sightline.run_soups import evaluation_of
    from sightline.samples.store import Store

    said: dict[str, Any] = {"data": store, "limit": arguments.limit, **({"max_tokens": arguments.max_tokens} if arguments.max_tokens else {})}
    config = Questions(**said) if arguments.benchmark == "questions" else Captions(**said)
    opened = Store.open(Path(store))
    benchmark = config.build(opened[int(row)] for row in opened.kept)
    told = [config.model_dump(mode="json", exclude={"data"}), opened.id]
    name = Path(store).name if sum(Path(other).name == Path(store).name for other in {*arguments.select_on, *arguments.report_on}) == 1 else store
    return evaluation_of(name, benchmark, told, arguments.out / "answers" / f"{opened.id[:12]}.jsonl", arguments.precision)
