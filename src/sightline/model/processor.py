"""Processor: Sample -> Encoded -> Batch, shared by training, evaluation and chat.

    Sample --split--> user/assistant pairs --chat format, layout--> pieces --tokenise--> ids, slots, answers --trunk and branches--> Encoded
    [Encoded] in bins --collate--> Batch --Model.forward--> Output

Targets come from pieces as they are tokenised. The start of an answer is a token boundary, so a prompt is a prefix of the training sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from sightline.errors import Problem, Refused
from sightline.model.assembly import Measure, ModelConfig
from sightline.model.batch import Batch, Features, Pictures, SideTexts, Stream
from sightline.model.pieces import Control, Piece, Slots, Words
from sightline.model.tiling import cut
from sightline.model.tokens import TextTokenizer
from sightline.samples.pictures import pixels
from sightline.samples.sample import Item, Picture, Sample, Show, Text, Turn

CROP_BYTES = 512 << 20
"""Decoded crops that a processor keeps."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One sample on the host. Arrays are numpy; `slots` are places in ids, `entries` index the crop tokens of all its pictures together."""

    sample: str
    source: str
    ids: np.ndarray  # (t,) int64
    positions: np.ndarray  # (t,) int64
    branches: np.ndarray  # (t,) int32
    slots: np.ndarray  # (s,) int64
    entries: np.ndarray  # (s,) int64
    answers: np.ndarray  # (a,) int64 places that predict
    targets: np.ndarray  # (a,) int64
    weights: np.ndarray  # (a,) float32
    pair_of: np.ndarray  # (a,) int64: which user/assistant pair a target belongs to
    kinds: tuple[str, ...]
    pictures: tuple[Picture, ...]
    measures: tuple[Measure, ...]
    texts: tuple[str, ...] = ()
    """Side texts for a dual tower."""
    tags: tuple[int, ...] | None = None
    """Numbers of the objective's tag words that its captions name."""
    orientation: int = 0
    """0..7: quarter turns (orientation % 4) and a mirror (orientation >= 4) of the crops, for augmentation."""

    @property
    def length(self) -> int:
        """Decoder positions."""
        return len(self.ids)


@dataclass
class _Line:
    """One sequence while it is tokenised."""

    ids: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    prompt: int = 0
    """Length before the first answer token."""


