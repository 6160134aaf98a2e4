"""What harnesses of others hand over, in our terms: pictures, conversations, how text is drawn, and a model that is asked in one batch."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image, ImageOps

from sightline.errors import Problem, Refused
from sightline.evaluate.answers import Remembering
from sightline.evaluate.comparing import ModelAnswerer
from sightline.named_answerers import EndpointLimits, named_answerer
from sightline.samples.exchange import Answer, Answerer, Decoding, Request
from sightline.samples.pictures import describe, read_picture
from sightline.samples.sample import Item, Origin, Picture, Role, Sample, Show, Text, Turn

Part = str | Picture
"""A piece of a turn."""
MAX_NEW_TOKENS = 1024
"""Longest answer where nobody says how long: what lmms-eval's own models draw."""
_NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "n": 1,
    "repetition_penalty": 1,
    "length_penalty": 1,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
}
"""Options that change what is drawn and that we have not: the value that changes nothing. Other options we have not are for other models' pictures and prompts."""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")


def unsayable(place: str, found: object, allowed: str, fix: str) -> Refused:
    """A refusal of what a harness asks for."""
    return Refused(Problem(code="bridges/unsayable", place=place, found=str(found)[:200], allowed=allowed, fix=fix))


def picture_of(given: object, place: str) -> Picture:
    """A picture as harnesses give it: a PIL picture, bytes of a file, its path, or a data URL.

    Pixels of a PIL picture are kept as they are, as PNG. Raises Refused for films, sounds, addresses, and pictures that do not decode.
    """
    if isinstance(given, Image.Image):
        return describe(_png(given), "", place)
    if isinstance(given, bytes):
        return describe(given, "", place)
    if isinstance(given, Mapping):
        told = cast("Mapping[str, object]", given)
        return picture_of(told.get("bytes") or told.get("path"), place)
    if isinstance(given, str) and given.startswith("data:image/"):
        try:
            return describe(base64.b64decode(given.partition(",")[2], validate=True), "", place)
        except (binascii.Error, ValueError) as error:
            raise unsayable(place, f"{given[:40]!r}..: {error}", "a picture's file in base64", "mend the data set") from None
    if isinstance(given, str | Path) and "://" not in str(given):
        return read_picture(Path(given), place)
    raise unsayable(place, f"{type(given).__name__} {given!r:.80}", "a picture: a PIL picture, bytes, a path or a data URL", "choose a task about pictures")


def _png(picture: Image.Image) -> bytes:
    """An upright picture as PNG, without loss for all modes of 8 bits that PNG has; others become RGB."""
    upright = ImageOps.exif_transpose(picture)
    kept = upright if upright.mode in _PNG_MODES else upright.convert("RGB")
    stream = io.BytesIO()
    kept.save(stream, "PNG", compress_level=1, exif=b"")
    return stream.getvalue()


def conversation_of(turns: Sequence[tuple[Role, Sequence[Part]]], name: str) -> Sample:
    """A sample of these turns; a picture that is shown twice is held once."""
    pictures: dict[str, Picture] = {}
    made = []
    for role, parts in turns:
        items: list[Item] = []
        for part in parts:
            if isinstance(part, Picture):
                pictures.setdefault(part.hash, part)
                items.append(Show(picture=list(pictures).index(part.hash)))
            elif part:
                items.append(Text(text=part))
        made.append(Turn(role=role, items=tuple(items)))
    return Sample(id=name, pictures=tuple(pictures.values()), turns=tuple(made), origin=Origin(source="harness"))


def decoding_of(options: Mapping[str, Any], longest: int, place: str, seed: int = 0) -> Decoding:
    """How text is drawn, from options as transformers names them: `until`, `max_new_tokens`, `do_sample`, `temperature`, `top_p`, `seed`; `seed` is added to theirs.

    Greedy where the temperature is 0 or absent, or `do_sample` is false. Raises Refused for beams, penalties and the like: without them the answers would be others than those asked for.
    """
    beyond = {name: options[name] for name, neutral in _NEUTRAL.items() if options.get(name) not in (None, neutral)}
    drawn = options.get("do_sample") is not False and bool(options.get("temperature"))
    if drawn and options.get("top_k"):
        beyond["top_k"] = options["top_k"]
    if beyond:
        found = ", ".join(f"{name}={value}" for name, value in beyond.items())
        raise unsayable(place, found, "greedy answers, or drawn with temperature and top_p", "set them to 1, 0 or null, as with --gen_kwargs num_beams=1")
    until = options.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    most = options.get("max_new_tokens") or options.get("max_gen_toks") or longest
    top_p = options.get("top_p")
    return Decoding(
        max_tokens=int(most),
        temperature=float(options["temperature"]) if drawn else 0.0,
        top_p=float(top_p) if drawn and top_p else 1.0,
        seed=int(options.get("seed") or 0) + seed,
        stop=tuple(filter(None, stops)),
    )


class HarnessModel:
    """A model by its name, as `sightline eval --model` takes it, asked for many answers at once, given in the order of the questions.

    `answers`: file where its answers are kept, never to be asked for twice; absent: nothing is kept. `device`: where a local model computes; absent: where it is loaded.
    """

    def __init__(self, name: str, precision: str = "float32", answers: str | None = None, device: str | None = None, key_file: str | None = None) -> None:
        limits = EndpointLimits(key_file=Path(key_file) if key_file else None)
        known: Remembering = named_answerer(
            name, answers=Path(answers or "answers.jsonl"), precision=precision, limits=limits
        )  # read, if there; written when asked
        self.name = name
        self.local = known.answerer if isinstance(known.answerer, ModelAnswerer) else None
        """The model, where it is in this process."""
        self._answerer: Answerer = known if answers else known.answerer
        if device is not None and self.local is not None:
            self.local.model.to(device)

    @property
    def device(self) -> str:
        """Where the model computes; an endpoint computes elsewhere."""
        return str(next(self.local.model.parameters()).device) if self.local is not None else "cpu"

    def asked(self, requests: Sequence[Request]) -> list[Answer]:
        """The answer to each request, whose samples have names of their own, in their order. Raises Refused with the problems of those that were not answered."""
        found = {answer.sample: answer for answer in self._answerer.answer(requests)}
        answers = [found[request.sample.id] for request in requests]
        problems = [problem for answer in answers if answer.finish == "refused" for problem in answer.problems]
        if problems:
            raise Refused(problems)
        return answers

    def written(self, asked: Sequence[tuple[Sequence[tuple[Role, Sequence[Part]]], Decoding]]) -> list[str]:
        """The text of the answer to each conversation."""
        return [answer.text for answer in self.asked([Request(sample=conversation_of(turns, str(k)), decoding=how) for k, (turns, how) in enumerate(asked)])]
