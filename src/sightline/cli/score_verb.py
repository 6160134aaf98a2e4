"""`sightline data score`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sightline.cli.output import write_json
from sightline.errors import Problem, Refused

SCORES = ("perplexity", "clip-score", "match-score", "by-score")
_FLAGS = ("prompt", "keep", "at_least", "at_most", "lowest", "highest", "column", "precision")
"""Arguments that are options of some scores; `column` is the option `score` of by-score."""


def score(parser: ArgumentParser) -> None:
    """Arguments of `data score`."""
    parser.add_argument("store", metavar="STORE", type=Path, help="folder of a store")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="folder of the store to write: the same rows, with scores and verdicts; pictures are linked, not copied"
    )
    parser.add_argument(
        "--score", choices=SCORES, required=True, help="what is measured; by-score asks nobody and chooses again by a score that the rows carry"
    )
    parser.add_argument("--with", dest="answered_by", metavar="MODEL", help="folder of a run, a model or a published checkpoint, or http://HOST:PORT/v1#MODEL")
    parser.add_argument(
        "--keep", type=float, metavar="SHARE", help="keep this share: the lowest perplexity, the highest of others; without it only the score is stored"
    )
    parser.add_argument("--at-least", type=float, metavar="X", help="keep rows from this score on")
    parser.add_argument("--at-most", type=float, metavar="X", help="by-score: keep rows up to this score")
    parser.add_argument("--lowest", type=float, metavar="SHARE", help="by-score: keep this share, the lowest first")
    parser.add_argument("--highest", type=float, metavar="SHARE", help="by-score: keep this share, the highest first")
    parser.add_argument("--column", metavar="NAME", help="by-score: name of the score, such as perplexity")
    parser.add_argument("--prompt", metavar="TEXT", help="perplexity: what is asked before each text; empty: the row's own questions (default: that of POINTS)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="compute type (default: float32)")
    parser.add_argument("--page", metavar="FILE", type=Path, help="write an HTML page with the lowest and the highest fifth side by side")
    parser.add_argument("--json", action="store_true", help="the counts as JSON")
    parser.set_defaults(action=_score)


def _score(arguments: Namespace) -> int:
    from pydantic import ValidationError

    from sightline.data.scoring import SCORING, ByScore, score_store
    from sightline.samples.store import Store

    kind = SCORING[arguments.score]
    said = _said(arguments, kind.model_fields)
    try:
        operator = kind(**said)
    except ValidationError as error:
        raise Refused(
            Problem(code="usage/score", place="data score", found=f"{'.'.join(map(str, one['loc'])) or arguments.score}: {one['msg']}", allowed="see --help")
            for one in error.errors()
        ) from None
    store = Store.open(arguments.store)
    answerer = None
    if not isinstance(operator, ByScore):
        from sightline.named_answerers import named_answerer

        answers = arguments.out.parent / f"{arguments.out.name}.answers.jsonl"
        answerer = named_answerer(operator.answered_by, answers=answers, precision=operator.precision)
    scored = score_store(store, operator, arguments.out, answerer)
    column = operator.score if isinstance(operator, ByScore) else operator.column
    if arguments.page is not None:
        from sightline.score_page import write_score_page

        write_score_page(scored.store, column, arguments.page, missing=scored.missing)
    _tell(arguments, column, scored)
    return 0


def _said(arguments: Namespace, options: Collection[str]) -> dict[str, Any]:
    """The options of the score. Raises Refused with every argument that does not belong to it, and with those that are missing."""
    problems = []

    def refuse(found: str, allowed: str, fix: str) -> None:
        problems.append(Problem(code="usage/score", place="data score", found=found, allowed=allowed, fix=fix))

    kind, said = arguments.score, {name: getattr(arguments, name) for name in _FLAGS if getattr(arguments, name) is not None}
    taken = [name for name in _FLAGS if _option(name) in options]
    for name in (name for name in said if name not in taken):
        refuse(f"{_flag(name)} with --score {kind}", ", ".join(map(_flag, taken)), f"leave {_flag(name)} out")
    needed, example = ("answered_by", "--with MODEL") if "answered_by" in options else ("column", "--column NAME")
    if getattr(arguments, needed) is None:
        refuse(f"--score {kind} without {example.split()[0]}", example, f"add {example}")
    if needed == "column" and arguments.answered_by is not None:
        refuse(f"--with, and {kind} asks nobody", example, "leave --with out")
    if arguments.out.resolve() == arguments.store.resolve():
        refuse("OUT is STORE", "another folder: scores are written beside it", "name another OUT")
    if problems:
        raise Refused(problems)
    if "prompt" in said:
        said["prompt"] = said["prompt"] or None
    return {_option(name): value for name, value in said.items()} | ({"with": arguments.answered_by} if needed == "answered_by" else {})


def _option(name: str) -> str:
    """The operator's name of an argument."""
    return "score" if name == "column" else name


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _tell(arguments: Namespace, column: str, scored: Any) -> None:
    counts = scored.store.counts()
    if arguments.json:
        missing = [{"id": name, "why": why} for name, why in scored.missing]
        write_json({"store": str(arguments.out), "id": scored.store.id, "score": column, "judged": scored.judged, "missing": missing, **counts})
        return
    print(f"{arguments.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    if scored.missing:
        print(
            f"{len(scored.missing)} rows have no {column}: "
            + "; ".join(f"{name} ({why})" for name, why in scored.missing[:5])
            + (" .." if len(scored.missing) > 5 else "")
        )
    if arguments.page is not None:
        print(f"look at {arguments.page}")
