"""The local answerer: questions in, answers out, batched within a bound on memory."""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch

from sightline.errors import Problem, Refused
from sightline.evaluate.drawn_masks import with_masks
from sightline.evaluate.generation import Drawn, answers_of_bins
from sightline.evaluate.golden import check_golden
from sightline.evaluate.looked import Looked
from sightline.evaluate.prefixes import Bin, Counts, Spelling, arrange
from sightline.lineage import sha256_json, software, write_json
from sightline.model import directory, hub_layout
from sightline.model.packed_weights import PackedWeights, bytes_of
from sightline.model.packing import Encoded
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.samples.exchange import Answer, Decoding, Request, answer_key
from sightline.samples.pictures import read_picture
from sightline.samples.sample import Item, Origin, Picture, Sample, Show, Text, Turn
from sightline.train.processes import local_device

TOKENS, CPU_TOKENS = 262144, 8192
"""Columns of keys and values at a time, at most: more of them answer no faster."""
SHARE = 0.25
"""Of the free memory that they may take; weights, activations and features of pictures take the rest."""
WORTH_PACKING = 4096
"""Tokens of prompts from which on weights are packed on a CPU: packing costs as much as about 600 of them gain."""


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A request, its tokens, and the name of its answer."""

    request: Request
    encoded: Encoded
    key: str


class Told(NamedTuple):
    """What an answer says."""

    text: str
    stopped: bool
    """Whether a stop of the request ended it."""
    items: tuple[Item, ...]
    problems: tuple[Problem, ...]


class _Size(NamedTuple):
    """What a bin, or the widest of several, takes of a batch: tokens asked for by a line, lines, and tokens of the trunk and of all lines."""

    remembers: bool = False
    """Whether its prompts have memory: what has none is asked apart."""
    asked: int = 0
    tokens: int = 0
    lines: int = 0

    @classmethod
    def of(cls, one: Bin, prompts: Sequence[_Prompt]) -> _Size:
        """The size of a bin of these prompts."""
        own = sum(prompt.encoded.length - one.trunk for prompt in prompts)
        asked = max(prompt.request.decoding.max_tokens for prompt in prompts)
        return cls(remembers=prompts[0].encoded.memory is not None, asked=asked, tokens=one.trunk + own, lines=len(prompts))

    @property
    def columns(self) -> int:
        """Columns of keys and values, answers included, at most."""
        return self.tokens + self.lines * self.asked


def tokens_that_fit(model: Model, precision: str) -> int:
    """Columns of keys and values that a share of the free memory of the model's device holds."""
    assert model.config.language_model is not None
    device = next(model.parameters()).device
    settings = hub_layout.transformers_config(model.config.language_model.block(), "language_model")
    head = getattr(settings, "head_dim", None) or settings.hidden_size // settings.num_attention_heads
    heads = getattr(settings, "num_key_value_heads", None) or settings.num_attention_heads
    token = 2 * settings.num_hidden_layers * heads * head * (2 if precision == "bfloat16" and device.type != "cpu" else 4)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return max(1, min(int(free * SHARE / token), CPU_TOKENS if device.type == "cpu" else TOKENS))


