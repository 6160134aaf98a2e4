"""`sightline canary`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

from sightline.cli.output import write_json, write_table
from sightline.errors import Problem, Refused


def canary(parser: ArgumentParser) -> None:
    """Arguments of `canary`."""
    parser.add_argument("first", metavar="RUN_A", help="what is served now: folder of a run, a model or a published checkpoint, or http://HOST:PORT/v1#MODEL")
    parser.add_argument("other", metavar="RUN_B", help="what is to be served in its place")
    traffic = parser.add_mutually_exclusive_group(required=True)
    traffic.add_argument(
        "--requests", type=Path, metavar="FILE", help="chat requests, one JSON object a line, as OpenAI's batch files have them; `right` beside the body scores"
    )
    traffic.add_argument("--from-log", type=Path, metavar="FILE", help="the log of `sightline serve --canary .. --canary-log FILE --canary-texts`")
    parser.add_argument(
        "--rule", default="loose", metavar="RULE", help="how answers are held against right ones: exact, loose, relaxed, anls, vqa, contains (default: loose)"
    )
    parser.add_argument(
        "--max-worse", type=float, default=0.02, metavar="SHARE", help="how much less the other may score, answer, or keep to its format (default: 0.02)"
    )
    parser.add_argument(
        "--max-differ", type=float, metavar="SHARE", help="share of answers that may differ (default: any where right answers are known, else --max-worse)"
    )
    parser.add_argument("--max-slower", type=float, metavar="RATIO", help="mean time of an answer over the first's, such as 1.2 (default: any)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N requests")
    parser.add_argument("--concurrency", type=int, default=1, metavar="N", help="requests at a time; one tells times best (default: 1)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="key of the servers, where they are addresses")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of folders (default: float32)")
    parser.add_argument("--no-verify", action="store_true", help="do not check first that the models of folders answer as they did when they were made")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write canary.html, canary.md and canary.json there")
    parser.add_argument("--markdown", action="store_true", help="print the report as Markdown")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(action=_canary)


def _canary(arguments: Namespace) -> int:
    _check(arguments)
    from sightline.canary import Limits, ask_both, compare, read_requests, side
    from sightline.canary_page import markdown, rows, write

    asked = read_requests(arguments.requests or arguments.from_log, arguments.rule)[: arguments.limit]
    key = _key(arguments.key_file) if arguments.key_file is not None else ""
    with (
        side(arguments.first, key, arguments.dtype, not arguments.no_verify) as first,
        side(arguments.other, key, arguments.dtype, not arguments.no_verify) as other,
    ):
        pairs = ask_both(asked, (first, other), arguments.concurrency)
    limits = Limits(max_worse=arguments.max_worse, max_differ=arguments.max_differ, max_slower=arguments.max_slower)
    found = compare((arguments.first, arguments.other), pairs, limits)
    page = write(found, arguments.out) if arguments.out is not None else None
    if arguments.json:
        write_json(found.record())
    elif arguments.markdown:
        print(markdown(found), end="")
    else:
        write_table([("", "first", "other", "difference", "95 % interval", "allowed", ""), *((*row[:-1], row[-1] or "") for row in rows(found))])
        counts = found.outcomes
        print(
            f"{found.verdict}: of {len(pairs):,} requests {counts['equal']:,} answered alike, {counts['differ']:,} differently, {counts['failed']:,} not by both"
        )
    if page is not None:
        print(f"look at {page}", file=sys.stderr)
    return 0 if found.verdict == "no worse" else 1


def _check(arguments: Namespace) -> None:
    shares = [(name, getattr(arguments, name.replace("-", "_"))) for name in ("max-worse", "max-differ")]
    wrong = [f"--{name} {value}" for name, value in shares if value is not None and not 0 <= value <= 1]
    wrong += [f"--max-slower {arguments.max_slower}"] if arguments.max_slower is not None and arguments.max_slower <= 0 else []
    wrong += [f"--{name} {value}" for name in ("limit", "concurrency") if (value := getattr(arguments, name)) is not None and value < 1]
    if wrong:
        raise Refused(
            Problem(
                code="usage/canary", place="canary", found=", ".join(wrong), allowed="shares 0..1, a ratio above 0, whole numbers from 1", fix="correct them"
            )
        )
    absent = [path for path in (arguments.requests, arguments.from_log, arguments.key_file) if path is not None and not path.is_file()]
    if absent:
        raise Refused(
            Problem(code="usage/no-file", place="canary", found=f"no file {path}", allowed="a file that is there", fix="correct the path") for path in absent
        )
    from sightline.evaluate.short_answers import RULES

    if arguments.rule not in RULES:
        raise Refused(Problem(code="usage/canary", place="--rule", found=arguments.rule, allowed=", ".join(RULES), fix="name one of them"))


def _key(file: Path) -> str:
    return file.read_text(encoding="utf-8").strip()
