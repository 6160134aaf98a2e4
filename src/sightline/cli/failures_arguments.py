"""`sightline report RUN --failures` and `--verdicts`: arguments, and what they do."""

from __future__ import annotations

import sys
import webbrowser
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.output import write_json, write_table
from sightline.errors import Problem, Refused, nearest

if TYPE_CHECKING:
    from sightline.evaluate.failures.evidence import Evidence
    from sightline.evaluate.metrics import Value
    from sightline.failure_report import FailureReport
    from sightline.kinds import Config
    from sightline.samples.store import Store
    from sightline.training_rows import TrainingRows

_ONLY = ("against", "ask", "data", "text", "generic", "domain", "labels", "set", "markdown", "review", "model", "seed", "limit", "wording")
"""Arguments that only --failures takes."""


def add_failures(parser: ArgumentParser) -> None:
    """Arguments of the failure report, in a group of their own."""
    group = parser.add_argument_group("what goes wrong (--failures)")
    group.add_argument(
        "--failures",
        action="store_true",
        help="tell what goes wrong in the answers of a run: RUN/failures/failures.html, .json and .md; exit code 1 where something is found",
    )
    group.add_argument("--against", type=Path, metavar="OTHER", help="another run that was asked the same questions, side by side")
    group.add_argument("--markdown", action="store_true", help="print the report as Markdown")
    group.add_argument("--ask", action="store_true", help="ask the run's model too: six questions about the labels of each picture, and what --data holds")
    group.add_argument(
        "--data",
        action="append",
        type=Path,
        metavar="STORE",
        help="with --ask: questions to ask, with right answers; boxes are allowed; a folder, or data of the run",
    )
    group.add_argument("--limit", type=int, metavar="N", help="with --ask: the first N rows of each store")
    group.add_argument("--model", metavar="MODEL", help="with --ask: a stage's folder, a model directory or an endpoint in place of the run's last model")
    group.add_argument("--wording", metavar="TEXT", help="with --ask: how labels are asked for; {label} and {a_label} stand for them")
    group.add_argument("--text", type=Path, metavar="STORE", help="held-out text without pictures, scored by the models of all stages")
    group.add_argument("--generic", action="append", metavar="EVALUATION", help="an evaluation on general pictures")
    group.add_argument("--domain", action="append", metavar="EVALUATION", help="an evaluation on pictures of the domain")
    group.add_argument("--labels", type=Path, metavar="CSV", help="label table; default: the one that Sightline brings")
    group.add_argument("--set", action="append", metavar="KIND.FIELD=VALUE", help="another limit, such as hallucination.agreed=0.1")
    group.add_argument(
        "--review", type=int, metavar="N", help="write a page on which people grade N answers without knowing whose they are: RUN/failures/review.html"
    )
    group.add_argument("--seed", type=int, metavar="SEED", help="order of the review, other pictures and probes (default: 0)")
    group.add_argument("--verdicts", type=Path, metavar="FILE", help="what the review page exported: shares of good answers and faults, by run")
    group.add_argument(
        "--corrections", type=Path, metavar="STORE", help="with --verdicts: write failed questions with their right answers into a store, to be looked at"
    )
    group.add_argument("--rows", type=Path, metavar="FOLDER", help="with --corrections: write them in a published layout too, as rows that a recipe reads")
    group.add_argument("--layout", metavar="FORMAT", help="with --rows: its layout (default: openai-messages; which hold boxes: docs/failures.md)")


