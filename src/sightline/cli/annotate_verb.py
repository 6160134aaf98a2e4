"""`sightline annotate`: the objects of whole scenes, as files that a map program or a training set takes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.output import write_json
from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from sightline.refine.annotate import AnnotateConfig
    from sightline.refine.annotate_questions import Learnt

FORMS = ("geojson", "coco", "dota", "png")
_EDGE = 0.01
"""Share of a window's side within which a box touches its edge, at least 2 px."""


def annotate(parser: ArgumentParser) -> None:
    """Arguments of `annotate`."""
    parser.add_argument("scene", metavar="SCENE", type=Path, help="GeoTIFF of any size and bands, PNG or JPEG; or a folder of them")
    parser.add_argument("--model", required=True, metavar="RUN", help="folder of a run or of a model, or an endpoint: http://HOST:PORT/v1#MODEL")
    parser.add_argument("--labels", required=True, metavar="LABEL,..", type=_words, help="what to look for; all: every label that the run's data have")
    parser.add_argument("--out", required=True, metavar="OUT", type=Path, help="folder of the results; given again, it goes on")
    parser.add_argument("--to", default=("geojson",), metavar="FORM,..", type=_words, help=f"{', '.join(FORMS)}, or several (default geojson)")
    windows = parser.add_argument_group("windows")
    windows.add_argument("--window", type=int, metavar="PX", help="side of a window (default: that of the pictures that the model was trained on)")
    windows.add_argument("--overlap", type=int, metavar="PX", help="what neighbours share: more than the largest object (default: a quarter of a window)")
    windows.add_argument(
        "--scale", type=float, default=1.0, metavar="X", help="scale the scene by this first, so that a px is as large as in training (default 1)"
    )
    windows.add_argument("--nodata", type=float, default=0.99, metavar="SHARE", help="skip windows of which more than this holds no data (default 0.99)")
    windows.add_argument("--bands", nargs="+", default=[], metavar="BAND", help="names of all bands of the files, in order (default: as the files say)")
    asked = parser.add_argument_group("questions")
    asked.add_argument("--ask", metavar="TEXT", help="question with {label}, {labels} or {a_label} (default: the commonest of the run's data)")
    asked.add_argument("--presence", type=float, metavar="P", help="ask first whether a label is there, and where only from this probability on")
    asked.add_argument("--presence-ask", metavar="TEXT", help="that yes/no question (default: the commonest of the run's data)")
    asked.add_argument("--max-tokens", type=int, default=256, metavar="N", help="longest answer (default 256)")
    asked.add_argument("--grammar", action="store_true", help="answers are regions and nothing else: wants --presence, or labels that are in every window")
    asked.add_argument("--codec", metavar="NAME", help="how the model behind an endpoint writes regions, such as xyhwt-pad")
    asked.add_argument("--key-file", type=Path, metavar="FILE", help="file with the key of an endpoint")
    asked.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of a local model (default float32)")
    merging = parser.add_argument_group("merging")
    merging.add_argument("--iou", type=float, default=0.5, metavar="X", help="rotated IoU from which two boxes are one object (default 0.5)")
    merging.add_argument("--contained", type=float, default=0.6, metavar="X", help="share of the smaller box in the other, from which they are (default 0.6)")
    merging.add_argument(
        "--edge", type=float, metavar="PX", help="px within which a box touches its window's edge (default: a hundredth of a window, at least 2)"
    )
    results = parser.add_argument_group("results")
    results.add_argument("--refiner", type=Path, metavar="RUN", help="run of `refine train`, or a published segmenter: boxes become masks")
    results.add_argument("--crs", choices=("wgs84", "file"), default="wgs84", help="coordinates of GeoJSON: WGS 84 (default), or the system of the scene")
    results.add_argument("--quicklook", choices=("webp", "png"), default="webp", help="form of the picture to look at (default webp)")
    results.add_argument("--seams", action="store_true", help="draw the windows into it")
    results.add_argument("--json", action="store_true", help="the records of the scenes as JSON")
    parser.set_defaults(action=_annotate)


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def _annotate(arguments: Namespace) -> int:
    from sightline.data.captioning import is_endpoint

    unknown = [form for form in arguments.to if form not in FORMS]
    if unknown or not arguments.to:
        found = ", ".join(unknown) or "nothing"
        raise Refused(Problem(code="usage/form", place="--to", found=found, allowed=", ".join(FORMS), fix="--to geojson"))
    remote = is_endpoint(arguments.model)
    _endpoint_can(arguments, remote)
    from sightline.evaluate.comparing import ModelAnswerer
    from sightline.named_answerers import EndpointLimits, answerer_id, named_answerer
    from sightline.refine.annotate_folder import Wanted, annotate_into
    from sightline.refine.annotate_questions import Learnt, learnt_by, run_of
    from sightline.refine.refiner_directory import open_refiner

    run = None if remote else run_of(Path(arguments.model))
    learnt = learnt_by(run) if run is not None else Learnt()
    limits = EndpointLimits(key_file=arguments.key_file)
    answerer = named_answerer(arguments.model, answers=arguments.out / "answers.jsonl", precision=arguments.precision, limits=limits)
    local = answerer.answerer if isinstance(answerer.answerer, ModelAnswerer) else None
    config = _config(arguments, learnt, local)
    records = annotate_into(
        arguments.scene,
        arguments.out,
        answerer.answerer,
        answerer.file,
        config,
        wanted=Wanted(forms=tuple(dict.fromkeys(arguments.to)), crs=arguments.crs, quicklook=arguments.quicklook, seams=arguments.seams),
        model={"id": answerer_id(arguments.model), "weights": local.weights if local else arguments.model},
        bands=arguments.bands,
        codec=_codec(arguments.codec),
        refiner=open_refiner(arguments.refiner) if arguments.refiner else None,
        forget=local.forget if local else None,
    )
    _tell(records, arguments)
    return 0


