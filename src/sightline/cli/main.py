"""The `sightline` command: finds the verb, parses its arguments, runs it, and turns what was refused into text, JSON and an exit code.

Exit codes: 0 done, 1 findings, 2 a mistake in the command or the recipe, 130 interrupted, 141 the reader of a pipe went away, 143 a run was asked to end (SIGTERM) and has saved.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from sightline import __version__
from sightline.cli.output import write_problems
from sightline.errors import Problem, Refused, nearest

FINDINGS, USAGE, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141


@dataclass(frozen=True)
class Verb:
    """`source` is MODULE:FUNCTION; the function adds the verb's arguments to a parser and sets `action`, which takes the parsed arguments and returns an exit code."""

    source: str
    help: str


VERBS = {
    "run": Verb("sightline.cli.run_verbs:run", "carry out a recipe: data, stages, evaluation, report"),
    "plan": Verb("sightline.cli.run_verbs:plan", "check a recipe and count its parameters and tokens before it costs"),
    "eval": Verb("sightline.cli.eval_verb:evaluate", "score a model, or ready answers, on a published benchmark"),
    "eval make-probe": Verb("sightline.cli.probe_verb:make_probe", "make yes/no questions of your own annotations, which words alone do not answer"),
    "report": Verb("sightline.cli.report_verb:report", "draw the page of a run, while it goes on or after it, or tell what goes wrong in its answers"),
    "chat": Verb("sightline.cli.chat_verb:chat", "ask a trained model about pictures"),
    "annotate": Verb(
        "sightline.cli.annotate_verb:annotate", "find the objects of whole scenes: GeoJSON, COCO, DOTA or a label picture, and a picture to look at"
    ),
    "serve": Verb("sightline.cli.serve_verb:serve", "answer over HTTP, as the OpenAI API does"),
    "canary": Verb("sightline.cli.canary_verb:canary", "ask two models the same requests, and tell whether the second is worse"),
    "data read": Verb("sightline.cli.data_verbs:read", "read a data set of a published format into a store"),
    "data show": Verb("sightline.cli.data_verbs:show", "show samples of a store, as a model would see them"),
    "data check": Verb(
        "sightline.cli.check_verb:check", "read everything once and tell what is wrong with it: rows, pictures, regions, labels, duplicates, leaks"
    ),
    "data score": Verb("sightline.cli.score_verb:score", "score rows by a model, keep some by their score"),
    "data synthesize": Verb("sightline.cli.synthesize_verb:synthesize", "ask questions of a store's annotations, in two languages"),
    "data rewrite": Verb("sightline.cli.writing_verbs:rewrite", "let a model write answers, captions and dialogues anew, and check what it wrote"),
    "data caption": Verb("sightline.cli.writing_verbs:caption", "let a model caption pictures, checked against known labels"),
    "data ask": Verb("sightline.cli.writing_verbs:ask", "let a model ask about pictures, checked against known labels"),
    "data apply": Verb("sightline.cli.operator_verbs:apply", "apply operators of a YAML file to a store"),
    "data dedup": Verb("sightline.cli.operator_verbs:dedup", "set aside rows that say the same about the same pictures"),
    "data tile": Verb("sightline.cli.operator_verbs:tile", "cut large pictures into tiles with their regions"),
    "data mix": Verb("sightline.cli.operator_verbs:mix", "plan how often each row of several stores is seen"),
    "soup average": Verb("sightline.cli.soup_verb:average", "mix the weights of models, tensor by tensor"),
    "soup maximum": Verb("sightline.cli.soup_verb:maximum", "choose the model with the best score on held-out samples"),
    "soup greedy": Verb("sightline.cli.soup_verb:greedy", "mix models one after the other, as long as the score on held-out samples rises"),
    "refine train": Verb("sightline.cli.refine_verb:train", "train a model that turns boxes into masks"),
    "refine eval": Verb("sightline.cli.refine_verb:evaluate", "score masks from boxes, beside the filled box and GrabCut"),
    "refine apply": Verb("sightline.cli.refine_verb:apply", "turn the boxes of a store into masks"),
    "verify": Verb("sightline.cli.verify_verb:verify", "check that a model directory or a published checkpoint is whole and is what it says"),
    "checkpoint read": Verb("sightline.cli.checkpoint_verbs:read", "make a model directory of a published checkpoint"),
    "checkpoint write": Verb("sightline.cli.checkpoint_verbs:write", "write a model in a published form, bit for bit where nothing was trained"),
    "export": Verb("sightline.cli.export_verb:export", "write a model for other software and prove that it says the same there; say which engines take it"),
    "show tiles": Verb("sightline.cli.show_verbs:tiles", "show how a recipe's model cuts up pictures, and what they cost in tokens"),
    "show model": Verb("sightline.cli.show_verbs:model", "count a recipe's parts and parameters, as plan --model-only does"),
    "recipe ls": Verb("sightline.cli.recipe_verbs:ls", "list the shipped recipes"),
    "recipe show": Verb("sightline.cli.recipe_verbs:show", "print a recipe, or what it resolves to"),
    "recipe copy": Verb("sightline.cli.recipe_verbs:copy", "copy a shipped recipe into a file of your own"),
    "recipe schema": Verb("sightline.cli.recipe_verbs:schema", "print the JSON schema of recipes, for editors"),
    "env": Verb("sightline.cli.environment_verb:env", "print versions, hardware and optional packages"),
}