class Processor:
    """Turns samples into batches for one resolved ModelConfig and its tokenizer."""

    def __init__(self, config: ModelConfig, tokenizer: TextTokenizer) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.chat = config.chat_format()
        self._measures: dict[tuple[int, int, int], Measure] = {}
        self._cut: dict[str, tuple[torch.Tensor, ...]] = {}
        self._cut_bytes = 0

    # Sample -> pieces

    def measure(self, width: int, height: int, among: int = 1) -> Measure:
        """ModelConfig.measure, remembered."""
        key = (width, height, among)
        if key not in self._measures:
            self._measures[key] = self.config.measure(width, height, among)
        return self._measures[key]

    def pieces(self, turns: Sequence[Turn], measures: Sequence[Measure], answer: bool = True) -> list[Piece]:
        """Pieces of a conversation. With answer=False it ends where the model goes on writing: after the generation prompt."""
        chat, found = self.chat, self._format(self.chat.begin)
        shown = [item.picture for turn in turns for item in turn.items if isinstance(item, Show)]
        if chat.pictures == "before-all":
            found += [piece for picture in shown for piece in self._picture(picture, measures)]
        if chat.default_system is not None and (not turns or turns[0].role != "system"):
            found += self._format(chat.system.before + chat.default_system + chat.system.after)
        for number, turn in enumerate(turns):
            around = getattr(chat, turn.role)
            found += self._format(around.before)
            if turn.role == "assistant":
                found += [replace(piece, weight=turn.weight, answer=True) if isinstance(piece, Words) else piece for piece in self._items(turn, measures)]
                found += [Control(token=chat.end, weight=turn.weight, answer=True)]
                last = number == len(turns) - 1
                found += [] if last else self._format(around.after)
            else:
                found += [*self._items(turn, measures), *self._format(around.after)]
        if not answer:
            found += self._format(chat.assistant.before)
        return found

    def _format(self, text: str) -> list[Piece]:
        controls = (*self.chat.controls, self.chat.end)
        return [Control(token=part) if known else Words(text=part) for known, part in self.tokenizer.split_controls(text, dict.fromkeys(controls))]

    def _items(self, turn: Turn, measures: Sequence[Measure]) -> list[Piece]:
        order: list[Item] = list(turn.items)
        if self.chat.pictures == "turn-start":
            order.sort(key=lambda item: not isinstance(item, Show))
        found: list[Piece] = []
        for item in order:
            if isinstance(item, Text):
                found.append(Words(text=item.text))
            elif isinstance(item, Show):
                found += [] if self.chat.pictures == "before-all" else self._picture(item.picture, measures)
            else:
                raise Refused(
                    Problem(
                        code="model/item-not-said",
                        place="model",
                        found=type(item).__name__,
                        allowed="text and pictures: this model has no codec for regions or films",
                        fix="drop these turns, or name a region codec",
                    )
                )
        return found

    def _picture(self, picture: int, measures: Sequence[Measure]) -> list[Piece]:
        measure = measures[picture]
        return self.config.layout.pieces(picture, measure.tiling, list(measure.grids))

    # pieces -> tokens

    def tokenise(self, pieces: Sequence[Piece], offsets: Sequence[int]) -> _Line:
        """Ids, slots and answers of pieces; `offsets[p]` = first entry of picture p among the sample's entries."""
        line, index = _Line(), 0
        while index < len(pieces):
            piece = pieces[index]
            index += 1
            if isinstance(piece, Slots):
                line.slots += range(len(line.ids), len(line.ids) + len(piece.entries))
                line.entries += [offsets[piece.picture] + entry for entry in piece.entries]
                line.ids += [self.tokenizer.pad_id] * len(piece.entries)
                continue
            if isinstance(piece, Control):
                ids = [self.tokenizer.control(piece.token)]
            else:
                text = piece.text
                while index < len(pieces) and isinstance(pieces[index], Words) and (pieces[index].answer, pieces[index].weight) == (piece.answer, piece.weight):  # pyright: ignore
                    text += pieces[index].text  # pyright: ignore[reportAttributeAccessIssue]
                    index += 1
                ids = self.tokenizer.encode(text)
            if piece.answer and not line.prompt:
                line.prompt = len(line.ids)
            if piece.answer and piece.weight > 0:
                line.answers += range(len(line.ids) - 1, len(line.ids) - 1 + len(ids))
                line.targets += ids
                line.weights += [piece.weight] * len(ids)
            line.ids += ids
        line.prompt = line.prompt or len(line.ids)
        return line

    # Sample -> Encoded

    def encode(self, sample: Sample, answer: bool = True) -> Encoded:
        """The token form of a sample. Independent user/assistant pairs become branches of one trunk: what all pairs share is computed once.

        Raises Refused (with the sample's origin) when it is longer than `max_tokens` or, with answer=True, has no answer token.
        """
        place = f"{sample.origin.source}:{sample.origin.row or sample.id}"
        if sample.pictures and not self.config.encoders:
            raise Refused(
                Problem(
                    code="model/cannot-see",
                    place=place,
                    found=f"{len(sample.pictures)} pictures",
                    allowed="text alone: this model has no encoder",
                    fix="drop the pictures, or add an encoder",
                )
            )
        assert answer or sample.turns[-1].role == "user", "a prompt ends with the user's turn"
        measures = tuple(self.measure(p.width, p.height, len(sample.pictures)) for p in sample.pictures)
        offsets = np.cumsum([0, *(measure.decoder for measure in measures)]).tolist()
        lines = [self.tokenise(self.pieces(turns, measures, answer), offsets) for turns in conversations(sample)]
        encoded = self._branch(sample, lines, measures)
        if encoded.length > self.config.max_tokens:
            raise Refused(
                Problem(
                    code="model/too-long",
                    place=place,
                    found=f"{encoded.length} tokens",
                    allowed=f"at most {self.config.max_tokens} (model.max_tokens); pictures are never cut",
                    fix="raise model.max_tokens, shorten the text, or quarantine the row",
                )
            )
        if answer and not len(encoded.targets):
            raise Refused(
                Problem(
                    code="model/no-answer",
                    place=place,
                    found="no supervised token",
                    allowed="an assistant turn with weight > 0",
                    fix="drop the row or give it an answer",
                )
            )
        return encoded

    def _branch(self, sample: Sample, lines: list[_Line], measures: tuple[Measure, ...]) -> Encoded:
        trunk = _common_prefix(lines) if len(lines) > 1 else 0
        head = lines[0]
        ids, branches, positions = head.ids[:trunk], [0] * trunk, list(range(trunk))
        slots = [slot for slot in head.slots if slot < trunk]
        entries = head.entries[: len(slots)]
        answers: list[int] = []
        targets: list[int] = []
        weights: list[float] = []
        pair_of: list[int] = []
        for number, line in enumerate(lines):
            start = len(ids) - trunk
            body = line.ids[trunk:]
            ids = ids + body
            branches += [number + 1 if len(lines) > 1 else 0] * len(body)
            positions += range(trunk, len(line.ids))
            kept = [(slot, entry) for slot, entry in zip(line.slots, line.entries) if slot >= trunk]
            slots += [slot + start for slot, _ in kept]
            entries += [entry for _, entry in kept]
            answers += [place + start if place >= trunk else place for place in line.answers]
            targets += line.targets
            weights += line.weights
            pair_of += [number] * len(line.targets)
        kinds = tuple(str(sample.attributes.get("kind", "")).split(","))
        return Encoded(
            sample=sample.id,
            source=sample.origin.source,
            ids=np.asarray(ids, np.int64),
            positions=np.asarray(positions, np.int64),
            branches=np.asarray(branches, np.int32),
            slots=np.asarray(slots, np.int64),
            entries=np.asarray(entries, np.int64),
            answers=np.asarray(answers, np.int64),
            targets=np.asarray(targets, np.int64),
            weights=np.asarray(weights, np.float32),
            pair_of=np.asarray(pair_of, np.int64),
            kinds=kinds,
            pictures=sample.pictures,
            measures=measures,
        )

    def encode_pair(self, sample: Sample, text: str) -> Encoded:
        """Pictures and one side text, for a dual tower; nothing is decoded."""
        measures = tuple(self.measure(p.width, p.height, len(sample.pictures)) for p in sample.pictures)
        none, wide = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return Encoded(
            sample=sample.id,
            source=sample.origin.source,
            ids=none,
            positions=none,
            branches=none.astype(np.int32),
            slots=none,
            entries=none,
            answers=none,
            targets=none,
            weights=wide,
            pair_of=none,
            kinds=("pair",),
            pictures=sample.pictures,
            measures=measures,
            texts=(text,),
        )

    # Encoded -> Batch

    def side_texts(self, texts: Sequence[str], picture_of: Sequence[int]) -> SideTexts:
        """Ids of a dual tower's texts, each ended by the end token, cut at its `max_tokens`."""
        assert self.config.text_encoder is not None
        limit = self.config.text_encoder.max_tokens
        lines = [[*self.tokenizer.encode(text)[: limit - 1], self.tokenizer.end_id] for text in texts]
        ids = torch.full((len(lines), max(len(line) for line in lines)), self.tokenizer.pad_id, dtype=torch.int64)
        for row, line in enumerate(lines):
            ids[row, : len(line)] = torch.tensor(line)
        return SideTexts(ids=ids, lengths=torch.tensor([len(line) for line in lines]), picture_of=torch.tensor(list(picture_of), dtype=torch.int64))

    def collate(self, bins: Sequence[Sequence[Encoded]], features: FeatureSource | None = None, root: Path | None = None, tag_words: int = 0) -> Batch:
        """One Batch; rows, bins and tokens keep their order. Pictures that several rows show are encoded once. `tag_words` = length of the objective's word list."""
        rows = [encoded for packed in bins for encoded in packed]
        table: dict[tuple[str, int], tuple[int, Picture, Measure]] = {}
        first: dict[tuple[str, int], int] = {}
        total = 0
        for encoded in rows:
            for picture, measure in zip(encoded.pictures, encoded.measures):
                key = (picture.hash, encoded.orientation)
                if key not in table:
                    table[key] = (len(table), picture, measure)
                    first[key] = total
                    total += measure.decoder
        stream, answers, targets, weights, owners = self._stream(bins, first)
        pictures = self._pictures([(picture, measure, key[1]) for key, (_, picture, measure) in table.items()], features, root)
        texts = None
        if any(encoded.texts for encoded in rows):
            told = [(text, table[encoded.pictures[0].hash, encoded.orientation][0] if encoded.pictures else -1) for encoded in rows for text in encoded.texts]
            texts = self.side_texts([text for text, _ in told], [index for _, index in told])
        tags = None
        if any(encoded.tags is not None for encoded in rows):
            tags = torch.zeros(len(table), tag_words, dtype=torch.uint8)
            for encoded in rows:
                tags[table[encoded.pictures[0].hash, encoded.orientation][0], list(encoded.tags or ())] = 1
        return Batch(
            decoder=stream,
            answers=answers,
            targets=targets,
            weights=weights,
            owners=owners,
            rows=tuple((encoded.source, encoded.sample, ",".join(encoded.kinds)) for encoded in rows),
            pictures=pictures,
            texts=texts,
            tags=tags,
        )

    def _stream(
        self, bins: Sequence[Sequence[Encoded]], first: dict[tuple[str, int], int]
    ) -> tuple[Stream | None, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        width = max((sum(encoded.length for encoded in packed) for packed in bins), default=0)
        shape = (len(bins), width)
        ids = np.full(shape, self.tokenizer.pad_id, np.int64)
        positions, segments, branches = np.zeros(shape, np.int64), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        slots, sources, answers, targets, weights, owners = ([np.zeros(0, np.int64)] for _ in range(6))
        row = 0
        for b, packed in enumerate(bins):
            start = 0
            for number, encoded in enumerate(packed):
                where = slice(start, start + encoded.length)
                ids[b, where], positions[b, where], branches[b, where] = encoded.ids, encoded.positions, encoded.branches
                segments[b, where] = number + 1
                place = b * width + start
                slots.append(encoded.slots + place)
                sources.append(_global_entries(encoded, first))
                answers.append(encoded.answers + place)
                targets.append(encoded.targets)
                weights.append(encoded.weights)
                owners.append(np.full(len(encoded.targets), row, np.int64))
                start, row = start + encoded.length, row + 1
        flat = [torch.from_numpy(np.concatenate(parts)) for parts in (slots, sources, answers, targets, weights, owners)]
        stream = None
        if width:
            stream = Stream(
                ids=torch.from_numpy(ids),
                positions=torch.from_numpy(positions),
                segments=torch.from_numpy(segments),
                branches=torch.from_numpy(branches),
                slots=flat[0],
                sources=flat[1],
            )
        return stream, flat[2], flat[3], flat[4].float(), flat[5]

    def _pictures(self, table: Sequence[tuple[Picture, Measure, int]], features: FeatureSource | None, root: Path | None) -> Pictures:
        tilings = tuple(measure.tiling for _, measure, _ in table)
        picture_of = torch.tensor([index for index, tiling in enumerate(tilings) for _ in tiling.crops], dtype=torch.int64)
        if features is not None and table:
            return Pictures(tilings=tilings, picture_of=picture_of, features=features([picture.hash for picture, _, _ in table]))
        crops = tuple(_oriented(crop, turn) for picture, measure, turn in table for crop in self._crops(picture, measure, root))
        return Pictures(tilings=tilings, picture_of=picture_of, pixels=crops)

    def _crops(self, picture: Picture, measure: Measure, root: Path | None) -> tuple[torch.Tensor, ...]:
        """Crops of a picture, kept in memory up to CROP_BYTES: small sets are decoded once and not once an epoch."""
        key = f"{picture.hash}:{hash(measure.tiling)}"
        found = self._cut.get(key)
        if found is None:
            found = tuple(torch.from_numpy(crop) for crop in cut(pixels(picture, root), measure.tiling))
            size = sum(crop.nbytes for crop in found)
            if self._cut_bytes + size <= CROP_BYTES:
                self._cut[key] = found
                self._cut_bytes += size
        return found

    # tokens -> text

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, up to the end token."""
        kept = list(ids)
        if self.tokenizer.end_id in kept:
            kept = kept[: kept.index(self.tokenizer.end_id)]
        return self.tokenizer.decode(kept)

    def prompt(self, encoded: Encoded) -> str:
        """The rendered prompt, control tokens included and pictures as {picture:N}; part of an answer's key."""
        parts: list[str] = []
        run: list[int] = []
        slots = set(encoded.slots.tolist())
        for place, token in enumerate(encoded.ids.tolist()):
            if place not in slots:
                run.append(token)
                continue
            if run:
                parts.append(self.tokenizer.decode(run, controls=True))
                run = []
            if place - 1 not in slots:
                parts.append("{picture}")
        return "".join(parts) + (self.tokenizer.decode(run, controls=True) if run else "")


class FeatureSource:
    """Protocol of the feature cache: picture hashes in, Features by encoder name out."""

    def __call__(self, hashes: Sequence[str]) -> dict[str, Features]:
        """Features of these pictures, in this order."""
        raise NotImplementedError


def conversations(sample: Sample) -> list[tuple[Turn, ...]]:
    """The token sequences of a sample: one, or one per user/assistant pair when its turns are independent (a system turn belongs to each)."""
    if sample.attributes.get("turns") != "independent":
        return [sample.turns]
    head = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
    body = sample.turns[len(head) :]
    return [(*head, *body[start : start + 2]) for start in range(0, len(body), 2)]


def _common_prefix(lines: Sequence[_Line]) -> int:
    """Longest prefix with equal ids and entries, before the first answer of every line."""
    limit = min(line.prompt for line in lines)
    first = lines[0]
    length = 0
    while length < limit and all(line.ids[length] == first.ids[length] for line in lines):
        length += 1
    slots = {slot: entry for slot, entry in zip(first.slots, first.entries) if slot < length}
    for line in lines[1:]:
        own = {slot: entry for slot, entry in zip(line.slots, line.entries) if slot < length}
        differing = [slot for slot in slots.keys() | own.keys() if slots.get(slot) != own.get(slot)]
        length = min([length, *differing])
    return length


def _oriented(crop: torch.Tensor, orientation: int) -> torch.Tensor:
    """A crop (bands, h, w) after `orientation % 4` quarter turns and, from 4 on, a mirror."""
    turned = torch.rot90(crop, orientation % 4, (1, 2)) if orientation % 4 else crop
    return (turned.flip(2) if orientation >= 4 else turned).contiguous()


def _global_entries(encoded: Encoded, first: dict[tuple[str, int], int]) -> np.ndarray:
    """Entries of a sample's own table moved to the batch's table."""
    if not len(encoded.entries):
        return encoded.entries
    bounds = np.cumsum([0, *(measure.decoder for measure in encoded.measures)])
    picture = np.searchsorted(bounds, encoded.entries, side="right") - 1
    starts = np.asarray([first[p.hash, encoded.orientation] for p in encoded.pictures], np.int64)
    return encoded.entries - bounds[picture] + starts[picture]
