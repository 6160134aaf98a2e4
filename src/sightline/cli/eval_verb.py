"""`sightline eval`."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from sightline.cli.output import write_json, write_table
from sightline.errors import Problem, Refused

FORMS = ("official", "vlmevalkit", "lmms-eval", "questions")
"""What `--write` writes."""


def evaluate(parser: ArgumentParser) -> None:
    """Arguments of `eval`."""
    parser.add_argument(
        "--benchmark", metavar="KIND", required=True, help="kind of benchmark that reads published files: mme, pope, mmbench, .. (docs/evaluation.md)"
    )
    parser.add_argument("--path", metavar="PATH", required=True, help="its published file or folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the kind, such as rule=tolerant; may be repeated")
    parser.add_argument("--grammar", action="store_true", help="grounding, referring: the model may answer nothing but regions, as its codec writes them")
    parser.add_argument("--model", metavar="MODEL", help="who answers: folder of a run, a model or a published checkpoint, or http://HOST:PORT/v1#MODEL")
    parser.add_argument(
        "--answers", metavar="FILE", type=Path, help="with --model: where its answers are kept; without: answers that are there already, in a published form"
    )
    parser.add_argument("--write", metavar="PATH", type=Path, help="also write the answers, or the questions, as other tools read them: a file, or a folder")
    parser.add_argument(
        "--form",
        choices=FORMS,
        help="with --write: official (the makers' tool; default where there is one: docs/evaluation.md), vlmevalkit (PATH.tsv, .json or .xlsx), lmms-eval (PATH.jsonl), "
        "questions (VLMEvalKit's TSV; nobody is asked)",
    )
    parser.add_argument(
        "--judge", metavar="MODEL", help="who judges, where the benchmark asks for it: an endpoint or a folder; verdicts are kept beside the answers"
    )
    parser.add_argument("--key-file", metavar="FILE", type=Path, help="key of the judge's endpoint")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="compute type of a local model (default: float32)")
    parser.add_argument("--json", action="store_true", help="metrics, habits and every judged answer as JSON")
    parser.set_defaults(action=_evaluate)


def _evaluate(arguments: Namespace) -> int:
    config = _config(arguments)
    if arguments.form is not None and arguments.write is None:
        raise Refused(Problem(code="usage/eval", place="eval", found="--form without --write", allowed="--write PATH --form FORM", fix="say where to write"))
    if arguments.form == "questions":
        if arguments.model is not None or arguments.answers is not None:
            found = "--form questions beside --model or --answers"
            raise Refused(Problem(code="usage/eval", place="eval", found=found, allowed="--write FILE.tsv --form questions", fix="leave them out"))
        return _questions(arguments, config)
    if arguments.model is None and arguments.answers is None:
        raise Refused(
            Problem(code="usage/eval", place="eval", found="neither --model nor --answers", allowed="who answers, or answers", fix="add --model MODEL")
        )
    benchmark = config.build(seen=arguments.model is not None)
    answers = _answers(arguments, benchmark)
    if arguments.write is not None:
        _write(arguments, benchmark, answers)
        if config.judged and arguments.judge is None:
            print(f"not scored: {arguments.benchmark} needs a judge (--judge)", file=sys.stderr)
            return 0
    scores = benchmark.score(answers, _judge(arguments))
    if arguments.json:
        write_json({"benchmark": arguments.benchmark, "path": arguments.path, **scores.record()})
        return 0
    rows = [(name, *(f"{number:.4f}" for number in value[:3]), str(value.n)) for name, value in (*scores.metrics.items(), *scores.habits.items())]
    write_table([("", "value", "low", "high", "n"), *rows])
    return 0


def _write(arguments: Namespace, benchmark: Any, answers: list[Any]) -> None:
    """The answers as another tool reads them: its makers' where it has one, else VLMEvalKit's, unless --form says which."""
    from sightline.bridges.result_files import write_predictions, write_samples
    from sightline.evaluate.benchmark_kinds.official_answers import OFFICIAL, write_official

    if getattr(benchmark, "read_answers", None) is not None:
        found = f"--write with {arguments.benchmark}, whose answers are more than text"
        raise Refused(Problem(code="usage/eval", place="eval", found=found, allowed="benchmarks with answers in words", fix="leave it out"))
    form = arguments.form or ("official" if arguments.benchmark in OFFICIAL else "vlmevalkit")
    writers = {"official": write_official, "vlmevalkit": write_predictions, "lmms-eval": write_samples}
    arguments.write.parent.mkdir(parents=True, exist_ok=True)
    count = writers[form](benchmark, answers, arguments.write)
    print(f"{count:,} answers in {arguments.write}, as {form} reads them", file=sys.stderr)


def _questions(arguments: Namespace, config: Any) -> int:
    """The questions, with their pictures, as VLMEvalKit's TSV."""
    from sightline.bridges.result_files import write_questions

    arguments.write.parent.mkdir(parents=True, exist_ok=True)
    count = write_questions(config.build(seen=True), arguments.write)
    if arguments.json:
        write_json({"questions": count, "path": str(arguments.write)})
    else:
        print(f"{count:,} questions in {arguments.write}")
    return 0


