"""`sightline chat`: one question, or a conversation over lines of stdin."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sightline.cli.output import write_json, write_problems
from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from sightline.samples.exchange import Answer, Decoding

COMMANDS = "/image PATH shows a picture, /reset forgets everything, /quit ends"


class Asked(Protocol):
    """What a loaded model can do here."""

    def ask(self, pictures: list[Path], history: list[tuple[str, str]], question: str, decoding: Decoding) -> Answer:
        """Answer `question` about `pictures` after the (question, answer) pairs of `history`."""
        ...


@dataclass(kw_only=True)
class Conversation:
    """Pictures and turns so far."""

    answerer: Asked
    decoding: Decoding
    as_json: bool
    pictures: list[Path]
    history: list[tuple[str, str]] = field(default_factory=list)

    def ask(self, question: str) -> None:
        """Answer one question, print the answer, remember both."""
        answer = self.answerer.ask(self.pictures, self.history, question, self.decoding)
        self.history.append((question, answer.text))
        if self.as_json:
            write_json(asdict(answer))
        else:
            print(answer.text, flush=True)

    def obey(self, line: str) -> bool:
        """Carry out a `/command`; False when it ends the conversation. Raises Refused for an unknown one and for a missing picture."""
        command, _, argument = line.partition(" ")
        if command == "/image":
            self.pictures.extend(_present([Path(argument.strip())]))
        elif command == "/reset":
            self.pictures.clear()
            self.history.clear()
        elif command != "/quit":
            raise Refused(Problem(code="usage/chat-command", place="chat", found=command, allowed=COMMANDS))
        return command != "/quit"


def chat(parser: ArgumentParser) -> None:
    """Arguments of `chat`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run or of a model")
    parser.add_argument("question", nargs="?", metavar="QUESTION", help=f"without it, questions are read from stdin; {COMMANDS}")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", type=Path, help="a picture to show; may be repeated")
    parser.add_argument("--json", action="store_true", help="the whole answer as JSON: text, regions, tokens and their log-probabilities")
    parser.add_argument("--max-tokens", type=int, default=64, metavar="N", help="longest answer (default: 64)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 takes the likeliest token (default)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="for temperatures above 0 (default: 0)")
    parser.add_argument("--grammar", action="store_true", help="answers are regions and nothing else, as the model's codec writes them")
    parser.set_defaults(action=_chat)


def _present(pictures: list[Path]) -> list[Path]:
    absent = [path for path in pictures if not path.is_file()]
    if absent:
        raise Refused(Problem(code="usage/no-picture", place=str(path), found="no such file", allowed="a picture file") for path in absent)
    return pictures


def _chat(arguments: Namespace) -> int:
    pictures = _present(arguments.image)
    from sightline.evaluate.answering import load_answerer
    from sightline.samples.exchange import Decoding

    grammar = "regions" if arguments.grammar else None
    decoding = Decoding(max_tokens=arguments.max_tokens, temperature=arguments.temperature, seed=arguments.seed, grammar=grammar)
    conversation = Conversation(answerer=load_answerer(arguments.run), decoding=decoding, as_json=arguments.json, pictures=pictures)
    if arguments.question is not None:
        conversation.ask(arguments.question)
    else:
        _converse(conversation)
    return 0


def _converse(conversation: Conversation) -> None:
    """Lines of stdin until `/quit` or its end. A refused line is told and the conversation goes on."""
    terminal = sys.stdin.isatty()
    if terminal:
        print(f"Ask a question. {COMMANDS}.", file=sys.stderr)
    while line := _line(terminal):
        words = line.strip()
        try:
            if words.startswith("/"):
                if not conversation.obey(words):
                    return
            elif words:
                conversation.ask(words)
        except Refused as refused:
            write_problems(refused.problems, conversation.as_json)


def _line(terminal: bool) -> str:
    if terminal:
        print("> ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline()