def wants_failures(arguments: Namespace) -> bool:
    """Whether the failure report or a review is asked for. Refused where arguments of it stand without it, or beside the page of a run that is going on."""
    asked = arguments.failures or arguments.verdicts is not None
    given = [f"--{name}" for name in _ONLY if getattr(arguments, name) not in (None, False)]
    wrong = ""
    if arguments.corrections is not None and arguments.verdicts is None:
        wrong = "--corrections without --verdicts"
    elif arguments.rows is not None and arguments.corrections is None:
        wrong = "--rows without --corrections"
    elif arguments.layout is not None and arguments.rows is None:
        wrong = "--layout without --rows"
    elif given and not arguments.failures:
        wrong = f"{', '.join(given)} without --failures"
    elif asked and arguments.watch:
        wrong = "--watch beside --failures or --verdicts"
    elif arguments.failures and arguments.verdicts is not None:
        wrong = "--failures beside --verdicts"
    elif not arguments.ask and any(getattr(arguments, name) is not None for name in ("data", "model", "limit", "wording")):
        wrong = "--data, --limit, --model or --wording without --ask"
    elif arguments.review is not None and arguments.review < 1:
        wrong = f"--review {arguments.review}"
    if wrong:
        raise Refused(
            Problem(code="usage/report", place="report", found=wrong, allowed="see sightline report --help", fix="leave it out, or add what it belongs to")
        )
    return asked


def report_failures(arguments: Namespace) -> int:
    """Gather, examine, write and print; 1 where a failure was found."""
    from sightline.failure_page import markdown, write
    from sightline.failure_report import FOLDER, SHORTEST, report

    folder, configs = arguments.run / FOLDER, _configs(arguments.set or ())
    evidence, rows = _evidence(arguments, arguments.run)
    against = (arguments.against, _evidence(arguments, arguments.against)[0]) if arguments.against is not None else None
    made = report(arguments.run, evidence, rows, configs, against)
    page = write(made, folder)
    review = _review(arguments, made, against, folder) if arguments.review is not None else None
    if arguments.json:
        write_json({**made.record(), "page": str(page), "review": str(review) if review else None})
    elif arguments.markdown:
        print(markdown(made), end="")
    else:
        write_table([(one.code, one.state, f"{100 * one.rate.value:.1f} %" if one.rate.n else "", one.title) for one in made.failures if one.state in SHORTEST])
        print(f"{len(made.found())} failures found in {len(evidence.cases):,} answers; look at {page}" + (f"\nreview: {review}" if review else ""))
    if arguments.open and not webbrowser.open(page.resolve().as_uri()):
        print(f"no browser was found: open {page}", file=sys.stderr)
    return 1 if made.found() else 0


def _configs(said: Sequence[str]) -> tuple[Config, ...] | None:
    """All kinds of failure, with the limits that were said."""
    import yaml
    from pydantic import ValidationError

    from sightline.evaluate.failures.failure_table import FAILURE

    kinds = FAILURE.table()
    values: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in kinds}
    problems = []
    for one in said:
        name, equals, value = one.partition("=")
        kind, dot, key = name.partition(".")
        fields = kinds[kind].model_fields if kind in kinds else {}
        if not equals or not dot or key not in fields or key == "kind":
            allowed = ", ".join(f"{known}.{key}" for known, cls in kinds.items() for key in cls.model_fields if key != "kind")
            problems.append(
                Problem(code="usage/limit", place="--set", found=one, allowed=allowed, fix=nearest(name, allowed.split(", ")) or "KIND.FIELD=VALUE")
            )
        else:
            values[kind][key.replace("-", "_")] = yaml.safe_load(value)
    made = []
    for kind, fields in values.items():
        try:
            made.append(FAILURE.parse(fields))
        except ValidationError as error:
            problems += [
                Problem(code="usage/limit", place=f"--set {kind}.{each['loc'][0]}", found=str(each["input"]), allowed=each["msg"]) for each in error.errors()
            ]
    if problems:
        raise Refused(problems)
    return tuple(made)


