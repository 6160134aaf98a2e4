"""Chat formats read from published Jinja chat templates, by what they write and not by what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sightline.errors import Problem, Refused
from sightline.model.chat import ChatFormat, Role, script

_SYSTEM, _FIRST, _REPLY, _SECOND = "Qsystemq", "Qfirstq", "Qreplyq", "Qsecondq"
_ROUNDS = ("user", "assistant", "user")
_PROOF = ("Are {{ brackets }} and {% blocks %} text?", "Yes,\n\nthey 'are' \"text\".", "<b>And</b> this?", "That too \\n", "\u4e09\u8258\u8239", "Three ships")
Said = Sequence[tuple[str, str]]
"""(role, text) of each turn."""


class _Generation(Extension):
    """`{% generation %}`, which marks answers and writes nothing."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The body alone."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Unlike(Exception):
    """The template is not of our form; says why."""


def read_template(text: str, specials: Mapping[str, str], controls: Iterable[str], place: str = "chat_template.jinja") -> ChatFormat:
    """The format whose turns a chat template writes: texts around each role, start, end of an answer, default system text.

    `specials`: what a template may use by name, such as bos_token; `controls`: special tokens of the tokenizer. The template runs in a sandbox on conversations of made-up
    words, between which its own texts are found; then the format must write further conversations as the template does. White space around a message, which many
    templates strip, is kept by ours. Where pictures stand is not read: the layout and `pictures` say it.
    Raises Refused where a template is not of this form: turns that each stand between two fixed texts, answers that a control token ends, a prompt that every
    training text goes on from.
    """
    try:
        write, known = _writer(text, specials), tuple(controls)
        chat = _derived(write, specials.get("bos_token", ""), known)
        _prove(chat, write)
    except _Unlike as error:
        raise Refused(
            Problem(
                code="model/chat-template",
                place=place,
                found=str(error),
                allowed="turns that each stand between two fixed texts, answers that end with a control token",
                fix="name a chat format of the table instead (model.chat)",
            )
        ) from None
    return chat


Write = Callable[[Said, bool], str]
"""Renders a conversation, with or without the generation prompt; raises _Unlike where the template fails."""


def _writer(text: str, specials: Mapping[str, str]) -> Write:
    """The template as a function. A message's text is a string, or the one part of a list where the template writes only that."""
    environment: Environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    environment.globals["raise_exception"] = _raise

    def rendered(said: Said, prompt: bool, parts: bool) -> str:
        messages: list[dict[str, Any]] = [{"role": role, "content": [{"type": "text", "text": words}] if parts else words} for role, words in said]
        try:
            return environment.from_string(text).render(messages=messages, add_generation_prompt=prompt, tools=None, documents=None, **specials)
        except Exception as error:  # a template may raise anything
            raise _Unlike(f"it fails: {error}") from None

    def written(parts: bool) -> bool:
        try:
            return _FIRST in rendered([("user", _FIRST)], True, parts)
        except _Unlike:
            return False

    parts = written(True) and not written(False)
    return lambda said, prompt: rendered(said, prompt, parts)


def _raise(message: str) -> None:
    raise _Unlike(message)


def _derived(write: Write, start: str, controls: Sequence[str]) -> ChatFormat:
    """The format that writes as the template does, if there is one."""
    head, after = _split(write([("user", _FIRST)], False), _FIRST)
    asked = write([("user", _FIRST)], True)
    before = _behind(asked, head + _FIRST + after, "the generation prompt does not follow the question")
    rounds = _split(write(list(zip(_ROUNDS, (_FIRST, _REPLY, _SECOND))), False), _FIRST, _REPLY, _SECOND)
    prefix = _behind(rounds[1], after + before, f"an answer does not go on from its prompt {before!r}")
    tail = _split(write([("user", _FIRST), ("assistant", _REPLY)], False), _FIRST, _REPLY)[2]
    question = _behind(rounds[2], tail, "a turn is written in another way when it is the last")
    end = max((token for token in controls if tail.startswith(token)), key=len, default="")
    if rounds[0] != head or rounds[3] != after or not head.endswith(question):
        raise _Unlike("turns of one role are not written alike")
    if not end:
        raise _Unlike(f"an answer is followed by {tail!r}, which begins with no control token")
    chat = ChatFormat(
        name="template",
        begin=head.removesuffix(question),
        user=Role(before=question, after=after),
        assistant=Role(before=before, prefix=prefix, after=tail.removeprefix(end)),
        end=end,
    )
    chat = _with_system(chat, write, start)
    openings = [(), *([] if chat.system_place == "refused" else [("system",)])]
    told = "".join(str(step) for opening in openings for step in script(chat, (*opening, *_ROUNDS))) + end
    return chat.model_copy(update={"controls": tuple(token for token in dict.fromkeys(controls) if token and token in told)})


def _with_system(chat: ChatFormat, write: Write, start: str) -> ChatFormat:
    """The format with its system turn: by itself, inside the first question, or refused; and with the text that a template writes where there is none."""
    try:
        opening, closing = _split(write([("system", _SYSTEM), ("user", _FIRST)], False), _SYSTEM, _FIRST)[:2]
    except _Unlike:
        return chat.model_copy(update={"system_place": "refused"})
    head, question = chat.begin, chat.user.before
    if not closing.endswith(question):
        before = _behind(opening, head + question, "a system turn stands neither before the question nor at its start")
        return chat.model_copy(update={"system_place": "in-user", "system": Role(before=before, after=closing)})
    after = closing.removesuffix(question)
    if opening.startswith(head):
        return chat.model_copy(update={"system": Role(before=opening.removeprefix(head), after=after)})
    if not head.startswith(opening) or not head.endswith(after) or len(head) < len(opening) + len(after):
        raise _Unlike("a system turn does not stand where the template's own system text stands")
    begin = start if opening.startswith(start) else ""
    system = Role(before=opening.removeprefix(begin), after=after)
    return chat.model_copy(update={"begin": begin, "system": system, "default_system": head[len(opening) : len(head) - len(after)]})


def _prove(chat: ChatFormat, write: Write) -> None:
    """Refuses a format that writes any of several further conversations in another way than the template."""
    rounds = [*zip(("user", "assistant") * 3, _PROOF)]
    system = [] if chat.system_place == "refused" else [("system", "Be 'brief'.\nBe kind.")]
    for said in (first + rounds[:count] for first in ([], system) for count in (1, 2, 5, 6)):
        asked = said[-1][0] == "user"
        steps = script(chat, [role for role, _ in said], answer=not asked)
        ours = "".join(step if isinstance(step, str) else _around(chat, *said[step]) for step in steps) + ("" if asked else chat.assistant.after)
        if write(said, asked) != ours:
            raise _Unlike(f"{len(said)} turns are not written as fewer are: {write(said, asked)!r}, expected {ours!r}")


def _around(chat: ChatFormat, role: str, text: str) -> str:
    around: Role = getattr(chat, role)
    return around.prefix + text + (chat.end if role == "assistant" else "")


def _split(text: str, *words: str) -> list[str]:
    """What stands around words that the template must have written in this order, each once."""
    found = []
    for word in words:
        if text.count(word) != 1:
            raise _Unlike(f"it writes a message {text.count(word)} times")
        before, _, text = text.partition(word)
        found.append(before)
    return [*found, text]


def _behind(text: str, start: str, otherwise: str) -> str:
    if not text.startswith(start):
        raise _Unlike(otherwise)
    return text.removeprefix(start)