def _endpoint_can(arguments: Namespace, remote: bool) -> None:
    """Refused before anything is loaded: what an endpoint is not able to, and what only an endpoint needs."""
    problems = []
    for flag, given, allowed, fix in (
        ("--codec", remote and arguments.codec is None, "the codec in which its model writes regions", "--codec xyhwt-pad"),
        ("--window", remote and arguments.window is None, "the side of the pictures that its model was trained on", "--window 512"),
        ("--presence", remote and arguments.presence is not None, "a model of this machine: an endpoint gives no likelihoods", "leave it out"),
        ("--grammar", remote and arguments.grammar, "a model of this machine", "leave it out"),
        ("--codec", not remote and arguments.codec is not None, "an endpoint: a model of this machine knows its own", "leave it out"),
    ):
        if given:
            problems.append(Problem(code="usage/annotate", place=flag, found=f"--model {arguments.model.partition('#')[0]}", allowed=allowed, fix=fix))
    if problems:
        raise Refused(problems)


def _codec(name: str | None) -> Any:
    if name is None:
        return None
    from pydantic import ValidationError

    from sightline.samples.codec_table import CODEC, PRESETS, codec_said

    try:
        return CODEC.parse(codec_said(name))
    except ValidationError:
        allowed = ", ".join([*PRESETS, *sorted(CODEC.table())])
        raise Refused(Problem(code="usage/codec", place="--codec", found=name, allowed=allowed, fix="--codec xyhwt-pad")) from None


def _config(arguments: Namespace, learnt: Learnt, local: Any) -> AnnotateConfig:
    """The settings: what is not said is what the run's data say, else the defaults."""
    from pydantic import ValidationError

    from sightline.refine.annotate import AnnotateConfig
    from sightline.refine.annotate_questions import ASK, PRESENCE, checked_labels, checked_wording
    from sightline.refine.scene_merging import MergeConfig

    window = arguments.window or learnt.side or getattr(local.processor.config.tiler, "size", None)
    if not isinstance(window, int):
        fix = "--window 512"
        raise Refused(Problem(code="usage/annotate", place="--window", found="a model whose tiler takes pictures of any size", allowed="px", fix=fix))
    try:
        return AnnotateConfig(
            labels=checked_labels(arguments.labels, learnt),
            window=window,
            overlap=window // 4 if arguments.overlap is None else arguments.overlap,
            rate=arguments.scale,
            ask=checked_wording(arguments.ask or learnt.ask or ASK),
            words=dict(learnt.words),
            presence=arguments.presence,
            presence_ask=checked_wording(arguments.presence_ask or learnt.presence or PRESENCE),
            max_tokens=arguments.max_tokens,
            grammar=arguments.grammar,
            nodata=arguments.nodata,
            merge=MergeConfig(iou=arguments.iou, contained=arguments.contained, edge=arguments.edge or max(2.0, _EDGE * window / arguments.scale)),
        )
    except ValidationError as error:
        problems = [
            Problem(code="usage/annotate", place=f"--{'.'.join(map(str, one['loc'])) or 'overlap'}", found=str(one["input"])[:80], allowed=one["msg"])
            for one in error.errors()
        ]
        raise Refused(problems) from None


def _tell(records: list[dict[str, Any]], arguments: Namespace) -> None:
    if arguments.json:
        write_json(records)
        return
    for record in records:
        counts = record["counts"]
        named = ", ".join(f"{count} {label}" for label, count in counts["labels"].items()) or "nothing"
        print(f"{record['scene']['file']}: {named}")
        dropped = ", ".join(f"{count} {name}" for name, count in counts["merging"].items())
        print(f"  {counts['windows']} windows, {counts.get('windows without data, skipped', 0)} without data; {counts['boxes named']} boxes named; {dropped}")
        faults = sum(counts["format errors"].values())
        print(
            f"  {faults} format errors, {counts.get('answers: unreadable', 0)} answers that say neither regions nor nothing; {counts['fragments without the rest']} fragments without the rest"
        )
        print(f"  {', '.join(str(arguments.out / name) for name in record['files'])}")
