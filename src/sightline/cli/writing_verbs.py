"""`sightline data rewrite`, `caption` and `ask`: texts that a model writes, behind an endpoint or in a folder."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from sightline.cli.operator_verbs import checked
from sightline.cli.output import write_json

STYLES = ("enrich", "conversation", "detail", "reasoning", "fuse", "polish", "spoken")
_WRITING = ("language", "rejected", "table", "max_tokens", "temperature", "examples", "precision")

_LIMITS = ("key_file", "concurrency", "most_requests", "most_tokens")


def rewrite(parser: ArgumentParser) -> None:
    """Arguments of `data rewrite`."""
    _stores(parser)
    parser.add_argument(
        "--style",
        choices=STYLES,
        required=True,
        help="enrich: short answers as sentences; conversation, detail, reasoning: dialogues from captions and boxes; "
        "fuse: one caption of two; polish: repair captions; spoken: as said aloud",
    )
    _examples(parser)
    _common(parser, _rewrite)


def caption(parser: ArgumentParser) -> None:
    """Arguments of `data caption`."""
    _stores(parser)
    parser.add_argument(
        "--prompt", metavar="TEXT", help="what is asked with the picture (default: endpoints for one sentence, only what is certain; folders: nothing)"
    )
    parser.add_argument("--count", type=int, metavar="N", help="captions per picture (default 1)")
    parser.add_argument("--replace", action="store_true", help="drop the captions that the rows have")
    parser.add_argument("--any-label", action="store_true", help="take captions that name labels which are not annotated, too")
    _common(parser, _caption)


def ask(parser: ArgumentParser) -> None:
    """Arguments of `data ask`."""
    _stores(parser)
    parser.add_argument("--count", type=int, metavar="N", help="questions per picture (default 5)")
    _examples(parser)
    _common(parser, _ask)


def _stores(parser: ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", type=Path, help="folder of a store")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the store to write; answers are kept in OUT.answers.jsonl beside it")
    parser.add_argument(
        "--with", dest="answered_by", required=True, metavar="MODEL", help="http://HOST:PORT/v1#MODEL, or the folder of a run, a model or a checkpoint"
    )


def _examples(parser: ArgumentParser) -> None:
    parser.add_argument("--examples", metavar="FOLDER", help="worked examples of yours: NNN_caps.txt, NNN_conv.txt, system_message.txt")


def _common(parser: ArgumentParser, action: Any) -> None:
    parser.add_argument("--language", choices=("en", "zh"), help="what is written (default: as the row)")
    parser.add_argument("--rejected", choices=("keep", "quarantine"), help="rows of which no text is taken: as they came (default), or set aside")
    parser.add_argument("--refused", type=Path, metavar="FILE", help="list every rejected text with its reason, a JSON line each")
    parser.add_argument("--table", metavar="CSV", help="labels to check by (default: those of Sightline)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="file with the endpoint's key")
    parser.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests at a time (default 8)")
    parser.add_argument("--most-requests", type=int, metavar="N", help="stop when so many were sent; run again to go on")
    parser.add_argument("--most-tokens", type=int, metavar="N", help="stop when so many tokens were used, as the server counts; run again to go on")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest text")
    parser.add_argument("--temperature", type=float, metavar="X", help="0: the likeliest text (default 0.7)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="compute type of a model in a folder (default float32)")
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it (default 0)")
    parser.add_argument("--fresh", action="store_true", help="write all rows again; answers that are there are still not asked twice")
    parser.add_argument("--json", action="store_true", help="the counts as JSON")
    parser.set_defaults(action=action)


def _rewrite(arguments: Namespace) -> int:
    from sightline.data.rewriting import Rewrite

    return _run(arguments, Rewrite, "data rewrite", {"style": arguments.style})


def _ask(arguments: Namespace) -> int:
    from sightline.data.rewriting import AskQuestions

    return _run(arguments, AskQuestions, "data ask", {} if arguments.count is None else {"count": arguments.count})


def _caption(arguments: Namespace) -> int:
    from sightline.data.captioning import Caption, is_endpoint
    from sightline.data.writing_prompts import prompt_of

    usual = prompt_of("caption", arguments.language or "en").ask if is_endpoint(arguments.answered_by) else ""
    prompt = usual if arguments.prompt is None else arguments.prompt
    arguments.language, arguments.examples = None, None
    own = {"prompt": prompt, "known_only": not arguments.any_label, "keep": not arguments.replace, "rejected": "keep", "max_tokens": 128, "temperature": 0.7}
    return _run(arguments, Caption, "data caption", own | ({} if arguments.count is None else {"count": arguments.count}))


def _run(arguments: Namespace, kind: Any, verb: str, own: dict[str, Any]) -> int:
    """Check everything, then let the model write, and tell what became of the texts."""
    from sightline.named_answerers import EndpointLimits, named_answerer
    from sightline.writing_pass import write_texts

    said = {name: getattr(arguments, name) for name in _WRITING if getattr(arguments, name) is not None}
    operator: Any = checked(kind, verb, own | said | {"with": arguments.answered_by})
    limits: Any = checked(EndpointLimits, verb, {name: getattr(arguments, name) for name in _LIMITS})
    answers = arguments.out.parent / f"{arguments.out.name}.answers.jsonl"
    answerer = named_answerer(operator.answered_by, answers=answers, precision=operator.precision, limits=limits)
    counts = write_texts(arguments.store, operator, arguments.out, answerer, seed=arguments.seed, refused=arguments.refused, fresh=arguments.fresh)
    if arguments.json:
        write_json({"store": str(arguments.out), **counts})
        return 0
    print(f"{counts['texts']} texts: {counts['taken']} taken" + "".join(f", {count} {reason}" for reason, count in counts["rejected"].items()))
    if "requests" in counts:
        print(f"{counts['requests']} requests sent, {counts['tokens']} tokens")
    print(f"{arguments.out}: " + ", ".join(f"{count} {name}" for name, count in counts["written"].items()))
    return 0
