"""`sightline eval make-probe`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from sightline.cli.output import write_json, write_table
from sightline.errors import Problem, Refused


def make_probe(parser: ArgumentParser) -> None:
    """Arguments of `eval make-probe`."""
    parser.add_argument(
        "--data", metavar="SRC", nargs="+", action="extend", required=True, type=Path, help="stores, or sets in a layout that is read, with regions"
    )
    parser.add_argument("--out", metavar="FOLDER", required=True, type=Path, help="folder to write: MME's layout, questions.jsonl and probe.json")
    parser.add_argument("--train", metavar="SRC", nargs="+", action="extend", default=[], type=Path, help="what is trained on: its pictures are left out")
    parser.add_argument("--kinds", metavar="KIND,..", default="existence,count,position,color", help="kinds of question (default: all four)")
    parser.add_argument("--most", type=int, default=100, metavar="N", help="pictures of each kind at most (default: 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other pairs (default: 0)")
    parser.add_argument("--json", action="store_true", help="the content of probe.json")
    parser.set_defaults(action=_make_probe)


def _make_probe(arguments: Namespace) -> int:
    from sightline.evaluate import probe_making
    from sightline.evaluate.probe_pairs import KINDS, Kind

    kinds: list[Kind] = [kind for kind in KINDS if kind in arguments.kinds.split(",")]
    unknown = sorted(set(arguments.kinds.split(",")) - set(KINDS))
    if unknown or arguments.most < 1:
        found = f"--kinds {', '.join(unknown)}" if unknown else f"--most {arguments.most}"
        allowed = ", ".join(KINDS) if unknown else "1 or more"
        raise Refused(Problem(code="usage/make-probe", place="eval make-probe", found=found, allowed=allowed, fix="correct it"))
    report = probe_making.make_probe(arguments.data, arguments.out, arguments.train, kinds, arguments.most, arguments.seed)
    if arguments.json:
        write_json(report)
        return 0
    figures = ("majority", "same words", "bag of words")
    rows = [(kind, told["pictures"], told["questions"], *_shares(told["leaks"], figures)) for kind, told in report["kinds"].items()]
    rows.append(("all", "", sum(row[2] for row in rows), *_shares(report["leaks"], figures)))
    write_table([("", "pictures", "questions", *figures), *rows])
    left = ", ".join(f"{count} with {reason}" if reason.startswith("same") else f"{count} {reason}" for reason, count in report["left out"].items() if count)
    print(f"{report['pictures']} pictures{f', left out: {left}' if left else ''}\nsightline eval --benchmark mme --path {arguments.out} --model MODEL")
    return 0


def _shares(leaks: dict[str, dict[str, float]], names: tuple[str, ...]) -> list[str]:
    return [f"{leaks[name]['value']:.3f}" if leaks else "" for name in names]