def _evidence(arguments: Namespace, run: Path) -> tuple[Evidence, TrainingRows]:
    """What a run answered, and, where that is wanted, what its models are asked now."""
    from dataclasses import replace

    from sightline.failure_report import FOLDER, gather

    domains: dict[str, str] = {**dict.fromkeys(arguments.generic or [], "generic"), **dict.fromkeys(arguments.domain or [], "domain")}
    evidence, rows = gather(run, domains, arguments.labels)
    if not arguments.ask and arguments.text is None:
        return evidence, rows
    from sightline.evaluate.failures.hallucination import WORDING
    from sightline.failure_asking import asked, text_before_and_after

    answers = run / FOLDER / "answers.jsonl"
    if arguments.ask:
        cases, left = asked(
            run,
            evidence,
            arguments.data or [],
            answers=answers,
            seed=arguments.seed or 0,
            model=arguments.model or "",
            wording=arguments.wording or WORDING,
            limit=arguments.limit,
        )
        evidence = replace(evidence, cases=(*evidence.cases, *cases), left_out=(*evidence.left_out, *left))
    if arguments.text is not None:
        text, left = text_before_and_after(run, arguments.text, answers=answers)
        evidence = replace(evidence, text=text, left_out=(*evidence.left_out, *left))
    return evidence, rows


def _review(arguments: Namespace, made: FailureReport, against: tuple[Path, Evidence] | None, folder: Path) -> Path:
    from sightline.failure_review import chosen, write_review

    seed = arguments.seed or 0
    cases = chosen(made.evidence.written, made.failures, arguments.review, seed)
    others = {made.comparison.names[1]: against[1].written} if against is not None and made.comparison is not None else {}
    return write_review(folder, cases, others, made.name, seed)


def report_verdicts(arguments: Namespace) -> int:
    """Print what a review came to; write corrections."""
    from sightline.failure_report import FOLDER
    from sightline.failure_review import questions_of, read_verdicts, summary, write_corrections

    verdicts = read_verdicts(arguments.run / FOLDER, arguments.verdicts)
    shares = summary(verdicts)
    runs = {run: {drawn: {name: value._asdict() for name, value in each.items()} for drawn, each in by.items()} for run, by in shares.items()}
    told: dict[str, Any] = {"verdicts": len(verdicts), "runs": runs}
    if arguments.corrections is not None:
        store, without = write_corrections(arguments.corrections, verdicts, questions_of(arguments.run / FOLDER))
        told |= {"corrections": len(store), "store": str(store.path), "without a right answer": without}
        if arguments.rows is not None:
            lost = _write_rows(store, arguments.rows, arguments.layout or "openai-messages")
            told |= {"rows": str(arguments.rows), "not in the rows": [problem.record() for problem in lost]}
    if arguments.json:
        write_json(told)
        return 0
    words = {"random": "at random", "worst": "shows failures"}
    rows = [(run, words[drawn], *(_share(value) for value in each.values()), each["good"].n) for run, by in shares.items() for drawn, each in by.items()]
    head = next((list(each) for by in shares.values() for each in by.values()), [])
    write_table([("", "drawn", *head, "graded"), *rows])
    if arguments.corrections is not None:
        print(f"{told['corrections']} rows in {told['store']}; {len(told['without a right answer'])} failed questions have no right answer")
        if arguments.rows is not None:
            write_table([(one["place"], one["found"], one["allowed"]) for one in told["not in the rows"]])
            print(f"{arguments.rows}: read it with data.NAME.read: {{format: {arguments.layout or 'openai-messages'}, path: {arguments.rows}}}")
        print("a run that trains on them must not be scored on the same questions", file=sys.stderr)
    return 0


def _write_rows(store: Store, folder: Path, layout: str) -> list[Problem]:
    """The rows of a store in a published layout; what the layout could not hold. Raises Refused for a layout that is not known, or is only read."""
    from sightline.data.reading import READER

    kinds = list(READER.table())
    if layout not in kinds:
        raise Refused(Problem(code="usage/layout", place="--layout", found=layout, allowed=", ".join(kinds), fix=nearest(layout, kinds) or "name one"))
    writer: Any = READER.parse({"kind": layout})
    return writer.write((store[int(row)] for row in store.kept), folder)


def _share(value: Value) -> str:
    return f"{100 * value.value:.0f} % ({100 * value.low:.0f}-{100 * value.high:.0f})"
