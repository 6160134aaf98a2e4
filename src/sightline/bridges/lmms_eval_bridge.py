"""Our models inside lmms-eval, found through the entry point `lmms_eval.models`.

    lmms-eval --model sightline --model_args pretrained=runs/mine --tasks mme --log_samples --output_path out

`SightlineChat` is asked in conversations, `SightlineSimple` (`--force_simple`, and what is scored by likelihood) in a text with pictures before it. Both are made when lmms-eval asks for them, for their base is
lmms-eval's own class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from sightline.bridges.harness import MAX_NEW_TOKENS, HarnessModel, Part, conversation_of, decoding_of, picture_of, unsayable
from sightline.samples.exchange import Decoding, Request
from sightline.samples.sample import Picture, Role

CLASSES = {"SightlineSimple": True, "SightlineChat": False}
"""The classes that this module makes, and their `is_simple`."""
SIGNS = {"loss": -1.0, "log": 1.0}
"""What is told of a continuation, by the sign of the logarithm of its probability."""
ROUNDS = 64
"""Rounds of one question after which its task is taken for endless."""
_MARK = "<image>"
Turns = list[tuple[Role, Sequence[Part]]]


def manifest() -> Any:
    """What lmms-eval's registry is told; the entry point leads here."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    simple, chat = (f"{__name__}.{name}" for name in CLASSES)
    return ModelManifest(model_id="sightline", simple_class_path=simple, chat_class_path=chat)


def __getattr__(name: str) -> type:
    """The classes of the manifest. ImportError where lmms-eval is not installed."""
    if name not in CLASSES:
        raise AttributeError(f"module {__name__} has no {name}")
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

    return type(name, (LmmsEvalModel, lmms), {"is_simple": CLASSES[name], "__module__": __name__, "__doc__": LmmsEvalModel.__doc__})


