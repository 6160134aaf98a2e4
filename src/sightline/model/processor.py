"""Processor: Sample -> Encoded -> Batch, shared by training, evaluation and chat.

    Sample --split--> user/assistant pairs --chat format, layout--> pieces --tokenise--> ids, slots, answers --trunk and branches--> Encoded
    [Encoded] in bins --collate--> Batch --Model.forward--> Output                                  (tokenising: lines.py, packing: packing.py)

Targets come from pieces as they are tokenised. The start of an answer is a token boundary, so a prompt is a prefix of the training sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from sightline.errors import Problem, Refused
from sightline.model.assembly import Measure, ModelConfig
from sightline.model.batch import Batch, Pictures, SideTexts
from sightline.model.chat import PICTURES, Role, script
from sightline.model.lines import Line, Strand, common_prefix, conversations, tokenise
from sightline.model.mask_batches import MaskAsking
from sightline.model.packing import (
    NO_TOKENS,
    Encoded,
    EncodedStream,
    FeatureSource,
    Frames,
    Table,
    oriented,
    packed_answers,
    packed_sight,
    packed_stream,
    pictured,
)
from sightline.model.pieces import Control, Piece, PlacedShape, Slots, Words
from sightline.model.region_words import answered_on, read_items, region_pieces, turn_text, unsayable
from sightline.model.tiling import Tiling, cut
from sightline.model.tokens import TextTokenizer
from sightline.samples.bands import missing_bands, taken
from sightline.samples.pictures import pixels
from sightline.samples.sample import Film, Item, Picture, Regions, Sample, Show, Text, Turn

MEASURES = 1 << 16
"""Sizes of pictures whose measure is remembered: clients may send any."""
CROP_BYTES = 512 << 20
"""Decoded crops that a processor keeps."""


class Processor:
    """Turns samples into batches for one resolved ModelConfig and its tokenizer."""

    def __init__(self, config: ModelConfig, tokenizer: TextTokenizer, side: TextTokenizer | None = None) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.side = side or tokenizer
        self.chat = config.chat_format()
        self._grid_positions = config.language_model is not None and config.language_model.grid_positions
        self._measures: dict[tuple[int, int, int], Measure] = {}
        self.masks = MaskAsking(config, config.heads.mask, self.read) if config.heads.mask is not None else None
        """Makes what the mask head is asked, where there is one."""
        self._cut: dict[tuple[str, tuple[str, ...], Tiling], tuple[torch.Tensor, ...]] = {}
        self._cut_bytes = 0

    # Sample -> pieces

    def measure(self, width: int, height: int, among: int = 1) -> Measure:
        """ModelConfig.measure, remembered."""
        key = (width, height, among)
        if key not in self._measures:
            if len(self._measures) >= MEASURES:
                self._measures.clear()
            self._measures[key] = self.config.measure(width, height, among)
        return self._measures[key]

    def pieces(self, turns: Sequence[Turn], measures: Sequence[Measure], answer: bool = True) -> list[Piece]:
        """Pieces of a conversation. With answer=False it ends where the model goes on writing: after the generation prompt.

        Where the fusion makes the prompt memory, all before the last answer goes there.
        """
        found: list[Piece] = []
        prompt = 0
        for step in script(self.chat, [turn.role for turn in turns], answer):
            if isinstance(step, str):
                found += self._format(step)
            elif step == PICTURES:
                found += [piece for turn in turns for item in turn.items if isinstance(item, Show | Film) for piece in self._seen(item, measures)]
            else:
                prompt = len(found) if turns[step].role == "assistant" else prompt
                found += self._items(turns[step], measures)
        prompt = prompt if answer else len(found)
        return [*map(_remembered, found[:prompt]), *found[prompt:]] if self.config.fusion.prompt == "memory" else found

    def _format(self, text: str) -> list[Piece]:
        controls = (*self.chat.controls, self.chat.end)
        return [Control(token=part) if known else Words(text=part) for known, part in self.tokenizer.split_controls(text, dict.fromkeys(controls))]

    def _items(self, turn: Turn, measures: Sequence[Measure]) -> list[Piece]:
        chat, learnt = self.chat, turn.role == "assistant"
        around: Role = getattr(chat, turn.role)
        # a tokenizer that puts a space before every text of its own accord writes the prefix's space
        prefix = around.prefix.removeprefix(" ") if learnt and self.tokenizer.spaces else around.prefix
        order: list[Item] = list(turn.items)
        if chat.pictures == "turn-start":
            order.sort(key=lambda item: not isinstance(item, Show | Film))
        found: list[Piece] = []
        for item in order:
            if isinstance(item, Text):
                told = item.text if chat.questions or turn.role != "user" else ""
                found.append(Words(text=told if found else prefix + told))
            elif isinstance(item, Show | Film):
                found += [] if chat.pictures in ("before-all", "first") else self._seen(item, measures)
            elif self.config.codec is not None:
                found += [Words(text=prefix)] if prefix and not found else []
                found += region_pieces(self.config.codec, item, [measure.tiling for measure in measures], question=not learnt)
            elif self.config.regions is not None and not learnt:
                found += self._pointed(item)
            else:
                raise Refused(
                    Problem(
                        code="model/item-not-said",
                        place="model",
                        found=type(item).__name__,
                        allowed="text, pictures and films: this model has no codec for regions",
                        fix="drop these turns, or name a region codec: `model.codec: xyhwt-pad`",
                    )
                )
        if not learnt:
            return found
        end = Words(text=chat.stop) if chat.stop else Control(token=chat.end)
        return [replace(piece, weight=turn.weight, answer=True) if isinstance(piece, Words | Control) else piece for piece in (*found, end)]

    def _pointed(self, item: Regions) -> list[Piece]:
        """Regions that a question names: their label, then the vector of each of their shapes."""
        found: list[Piece] = [Words(text=f"{item.label} ")] if item.label else []
        return found + [Slots(picture=region.picture, entries=(), region=(region.picture, region.shape)) for region in item.regions]

    def _seen(self, item: Show | Film, measures: Sequence[Measure]) -> list[Piece]:
        layout, route = self.config.layout, self.config.fusion.route
        prompts, vectors = self.config.prompts, len(layout.vectors)
        shown = item.pictures[-1] if isinstance(item, Film) else item.picture
        after: list[Piece] = [*prompts.slots(shown, vectors, self.config.fusion.prompt)] if prompts is not None else []
        after += [Words(text=self.chat.picture_after)] if self.chat.picture_after else []
        if isinstance(item, Film):
            own = [measures[picture] for picture in item.pictures]
            return [*layout.film(item.pictures, item.times, [one.tiling for one in own], [one.grids for one in own], route), *after]
        measure = measures[item.picture]
        pieces = layout.pieces(item.picture, measure.tiling, measure.grids, route)
        return [*(piece if isinstance(piece, Slots) else replace(piece, picture=item.picture) for piece in pieces), *after]

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
        sample, views = self._unrolled(sample)
        self._check_bands(views, place)
        measures = tuple(self.measure(p.width, p.height, len(views)) for p in views)
        offsets = np.cumsum([0, *(measure.entries for measure in measures)]).tolist()
        start = self.config.language_model.start_id if self.config.language_model is not None and self.config.fusion.prompt == "memory" else None
        self._check_said(sample, measures, place)
        regions = self._regions(sample, measures, place)
        numbers = {region: -1 - self.config.vectors - number for number, region in enumerate(regions)}
        lines = [
            tokenise(self.pieces(turns, measures, answer), offsets, self.tokenizer, self._grid_positions, start, numbers)
            for turns in conversations(sample, one_answer=start is not None)
        ]
        encoded = replace(self._branch(sample, lines, views, measures), regions=regions, **({} if answer else {"taps": ()}))
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

    def _check_bands(self, views: Sequence[Picture | Frames], place: str) -> None:
        """Refused with every picture that lacks a band which an encoder takes: a band that is not there is no band of zeros."""
        wanted = self.config.bands
        pictures = {picture.hash: picture for view in views for picture in (view.pictures if isinstance(view, Frames) else (view,))}
        problems = [problem for picture in pictures.values() if picture.bands != wanted for problem in self._missing(picture, place)]
        if problems:
            raise Refused(problems)

    def _missing(self, picture: Picture, place: str) -> list[Problem]:
        takers = [(encoder.path, encoder.bands) for encoder in self.config.encoders]
        return [problem for path, bands in takers for problem in missing_bands(picture, bands, place, path)]

    def _check_said(self, sample: Sample, measures: Sequence[Measure], place: str) -> None:
        """Refused with all regions that the codec cannot say, with the place of the sample."""
        if self.config.codec is None or not any(isinstance(item, Regions) for turn in sample.turns for item in turn.items):
            return
        tilings = [measure.tiling for measure in measures]
        problems = [problem for turns in conversations(sample) for problem in unsayable(self.config.codec, turns, tilings, place)]
        if problems:
            raise Refused(problems)

    def _regions(self, sample: Sample, measures: Sequence[Measure], place: str) -> tuple[PlacedShape, ...]:
        """The regions that questions name, each once. Refused with the place of the sample where one cannot be read."""
        if self.config.regions is None:
            return ()
        items = [item for turn in sample.turns if turn.role != "assistant" for item in turn.items if isinstance(item, Regions)]
        found = tuple(dict.fromkeys((region.picture, region.shape) for item in items for region in item.regions))
        problems: list[Problem] = []
        for picture, measure in enumerate(measures):
            shapes = [shape for owner, shape in found if owner == picture]
            try:
                if shapes:
                    self.config.regions.check(measure.tiling, [grid if grid.count else None for grid in measure.grids], shapes)
            except Refused as refused:
                problems += [replace(problem, place=f"{place}, {problem.place}") for problem in refused.problems]
        if problems:
            raise Refused(problems)
        return found

    def _unrolled(self, sample: Sample) -> tuple[Sample, tuple[Picture | Frames, ...]]:
        """The sample with its pictures numbered as the model sees them: what its turns show, in order, and films as groups of `frames` pictures that are one crop each.

        A last group that is not full repeats its last frame. Without films every picture is there, shown or not.
        """
        if not any(isinstance(item, Film) for turn in sample.turns for item in turn.items):
            return sample, sample.pictures
        together = max(encoder.frames for encoder in self.config.encoders)
        views: list[Picture | Frames] = []
        turns = []
        for turn in sample.turns:
            items: list[Item] = []
            for item in turn.items:
                first = len(views)
                if isinstance(item, Show):
                    views.append(sample.pictures[item.picture])
                    items.append(Show(picture=first))
                elif isinstance(item, Film):
                    groups = [item.pictures[start : start + together] for start in range(0, len(item.pictures), together)]
                    filled = [(*group, *group[-1:] * (together - len(group))) for group in groups]
                    views += [Frames(pictures=tuple(sample.pictures[p] for p in group)) if together > 1 else sample.pictures[group[0]] for group in filled]
                    items.append(Film(pictures=tuple(range(first, len(views))), times=item.times[::together]))
                else:
                    items.append(item)
            turns.append(replace(turn, items=tuple(items)))
        return replace(sample, turns=tuple(turns)), tuple(views)

    def _branch(self, sample: Sample, lines: list[Line], views: tuple[Picture | Frames, ...], measures: tuple[Measure, ...]) -> Encoded:
        """Lines as branches of one trunk. Memory is shared where all lines have the same; otherwise each line has its own, and there is no trunk."""
        several = len(lines) > 1
        remembered = [(line.memory.ids, line.memory.entries) for line in lines]
        shared = all(memory == remembered[0] for memory in remembered) and self.config.fusion.prompt == "decoder"
        trunk = common_prefix(lines) if several and shared else 0
        decoder, memory = Strand(), Strand()
        branches, memory_branches, sees, answers, pair_of, taps = [0] * trunk, [], [], [], [], []
        decoder.take(lines[0].decoder, 0, trunk)
        sees += lines[0].sees[:trunk]
        for number, line in enumerate(lines):
            branch = number + 1 if several else 0
            moved, before = len(decoder.ids) - trunk, 0 if shared else len(memory.ids)
            if not number or not shared:
                memory.take(line.memory, 0, len(line.memory.ids))
                memory_branches += [0 if shared else branch] * len(line.memory.ids)
            decoder.take(line.decoder, trunk, len(line.decoder.ids))
            branches += [branch] * (len(line.decoder.ids) - trunk)
            sees += [(low + before, high + before) for low, high in line.sees[trunk:]]
            taps += [(len(answers) + answer, region) for answer, region in line.taps]
            answers += [place + moved if place >= trunk else place for place in line.answers]
            pair_of += [number] * len(line.targets)
        stream = self._arrays(decoder, branches)
        return Encoded(
            sample=sample.id,
            source=sample.origin.source,
            ids=stream.ids,
            positions=stream.positions,
            branches=stream.branches,
            slots=stream.slots,
            entries=stream.entries,
            sees=np.asarray(sees, np.int32).reshape(-1, 2) if memory.ids else None,
            memory=self._arrays(memory, memory_branches) if memory.ids else None,
            answers=np.asarray(answers, np.int64),
            targets=np.asarray([target for line in lines for target in line.targets], np.int64),
            weights=np.asarray([weight for line in lines for weight in line.weights], np.float32),
            pair_of=np.asarray(pair_of, np.int64),
            kinds=tuple(str(sample.attributes.get("kind", "")).split(",")),
            pictures=views,
            measures=measures,
            taps=tuple(taps),
            read=self._read(sample, measures) if self.config.connector is not None and self.config.connector.reads_text else (),
        )

    def _arrays(self, strand: Strand, branches: list[int]) -> EncodedStream:
        places = np.asarray(strand.positions, np.int64).reshape(-1, 3)
        return EncodedStream(
            ids=np.asarray(strand.ids, np.int64),
            positions=np.ascontiguousarray(places.T) if self._grid_positions else places[:, 0].copy(),
            branches=np.asarray(branches, np.int32),
            slots=np.asarray(strand.slots, np.int64),
            entries=np.asarray(strand.entries, np.int64),
        )

    def _read(self, sample: Sample, measures: Sequence[Measure]) -> tuple[str, ...]:
        """Per picture, the text of the first user turn that shows it."""
        found = [""] * len(measures)
        tilings = [measure.tiling for measure in measures]
        for turn in reversed(sample.turns):
            for item in turn.items if turn.role == "user" else ():
                for picture in (item.picture,) if isinstance(item, Show) else item.pictures if isinstance(item, Film) else ():
                    found[picture] = turn_text(self.config.codec, turn, tilings)
        return tuple(found)

    def encode_pair(self, sample: Sample, text: str) -> Encoded:
        """Its picture and one side text, for a dual tower; nothing is decoded."""
        [picture] = sample.pictures
        self._check_bands(sample.pictures, f"{sample.origin.source}:{sample.origin.row or sample.id}")
        return pictured(picture, self.measure(picture.width, picture.height), sample.id, sample.origin.source, (text,))

    # Encoded -> Batch

    def side_texts(self, texts: Sequence[str], picture_of: Sequence[int]) -> SideTexts:
        """Ids of side texts, each begun by the first token of the part that takes them, ended by the end token, and cut at its `max_tokens`."""
        part = self.config.side_part
        first = [self.side.control(part.begin)] if getattr(part, "begin", None) else []
        room = getattr(part, "max_tokens", 512) - len(first) - 1
        lines = [[*first, *self.side.encode(text)[:room], self.side.end_id] for text in texts]
        if getattr(part, "padded", False):
            lines = [line + [self.side.pad_id] * (part.max_tokens - len(line)) for line in lines]
        ids = torch.full((len(lines), max(len(line) for line in lines)), self.side.pad_id, dtype=torch.int64)
        for row, line in enumerate(lines):
            ids[row, : len(line)] = torch.tensor(line)
        return SideTexts(ids=ids, lengths=torch.tensor([len(line) for line in lines]), picture_of=torch.tensor(list(picture_of), dtype=torch.int64))

    def collate(
        self, bins: Sequence[Sequence[Encoded]], features: FeatureSource | None = None, root: Path | None = None, tag_words: int = 0, even: int = 1
    ) -> Batch:
        """One Batch; rows, bins and tokens keep their order. Pictures that several rows show are encoded once. `tag_words` = length of the objective's word list.

        `even`: bins are padded to a multiple of so many tokens.
        """
        rows = [encoded for packed in bins for encoded in packed]
        table = Table(rows)
        pad, vectors = self.tokenizer.pad_id, self.config.vectors
        decoder = packed_stream([[table.placed(one, one.stream, vectors) for one in packed] for packed in bins], pad, even=even)
        memory = sees = None
        if any(one.memory is not None for one in rows):
            memory = packed_stream([[table.placed(one, one.memory or NO_TOKENS, vectors) for one in packed] for packed in bins], pad, least=1)
            sees = packed_sight(bins, even)
        texts = None
        if any(encoded.texts for encoded in rows):
            told = [(text, table.of(encoded)[0] if encoded.pictures else -1) for encoded in rows for text in encoded.texts]
            texts = self.side_texts([text for text, _ in told], [index for _, index in told])
        elif any(encoded.read for encoded in rows):
            texts = self.side_texts([shown.read for shown in table.places], list(range(len(table.places))))
        tags = None
        if any(encoded.tags is not None for encoded in rows):
            tags = torch.zeros(len(table.places), tag_words, dtype=torch.uint8)
            for encoded in rows:
                tags[table.of(encoded)[0], list(encoded.tags or ())] = 1
        answers = packed_answers(bins, even)
        return Batch(
            decoder=decoder,
            memory=memory,
            sees=sees,
            answers=answers.places,
            targets=answers.targets,
            weights=answers.weights,
            owners=answers.owners,
            rows=tuple((encoded.source, encoded.sample, ",".join(encoded.kinds)) for encoded in rows),
            pictures=self._pictures(table, features, root),
            texts=texts,
            tags=tags,
            regions=tuple(table.regions),
            masks=self.masks.of(rows, root) if self.masks is not None else None,
        )

    def _pictures(self, table: Table, features: FeatureSource | None, root: Path | None) -> Pictures:
        tilings = tuple(shown.tiling for shown in table.places)
        picture_of = torch.tensor([index for index, tiling in enumerate(tilings) for _ in tiling.crops], dtype=torch.int64)
        if features is not None and tilings:
            return Pictures(tilings=tilings, picture_of=picture_of, features=features([(shown.hash, shown.tiling) for shown in table.places]))
        crops = tuple(
            oriented(crop, shown.orientation) for shown, picture in zip(table.places, table.pictures) for crop in self._crops(picture, shown.tiling, root)
        )
        return Pictures(tilings=tilings, picture_of=picture_of, pixels=crops, bands=self.config.bands)

    def _crops(self, picture: Picture | Frames, tiling: Tiling, root: Path | None) -> tuple[torch.Tensor, ...]:
        """Crops of a picture, kept in memory up to CROP_BYTES: small sets are decoded once and not once an epoch. Frames of one crop are joined on the bands."""
        if isinstance(picture, Frames):
            return tuple(torch.cat(crops) for crops in zip(*(self._crops(frame, tiling, root) for frame in picture.pictures)))
        key = (picture.hash, picture.bands, tiling)
        found = self._cut.get(key)
        if found is None:
            found = tuple(map(torch.from_numpy, self.cut(picture, tiling, root)))
            size = sum(crop.nbytes for crop in found)
            if self._cut_bytes + size <= CROP_BYTES:
                self._cut[key] = found
                self._cut_bytes += size
        return found

    def forget_crops(self) -> None:
        """Let go of the crops that are kept: of pictures that nobody looks at again."""
        self._cut.clear()
        self._cut_bytes = 0
        if self.masks is not None:
            self.masks.forget()

    def read(self, picture: Picture, bands: tuple[str, ...], root: Path | None = None) -> np.ndarray:
        """Pixels (height, width, bands) of a picture in these bands, as stored. Refused when one is missing."""
        return taken(pixels(picture, root), picture, bands, "picture", "model")

    def cut(self, picture: Picture, tiling: Tiling, root: Path | None = None) -> list[np.ndarray]:
        """Crops (bands, h, w) of a picture as stored, with the bands that the encoders take, in the order of `config.bands`. Refused when one is missing."""
        wanted = self.config.bands
        return cut(self.read(picture, wanted, root), tiling, wanted, self.config.band_means)

    # tokens -> text

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, up to the end token or the text that ends an answer."""
        kept = list(ids)
        if self.tokenizer.end_id in kept:
            kept = kept[: kept.index(self.tokenizer.end_id)]
        text = self._words(kept).removeprefix(self.chat.assistant.prefix)
        return text.partition(self.chat.stop)[0] if self.chat.stop else text

    def _words(self, ids: Sequence[int]) -> str:
        """Text of ids with the control tokens of the codec by their names: regions are read from it."""
        tokens = self.config.codec.control if self.config.codec is not None else ()
        shown = {self.tokenizer.control(token): token for token in tokens}
        runs = groupby(ids, key=lambda one: one if one in shown else None)
        return "".join(self.tokenizer.decode(run) if token is None else shown[token] * len(list(run)) for token, run in runs)

    def items(self, text: str, sample: Sample) -> tuple[tuple[Item, ...], tuple[Problem, ...]]:
        """What an answer to the sample says: text and, where the model has a codec, regions in px of the picture shown last; and what of it is not well formed."""
        shown = answered_on(sample.turns)
        if self.config.codec is None or shown is None:
            return (Text(text=text),), ()
        picture = sample.pictures[shown]
        return read_items(self.config.codec, text, shown, self.measure(picture.width, picture.height, len(sample.pictures)).tiling)

    @property
    def tap_id(self) -> int | None:
        """Id of the token that stands for a mask; None where the model draws none."""
        codec = self.config.codec
        return self.tokenizer.control(codec.control[0]) if codec is not None and "tap" in codec.marks else None

    def ended(self, ids: list[int]) -> bool:
        """Whether the last of generated ids ended the answer."""
        return ids[-1:] == [self.tokenizer.end_id] or bool(self.chat.stop and self.chat.stop in self.tokenizer.decode(ids))

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


def _remembered(piece: Piece) -> Piece:
    """The piece as part of a prompt that is memory."""
    return replace(piece, stream="memory") if isinstance(piece, Slots) else replace(piece, stream="memory", answer=False, weight=0.0)
