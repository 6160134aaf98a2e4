"""`sightline eval`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from sightline.cli.output import write_json, write_table
from sightline.errors import Problem, Refused


def evaluate(parser: ArgumentParser) -> None:
    """Arguments of `eval`."""
    parser.add_argument(
        "--benchmark", metavar="KIND", required=True, help="kind of benchmark that reads published files: mme, pope, mmbench, .. (docs/evaluation.md)"
    )
    parser.add_argument("--path", metavar="PATH", required=True, help="its published file or folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the kind, such as rule=tolerant; may be repeated")
    parser.add_argument("--model", metavar="MODEL", help="who answers: folder of a run, a model or a published checkpoint, or http://HOST:PORT/v1#MODEL")
    parser.add_argument(
        "--answers", metavar="FILE", type=Path, help="with --model: where its answers are kept; without: answers that are there already, in a published form"
    )
    parser.add_argument("--write", metavar="FOLDER", type=Path, help="mme: also write the answers as the official tool reads them")
    parser.add_argument(
        "--judge", metavar="MODEL", help="who judges, where the benchmark asks for it: an endpoint or a folder; verdicts are kept beside the answers"
    )
    parser.add_argument("--key-file", metavar="FILE", type=Path, help="key of the judge's endpoint")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="compute type of a local model (default: float32)")
    parser.add_argument("--json", action="store_true", help="metrics, habits and every judged answer as JSON")
    parser.set_defaults(action=_evaluate)


def _evaluate(arguments: Namespace) -> int:
    from sightline.evaluate.benchmark_kinds.mme import Mme, write_mme_answers

    config = _config(arguments)
    if arguments.write is not None and not isinstance(config, Mme):
        raise Refused(Problem(code="usage/eval", place="eval", found=f"--write with {arguments.benchmark}", allowed="--benchmark mme", fix="leave it out"))
    if arguments.model is None and arguments.answers is None:
        raise Refused(
            Problem(code="usage/eval", place="eval", found="neither --model nor --answers", allowed="who answers, or answers", fix="add --model MODEL")
        )
    benchmark = config.build(seen=arguments.model is not None)
    answers = _answers(arguments, benchmark)
    if arguments.write is not None:
        write_mme_answers(benchmark.rows, {answer.sample: answer.text for answer in answers}, arguments.write)
    scores = benchmark.score(answers, _judge(arguments))
    if arguments.json:
        write_json({"benchmark": arguments.benchmark, "path": arguments.path, **scores.record()})
        return 0
    rows = [(name, *(f"{number:.4f}" for number in value[:3]), str(value.n)) for name, value in (*scores.metrics.items(), *scores.habits.items())]
    write_table([("", "value", "low", "high", "n"), *rows])
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
        options = {key: yaml.safe_load(value) for key, _, value in (one.partition("=") for one in arguments.set)}
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