def free_memory() -> int:
    """Bytes of main memory that are free or hold what may be forgotten; half of all where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


class LocalAnswerer:
    """Answers with a model in this process. Each picture is encoded once; what the prompts of questions share goes through the model once; batches are bounded in memory.

    `batch`: most questions at a time. `batch_tokens`: most columns of keys and values at a time, of all questions and their answers, padding included; absent: what a share of the free
    memory holds.
    """

    def __init__(
        self,
        model: Model,
        processor: Processor,
        weights: str,
        precision: str = "float32",
        batch: int = 256,
        batch_tokens: int | None = None,
        shared: bool = True,
    ) -> None:
        if "write" not in model.abilities:
            raise Refused(
                Problem(
                    code="evaluate/cannot-write",
                    place="model",
                    found=f"abilities {list(model.abilities)}",
                    allowed="a model with a language model",
                    fix="choose a later stage",
                )
            )
        self.model, self.processor, self.weights, self.precision, self.batch, self.shared = model.eval(), processor, weights, precision, batch, shared
        self.batch_tokens = batch_tokens or tokens_that_fit(model, precision)
        self.counts = Counts()
        """What all calls of `answer` asked, and what sharing came to."""
        self._features = Looked(model, processor, precision)
        self._named: dict[int, tuple[weakref.ref[Request], Encoded, str]] = {}
        codec = processor.config.codec
        self._reading = {"codec": codec.model_dump(mode="json")} if codec is not None else {}  # the same text may say other regions

    def measure(self, sample: Sample) -> int:
        """Tokens of the prompt."""
        return self.processor.encode(sample, answer=False).length

    def key(self, request: Request) -> str:
        """The name under which an answer to this request is found again. Its tokens are kept for `answer` as long as the request is."""
        prompt, number = self._prompt(request), id(request)
        self._named[number] = weakref.ref(request, lambda _: self._named.pop(number, None)), prompt.encoded, prompt.key
        return prompt.key

    def forget(self) -> None:
        """Let go of what is kept of pictures: where each is asked about once, it would only fill the memory."""
        self._features.forget()
        self.processor.forget_crops()

    def _prompt(self, request: Request) -> _Prompt:
        if (known := self._named.get(id(request))) is not None:
            return _Prompt(request=request, encoded=known[1], key=known[2])
        encoded = self.processor.encode(request.sample, answer=False)
        key = answer_key(
            self.weights,
            self.processor.prompt(encoded),
            tuple(p.hash for p in encoded.pictures),
            {**asdict(request.decoding), "precision": self.precision, **self._reading},
            request.ask,
        )
        return _Prompt(request=request, encoded=encoded, key=key)

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Each request once: batches of those that ask for few tokens first, then of short prompts. Asks other than write belong to other answerers and are refused."""
        asked = list(requests)
        wrong = sorted({request.ask for request in asked} - {"write"})
        if wrong:
            raise Refused(Problem(code="evaluate/ask", place="request", found=", ".join(wrong), allowed="write", fix="this answerer only writes"))
        prompts = [self._prompt(request) for request in asked]
        bins = self._bins(prompts)
        packed = self._packed(sum(prompts[number].encoded.length for one in bins for number in one.lines))
        for batch in self._batches(prompts, bins):
            with packed.used() if packed is not None else nullcontext():
                answers = self._answers(prompts, batch)
            yield from answers

    def _packed(self, tokens: int) -> PackedWeights | None:
        """Weights packed for so many tokens of prompts, where that is soon made good and there is room for them."""
        dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        fits = next(self.model.parameters()).device.type == "cpu" and bytes_of(self.model, dtype) < SHARE * free_memory()
        return PackedWeights(self.model, dtype) if fits and tokens >= WORTH_PACKING else None

    def _bins(self, prompts: Sequence[_Prompt]) -> list[Bin]:
        """All prompts in bins, and the count of what that saves."""
        joint = self.processor.config.fusion.prompt == "memory"
        if joint or not self.shared:
            bins = [Bin(trunk=0 if joint else prompt.encoded.length - 1, lines=(number,)) for number, prompt in enumerate(prompts)]
        else:
            spelling = Spelling(self.processor.config.vectors)
            memory = [len(prompt.encoded.memory.ids) if prompt.encoded.memory is not None else 0 for prompt in prompts]
            bins = arrange([spelling(prompt.encoded) for prompt in prompts], memory)
        alone = sum(len(one.lines) == 1 for one in bins)
        self.counts.questions += len(prompts)
        self.counts.shared += len(prompts) - alone
        reason = "prompt-in-memory" if joint else "nothing-in-common" if self.shared else "not-wanted"
        self.counts.alone[reason] = self.counts.alone.get(reason, 0) + alone
        self.counts.prompt_tokens += sum(prompt.encoded.length for prompt in prompts)
        self.counts.computed_tokens += sum(prompt.encoded.length for prompt in prompts) - sum((len(one.lines) - 1) * one.trunk for one in bins)
        return bins

    def _batches(self, prompts: Sequence[_Prompt], bins: Sequence[Bin]) -> Iterator[list[Bin]]:
        """Bins of like width, as many as the bounds allow, at least one. The lines of a bin that is too wide by itself are halved."""
        sized, todo = [], list(bins)
        while todo:
            one = todo.pop()
            size = _Size.of(one, [prompts[number] for number in one.lines])
            if len(one.lines) > 1 and (size.columns > self.batch_tokens or size.lines > self.batch):
                middle = len(one.lines) // 2
                self.counts.halved += 1
                self.counts.computed_tokens += one.trunk
                todo += [replace(one, lines=part) for part in (one.lines[:middle], one.lines[middle:])]
            else:
                sized.append((size, one))
        batch: list[Bin] = []
        widest, lines = _Size(), 0
        for size, one in sorted(sized, key=lambda own: (own[0], own[1].lines)):
            joined = _Size(size.remembers, *map(max, widest[1:], size[1:]))
            if batch and (widest.remembers != size.remembers or (len(batch) + 1) * joined.columns > self.batch_tokens or lines + size.lines > self.batch):
                yield batch
                batch, joined, lines = [], size, 0
            batch.append(one)
            widest, lines = joined, lines + size.lines
        if batch:
            yield batch

    @torch.no_grad()
    def _answers(self, prompts: Sequence[_Prompt], bins: Sequence[Bin]) -> list[Answer]:
        began = time.monotonic()
        device = next(self.model.parameters()).device
        encoded = [prompt.encoded for prompt in prompts]
        self._features.look([encoded[number] for one in bins for number in one.lines])
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bfloat16"):
            drawn = answers_of_bins(self.model, self.processor, bins, encoded, [prompt.request.decoding for prompt in prompts], self._features)
            told = {number: self._told(prompts[number], one) for number, one in drawn.items()}
        seconds = (time.monotonic() - began) / len(drawn)
        return [self._finish(prompts[number], drawn[number], one, seconds) for number, one in told.items()]

    def _told(self, prompt: _Prompt, drawn: Drawn) -> Told:
        """What an answer says, as far as its stops let it; its masks are drawn."""
        text, stopped = self.processor.decode(drawn.tokens), False
        for stop in prompt.request.decoding.stop:
            if stop in text:
                text, stopped = text[: text.index(stop)], True
        sample = prompt.request.sample
        items, problems = with_masks(self.model, self.processor, *self.processor.items(text, sample), drawn.tokens, drawn.taps, sample)
        return Told(text, stopped, items, problems)

    def _finish(self, prompt: _Prompt, drawn: Drawn, told: Told, seconds: float) -> Answer:
        tokens, logps, ended = drawn.tokens, drawn.logps, told.stopped or self.processor.ended(drawn.tokens)
        text, items, problems = told.text, told.items, told.problems
        return Answer(
            key=prompt.key,
            sample=prompt.request.sample.id,
            weights=self.weights,
            text=text,
            items=items,
            tokens=tuple(tokens),
            logps=tuple(logps),
            finish="stop" if ended else "length",
            problems=problems,
            seconds=seconds,
        )

    def ask(self, pictures: Sequence[Path | Picture], history: Sequence[tuple[str, str]], question: str, decoding: Decoding | None = None) -> Answer:
        """One question about pictures, after earlier (question, answer) pairs of the same conversation."""
        sample = conversation(pictures, history, question)
        return next(self.answer([Request(sample=sample, decoding=decoding or Decoding())]))


