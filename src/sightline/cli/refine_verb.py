"""`sightline refine train`, `refine eval` and `refine apply`: boxes to masks."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.output import write_json, write_table

if TYPE_CHECKING:
    from sightline.refine.box_masks import Refiner
    from sightline.refine.objects import ObjectChoice


def train(parser: ArgumentParser) -> None:
    """Arguments of `refine train`."""
    parser.add_argument("config", metavar="CONFIG", help="YAML file: model, data, train (docs/refine.md)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of the file, such as train.steps=100")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run; given again, it goes on")
    parser.add_argument("--json", action="store_true", help="what was done as JSON")
    parser.set_defaults(action=_train)


def evaluate(parser: ArgumentParser) -> None:
    """Arguments of `refine eval`."""
    parser.add_argument("refiner", metavar="RUN", type=Path, help="run of `refine train`, a refiner, or the folder of a published segmenter (sam, seggpt)")
    parser.add_argument("--data", action="append", required=True, metavar="STORE", type=Path, help="store whose regions are masks; may be repeated")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        metavar="RUN",
        type=Path,
        help="another refiner on the same boxes, such as a plain segmentation model; may be repeated",
    )
    parser.add_argument("--prompt", choices=("rotated", "upright", "both"), default="rotated", help="boxes that are given (default: rotated)")
    parser.add_argument(
        "--jitter",
        type=_jitter,
        default=(0.1, 0.1, 5.0),
        metavar="CENTRE,SIZE,ANGLE",
        help="how far boxes are off the second time: shares of a side, degrees (default 0.1,0.1,5); 0,0,0: exact ones only",
    )
    parser.add_argument("--no-baselines", action="store_true", help="leave out the filled box and GrabCut")
    parser.add_argument("--limit", type=int, metavar="N", help="at most N objects, drawn evenly")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (default 0)")
    _choice(parser)
    parser.add_argument("--json", action="store_true", help="figures, labels and what was left out as JSON")
    parser.set_defaults(action=_evaluate)


def apply(parser: ArgumentParser) -> None:
    """Arguments of `refine apply`."""
    parser.add_argument("refiner", metavar="RUN", type=Path, help="run of `refine train`, a refiner, or the folder of a published segmenter")
    parser.add_argument("--data", required=True, metavar="STORE", type=Path, help="store with boxes among its annotations")
    parser.add_argument("--out", required=True, metavar="STORE", type=Path, help="folder of the store to write")
    parser.add_argument("--json", action="store_true", help="counts as JSON")
    parser.set_defaults(action=_apply)


def _choice(parser: ArgumentParser) -> None:
    parser.add_argument("--labels", metavar="LABEL,..", type=_words, help="objects of these labels only")
    parser.add_argument("--leave-out", metavar="LABEL,..", type=_words, default=(), help="labels that are no objects")
    parser.add_argument("--split", metavar="NAME", help="samples of this split only")
    parser.add_argument("--unlabelled", choices=("background", "ignore"), default="background", help="what pixels without any label are (default: background)")


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _jitter(text: str) -> tuple[float, float, float]:
    centre, size, angle = (float(word) for word in text.split(","))
    return centre, size, angle


def _train(arguments: Namespace) -> int:
    from sightline.refine_run import run_refine

    result = run_refine(arguments.config, arguments.out, arguments.overrides)
    if arguments.json:
        write_json({"out": result.out, "steps": result.steps, "skipped": result.skipped, "seconds": round(result.seconds, 1), **result.objects})
    else:
        print(f"{result.out / 'model'}: {'done before' if result.skipped else f'{result.steps} steps in {result.seconds:.0f} s'}")
    return 0


def _objects(arguments: Namespace) -> ObjectChoice:
    from sightline.refine.objects import ObjectChoice

    return ObjectChoice(labels=arguments.labels, leave_out=arguments.leave_out, split=arguments.split, unlabelled=arguments.unlabelled)


def _refiners(arguments: Namespace) -> dict[str, Refiner]:
    from sightline.refine.box_masks import FillBox
    from sightline.refine.grab_cut import GrabCut
    from sightline.refine.refiner_directory import open_refiner

    refiner = open_refiner(arguments.refiner)
    floors: dict[str, Any] = {} if arguments.no_baselines else {"fill-box": FillBox(), "grab-cut": GrabCut(refiner.bands)}
    return floors | {"refiner": refiner} | {str(path): open_refiner(path) for path in arguments.beside}


def _evaluate(arguments: Namespace) -> int:
    from sightline.refine.objects import Jitter, counts_by_label
    from sightline.refine.refine_scores import record_of, score_refiners, table_of
    from sightline.samples.store import Store

    centre, size, angle = arguments.jitter
    jitter = Jitter(centre=centre, size=size, angle=angle) if any(arguments.jitter) else None
    prompts = ("rotated", "upright") if arguments.prompt == "both" else (arguments.prompt,)
    stores = [Store.open(path) for path in arguments.data]
    scored, objects = score_refiners(
        _refiners(arguments), stores, _objects(arguments), prompts=prompts, jitter=jitter, most=arguments.limit, seed=arguments.seed
    )
    counts = counts_by_label(objects)
    if arguments.json:
        write_json({"scores": record_of(scored), **counts})
        return 0
    write_table(table_of(scored))
    print(
        f"\n{len(objects.found)} objects: {', '.join(f'{count} {label}' for label, count in counts['objects'].items())}; left out: {counts['left out'] or 'none'}"
    )
    return 0


def _apply(arguments: Namespace) -> int:
    from sightline.refine.refine_store import refine_store
    from sightline.refine.refiner_directory import open_refiner

    counts = refine_store(open_refiner(arguments.refiner), arguments.data, arguments.out)
    if arguments.json:
        write_json(counts)
    else:
        print(f"{arguments.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return 0