class LmmsEvalModel:
    """What lmms-eval asks of a model, answered by ours.

    `pretrained`: a run, a model directory, a published checkpoint, or http://HOST:PORT/v1#MODEL. `answers`: file where answers are kept and never asked twice. `max_new_tokens`: longest answer where the
    task does not say. `likelihood`: see `loglikelihood`. `batch_size` is taken and not used: batches are made to fit the memory, and answers do not depend on them.
    """

    is_simple: bool
    task_dict: dict[str, Any]

    def __init__(
        self,
        pretrained: str,
        precision: str = "float32",
        answers: str | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        likelihood: str = "loss",
        key_file: str | None = None,
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.model = HarnessModel(str(pretrained), precision, answers, device, key_file)
        self.batch_size, self.max_new_tokens = batch_size, int(max_new_tokens)
        if likelihood not in SIGNS:
            raise unsayable("model_args", f"likelihood={likelihood}", ", ".join(SIGNS), "choose one of them")
        self.sign = SIGNS[likelihood]

    @property
    def device(self) -> str:
        """Where the model computes."""
        return self.model.device

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each request, in their order, cut before the first text of `until`. A request that stands several times is drawn anew each time, where it is drawn at all."""
        turns = [self._turns(*request.args) for request in requests]
        return self.model.written(list(zip(turns, self._decodings(requests), strict=True)))

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of each request, round after round; the task says what is asked next, and when that is all. Each round of all requests is asked at once."""
        rounds = [(_chat_rounds if not self.is_simple else _simple_rounds)(self._doc(*request.args[-3:]), request.args) for request in requests]
        decodings = self._decodings(requests)
        found: list[list[str]] = [[] for _ in requests]
        asked: dict[int, Turns] = {number: next(one) for number, one in enumerate(rounds)}
        for _ in range(ROUNDS):
            texts = self.model.written([(turns, decodings[number]) for number, turns in asked.items()])
            following: dict[int, Turns] = {}
            for number, text in zip(asked, texts, strict=True):
                found[number].append(text)
                try:
                    following[number] = rounds[number].send(list(found[number]))
                except StopIteration as ended:
                    found[number] = found[number] if ended.value is None else list(ended.value)
            if not (asked := following):
                return found
        raise unsayable(str(requests[min(asked)].args[-2]), f"more than {ROUNDS} rounds", "a task that says when it ends", "use output_type: generate_until")

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """For each (context, continuation): its loss, which is minus the natural logarithm of its probability, and whether greedy drawing would write it.

        A loss, because tasks of lmms-eval take the option with the smallest number, whatever their interface says; `likelihood=log` tells the logarithm itself.
        The continuation is the assistant's turn, without the blank that joins it to its context and without the token that ends the turn. Refused for endpoints, which do not say.
        """
        if self.model.local is None:
            raise unsayable(self.model.name, "a likelihood asked of an endpoint", "a model of this machine", "name a folder as pretrained")
        conversations: list[tuple[Turns, str]] = []
        for request in requests:
            context, told, *rest = request.args
            doc = self._doc(*rest[-3:]) if rest else None
            visuals = _pictures(rest[0](doc), rest[-2]) if rest else []
            text = told(doc) if callable(told) else told
            conversations.append(([("user", _marked(context, visuals))], str(text).lstrip()))
        given = [
            Request(sample=conversation_of([*turns, ("assistant", [text])], str(number)), ask="score") for number, (turns, text) in enumerate(conversations)
        ]
        scored = self.model.asked(given)
        end = self.model.local.processor.tokenizer.end_id
        tokens = [answer.tokens[:-1] if answer.tokens[-1:] == (end,) else answer.tokens for answer in scored]
        greedy = self._greedy([turns for turns, _ in conversations], [len(own) for own in tokens])
        return [(self.sign * sum(answer.logps[: len(own)]), drawn[: len(own)] == own) for answer, own, drawn in zip(scored, tokens, greedy, strict=True)]

    def _greedy(self, conversations: Sequence[Turns], lengths: Sequence[int]) -> list[tuple[int, ...]]:
        """What greedy drawing writes after each conversation, at least so many tokens; equal conversations are asked once."""
        names = [tuple(part.hash if isinstance(part, Picture) else part for _, parts in turns for part in parts) for turns in conversations]
        longest: dict[tuple[str, ...], tuple[Turns, int]] = {}
        for name, turns, length in zip(names, conversations, lengths, strict=True):
            longest[name] = (turns, max(length, longest[name][1] if name in longest else 1))
        wanted = [
            Request(sample=conversation_of(turns, str(number)), decoding=Decoding(max_tokens=length)) for number, (turns, length) in enumerate(longest.values())
        ]
        drawn = dict(zip(longest, (answer.tokens for answer in self.model.asked(wanted)), strict=True))
        return [drawn[name] for name in names]

    def _doc(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]

    def _decodings(self, requests: Sequence[Any]) -> list[Decoding]:
        """How each request is drawn: its n-th copy with the n-th seed."""
        copies: Counter[tuple[Any, ...]] = Counter()
        found = []
        for request in requests:
            options = next(one for one in request.args if isinstance(one, Mapping))
            name = tuple(map(str, request.args[-3:]))
            found.append(decoding_of(options, self.max_new_tokens, str(request.args[-2]), seed=copies[name]))
            copies[name] += 1
        return found

    def _turns(self, *args: Any) -> Turns:
        doc = self._doc(*args[-3:])
        if self.is_simple:
            context, _, doc_to_visual, *_ = args
            return [("user", _marked(context, _pictures(doc_to_visual(doc), args[-2])))]
        doc_to_messages: Callable[[Any], Any] = args[-5]
        return _spoken(doc_to_messages(doc), args[-2])


def _pictures(visuals: Any, place: str) -> list[Part]:
    return [picture_of(one, place) for one in visuals or ()]


def _marked(context: str, pictures: Sequence[Part]) -> list[Part]:
    """A text with its pictures where the marks `<image>` stand, if there are as many; else before it."""
    pieces = context.split(_MARK)
    if not pictures or len(pieces) != len(pictures) + 1:
        return [*pictures, context]
    return [pieces[0], *(part for pair in zip(pictures, pieces[1:], strict=True) for part in pair)]


def _spoken(messages: Sequence[Mapping[str, Any]], place: str) -> Turns:
    """Turns of chat messages, with the items of each in their order."""
    return [(message["role"], [_part(one, place) for one in message["content"]]) for message in messages]


def _part(content: Mapping[str, Any], place: str) -> Part:
    if content["type"] == "text":
        return content["text"]
    if content["type"] != "image":
        raise unsayable(place, f"a part of type {content['type']}", "text and pictures", "choose a task about pictures")
    return picture_of(content["url"], place)


def _chat_rounds(doc: Any, args: Sequence[Any]) -> Generator[Turns, list[str], list[str] | None]:
    """What is asked round after round; is sent all answers so far; ends with those that the task keeps, or None."""
    doc_to_messages, place = args[-5], args[-2]
    answers = yield _spoken(doc_to_messages(doc), place)
    about, number = None, 1
    while True:
        told = doc_to_messages(doc, round_idx=number, previous_output=answers, previous_round_info=about)
        if not isinstance(told, tuple):
            return None  # the task has one round
        messages, terminal, kept, about = told
        if terminal:
            return kept
        answers = yield _spoken(messages, place)
        number += 1


def _simple_rounds(doc: Any, args: Sequence[Any]) -> Generator[Turns, list[str], list[str] | None]:
    """As `_chat_rounds`, where the task gives pictures and a text."""
    context, _, doc_to_visual, doc_to_text, place = *args[:4], args[-2]
    answers = yield [("user", _marked(context, _pictures(doc_to_visual(doc), place)))]
    about, number = None, 1
    while True:
        told = doc_to_text(doc, round_idx=number, previous_output=answers, previous_round_info=about)
        if not isinstance(told, tuple):
            return None
        visuals, text, terminal, kept, about = told
        if terminal:
            return kept
        answers = yield [("user", _marked(text, _pictures(visuals, place)))]
        number += 1