def conversation(pictures: Sequence[Path | Picture], history: Sequence[tuple[str, str]], question: str) -> Sample:
    """A sample whose last user turn is the question; the pictures are shown in the first user turn."""
    known = tuple(p if isinstance(p, Picture) else read_picture(p) for p in pictures)
    turns: list[Turn] = []
    for user, assistant in (*history, (question, None)):
        shown = tuple(Show(picture=i) for i in range(len(known))) if not turns else ()
        turns.append(Turn(role="user", items=(*shown, Text(text=user))))
        if assistant is not None:
            turns.append(Turn(role="assistant", items=(Text(text=assistant),)))
    return Sample(id="chat", pictures=known, turns=tuple(turns), origin=Origin(source="chat"))


def load_here(folder: Path) -> tuple[Model, Processor, str]:
    """Model, on the device of this process, processor and weights id of a model directory."""
    model, processor, weights = directory.load(folder)
    return model.to(local_device()), processor, weights


def load_checked(path: Path, precision: str = "float32", check: bool = True, anew: bool = False) -> tuple[Model, Processor, str]:
    """Model, processor and weights id of a run, a model directory or a published checkpoint. Golden requests are checked once per (weights, software, device) and the result is
    remembered in `golden/checked.json`; `anew`: whatever is remembered, for tokenizer, settings and the pictures' pipeline may have changed since.
    """
    folder = directory.model_folder(path)
    model, processor, weights = load_here(folder)
    published = directory.is_published(hub_layout.read_json(folder / "config.json"))
    if check and not (published and not (folder / "golden").is_dir()):  # nobody publishes golden requests: `checkpoint read` makes them
        state = sha256_json([weights, software(), precision, next(model.parameters()).device.type])
        memo = folder / "golden" / "checked.json"
        known = json.loads(memo.read_text(encoding="utf-8")) if memo.is_file() else {}
        if anew or state not in known:
            known[state] = check_golden(folder, model, processor, precision)
            if os.access(folder / "golden", os.W_OK):
                write_json(memo, known)
    return model, processor, weights


def load_answerer(path: Path, precision: str = "float32", check: bool = True) -> LocalAnswerer:
    """The answerer that writes, of a run, a model directory or a published checkpoint."""
    return LocalAnswerer(*load_checked(path, precision, check), precision)