class Parser(argparse.ArgumentParser):
    """Raises Refused where argparse would print and exit, so that a mistake can be told as JSON too."""

    def error(self, message: str) -> NoReturn:
        raise Refused(
            Problem(code="usage/arguments", place=self.prog, found=message, allowed=" ".join(self.format_usage().split()[1:]), fix=f"{self.prog} --help")
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Raises only what is a bug of ours."""
    words = [_kebab(word) for word in (sys.argv[1:] if argv is None else argv)]
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except Refused as refused:
        write_problems(refused.problems, as_json="--json" in words)
        return USAGE if all(problem.code.startswith(("usage/", "recipe/")) for problem in refused.problems) else FINDINGS
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes stdout once more when it ends
        return CLOSED_PIPE


def _kebab(word: str) -> str:
    """`--max_tokens=3` -> `--max-tokens=3`: both spellings of a flag are taken."""
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else word


def _dispatch(words: list[str]) -> int:
    if words in (["--version"], ["version"]):
        print(f"sightline {__version__}")
        return 0
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(""))
        return 0
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in VERBS), None)
    if name is None:
        return _group(words)
    module, _, function = VERBS[name].source.partition(":")
    parser = Parser(prog=f"sightline {name}", description=VERBS[name].help, allow_abbrev=False)
    getattr(import_module(module), function)(parser)
    try:
        arguments = parser.parse_intermixed_args(words[len(name.split()) :])
    except SystemExit as end:  # --help has been printed
        return int(end.code or 0)
    return arguments.action(arguments)


def _group(words: list[str]) -> int:
    """A noun without one of its verbs, or a word that is neither."""
    group = words[0]
    verbs = [name for name in VERBS if name.startswith(group + " ")]
    rest = words[1:]
    if verbs and (not rest or rest[0] in ("-h", "--help")):
        print(_overview(group + " "))
        return 0 if rest else USAGE
    said = " ".join(words[:2]) if verbs else group
    names = verbs or sorted({name.split()[0] for name in VERBS})
    raise Refused(
        Problem(code="usage/verb", place="sightline", found=f"no verb {said!r}", allowed=", ".join(names), fix=nearest(said, names) or "sightline --help")
    )


def _overview(prefix: str) -> str:
    verbs = {name: verb for name, verb in VERBS.items() if name.startswith(prefix)}
    lines = [f"  {name:18}{verb.help}" for name, verb in verbs.items()]
    return "\n".join(["usage: sightline VERB ...", "", *lines, "", "sightline VERB --help says more; --json makes a verb print JSON; sightline --version"])