def _config(arguments: Namespace) -> Any:
    """The kind with its options. Raises Refused for an unknown kind, one that reads no files, and options that do not fit."""
    import yaml
    from pydantic import ValidationError

    from sightline.evaluate.benchmark_table import BENCHMARK
    from sightline.evaluate.published import PublishedKind

    kinds = [name for name, one in BENCHMARK.table().items() if issubclass(one, PublishedKind)]
    if arguments.benchmark not in kinds:
        raise Refused(Problem(code="usage/eval", place="--benchmark", found=arguments.benchmark, allowed=", ".join(sorted(kinds)), fix="name one of them"))
    try:
        unsaid = next((one for one in arguments.set if "=" not in one), None)
        if unsaid is not None:
            raise Refused(Problem(code="usage/eval", place="--set", found=unsaid, allowed="KEY=VALUE", fix=f"{unsaid}=VALUE"))
        options = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in arguments.set)}
        options |= {"grammar": True} if arguments.grammar else {}
        return BENCHMARK.parse({**options, "kind": arguments.benchmark, "path": arguments.path})
    except yaml.YAMLError as error:
        raise Refused(Problem(code="usage/eval", place="--set", found=str(error), allowed="KEY=VALUE", fix="quote the value")) from None
    except ValidationError as error:
        raise Refused(
            Problem(code="usage/eval", place=".".join(map(str, one["loc"])), found=f"{one['input']!r:.80}", allowed=one["msg"], fix="see docs/recipes.md")
            for one in error.errors()
        ) from None


def _answers(arguments: Namespace, benchmark: Any) -> list[Any]:
    """Answers of the model, kept and never asked twice, or those of the file."""
    if arguments.model is None:
        from sightline.evaluate.answer_files import read_answers

        own = getattr(benchmark, "read_answers", None)  # regions and vectors are more than text
        return read_answers(arguments.answers, benchmark) if own is None else own(arguments.answers)
    from sightline.named_answerers import named_answerer

    kept = arguments.answers or Path(f"{arguments.benchmark}.answers.jsonl")
    return list(named_answerer(arguments.model, answers=kept, precision=arguments.precision).answer(benchmark.requests()))


def _judge(arguments: Namespace) -> Any:
    if arguments.judge is None:
        return None
    from sightline.named_answerers import EndpointLimits, named_answerer

    beside = arguments.answers or Path(f"{arguments.benchmark}.answers.jsonl")
    return named_answerer(arguments.judge, answers=beside.parent / f"{beside.name}.verdicts.jsonl", limits=EndpointLimits(key_file=arguments.key_file))
