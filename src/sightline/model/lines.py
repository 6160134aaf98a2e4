"""From pieces to tokens: one line of a sample, with its decoder and memory streams, slots, answers, and what each decoder token sees of memory.

Sample --conversations--> turns of each line;  [Piece] --tokenise--> Line --(branches of one trunk)--> Encoded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sightline.model.pieces import Control, Piece, PlacedShape, Slots, Words
from sightline.model.tokens import TextTokenizer
from sightline.samples.sample import Sample, Turn

Position = tuple[int, int, int]
"""Time, row, column; equal where positions lie on a line."""


@dataclass
class Strand:
    """One stream while it is tokenised. `entries` are numbers of crop tokens of all pictures together; -1-k is vector number k: those of the layout, then the sample's regions."""

    ids: list[int] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    next: int = 0
    """Next position."""

    def write(self, ids: Sequence[int]) -> None:
        """Text tokens: every position stream goes on by one each."""
        self.ids += ids
        self.positions += [(place, place, place) for place in range(self.next, self.next + len(ids))]
        self.next += len(ids)

    def take(self, other: Strand, start: int, stop: int) -> None:
        """Add tokens start..stop of another strand; entries and positions stay what they are."""
        moved = len(self.ids) - start
        chosen = [(slot + moved, entry) for slot, entry in zip(other.slots, other.entries) if start <= slot < stop]
        self.ids += other.ids[start:stop]
        self.positions += other.positions[start:stop]
        self.slots += [slot for slot, _ in chosen]
        self.entries += [entry for _, entry in chosen]

    def place(self, piece: Slots, start: int, pad: int, grid_positions: bool, regions: Mapping[PlacedShape, int]) -> None:
        """Slots; `start` = number of the picture's first entry, `regions` = entry of each region."""
        entries = piece.entries if piece.region is None else (regions[piece.region],)
        count = len(entries)
        self.slots += range(len(self.ids), len(self.ids) + count)
        self.entries += [start + entry if entry >= 0 else entry for entry in entries]
        if piece.grid is None or not grid_positions:
            self.write([pad] * count)
            return
        columns, rows, frames, at = piece.grid.columns, piece.grid.rows, piece.frames, self.next
        assert columns * rows * frames == count, f"{count} entries on a grid of {columns}x{rows}x{frames}"
        self.ids += [pad] * count
        self.positions += [(at + t, at + r, at + c) for t in range(frames) for r in range(rows) for c in range(columns)]
        self.next = at + max(frames, columns, rows)


@dataclass
class Line:
    """One token sequence."""

    decoder: Strand = field(default_factory=Strand)
    memory: Strand = field(default_factory=Strand)
    sees: list[tuple[int, int]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    taps: list[tuple[int, PlacedShape]] = field(default_factory=list)
    """Number of an answer, and what a head is to make of the hidden state that predicts it."""
    prompt: int = 0
    """Decoder length before the first answer token."""


class _Sight:
    """What decoder tokens see: the memory of the last run of pictures at or before them. A run ends with text of the conversation."""

    def __init__(self) -> None:
        self.start = self.end = 0
        self.interrupted = False
        self.crops: dict[tuple[int, int], tuple[int, int]] = {}
        self.waiting: list[tuple[int, int, int, int]] = []

    def remembered(self, piece: Piece, before: int, after: int) -> None:
        """Memory [before, after) was written for a picture."""
        if self.interrupted:
            self.start, self.interrupted = before, False
        self.end = after
        crop = piece.crop if isinstance(piece, Slots) else piece.sees
        if piece.picture is not None and crop is not None:
            first, _ = self.crops.get((piece.picture, crop), (before, after))
            self.crops[piece.picture, crop] = (first, after)


def tokenise(
    pieces: Sequence[Piece],
    offsets: Sequence[int],
    tokenizer: TextTokenizer,
    grid_positions: bool = False,
    start: int | None = None,
    regions: Mapping[PlacedShape, int] | None = None,
) -> Line:
    """Ids, slots, answers and sight of pieces. `offsets[p]` = first entry of picture p among the sample's entries, `start` = id with which the decoder begins,
    `regions` = entry of each region that pieces name.
    """
    line, sight, index = Line(), _Sight(), 0
    if start is not None:
        _decoder_ids(line, sight, [start], None)
    while index < len(pieces):
        piece = pieces[index]
        index += 1
        strand = line.decoder if piece.stream == "decoder" else line.memory
        before = len(strand.ids)
        if isinstance(piece, Slots):
            strand.place(piece, offsets[piece.picture], tokenizer.pad_id, grid_positions, regions or {})
            ids: list[int] = []
        elif isinstance(piece, Control):
            previous = pieces[index - 2] if index > 1 else None
            ids = [] if piece.merge and isinstance(previous, Control) and _merges(previous, piece) else [tokenizer.control(piece.token)]
        else:
            joined = [piece]
            while index < len(pieces) and _joins(piece, pieces[index]):
                joined.append(pieces[index])  # pyright: ignore[reportArgumentType]
                index += 1
            ids = tokenizer.encode("".join(one.text for one in joined))
            # text of the conversation among them ends a run of pictures, whoever wrote the first
            piece = next((one for one in joined if one.picture is None and one.text), piece)
        if piece.stream == "memory":
            strand.write(ids)
            sight.remembered(piece, before, len(strand.ids))
            continue
        if isinstance(piece, Slots):
            line.sees += [(sight.start, sight.end)] * (len(strand.ids) - before)
            continue
        if piece.answer and not line.prompt:
            line.prompt = len(line.decoder.ids)
        if piece.answer and piece.weight > 0:
            line.answers += range(len(line.decoder.ids) - 1, len(line.decoder.ids) - 1 + len(ids))
            line.targets += ids
            line.weights += [piece.weight] * len(ids)
            line.taps += [(len(line.answers) - 1, piece.tap)] if isinstance(piece, Control) and piece.tap is not None else []
        _decoder_ids(line, sight, ids, piece)
    for first, last, picture, crop in sight.waiting:
        line.sees[first:last] = [sight.crops[picture, crop]] * (last - first)
    if start is not None:  # the prompt is memory: an answer sees all of it from its first token on
        line.sees = [(0, len(line.memory.ids))] * len(line.decoder.ids)
    line.prompt = line.prompt or len(line.decoder.ids)
    return line


def _decoder_ids(line: Line, sight: _Sight, ids: Sequence[int], piece: Words | Control | None) -> None:
    first = len(line.decoder.ids)
    line.decoder.write(ids)
    line.sees += [(sight.start, sight.end)] * len(ids)
    if piece is None or not ids:
        return
    if piece.sees is not None and piece.picture is not None:
        sight.waiting.append((first, first + len(ids), piece.picture, piece.sees))
    sight.interrupted |= piece.picture is None


def _merges(previous: Control, piece: Control) -> bool:
    """Neighbouring wraps of one stream are one."""
    return previous.merge and (previous.token, previous.stream) == (piece.token, piece.stream)


def _joins(piece: Words, following: Piece) -> bool:
    """Neighbouring texts of one kind are tokenised together."""
    if not isinstance(following, Words):
        return False
    return (piece.answer, piece.weight, piece.stream, piece.sees) == (following.answer, following.weight, following.stream, following.sees)


def conversations(sample: Sample, one_answer: bool = False) -> list[tuple[Turn, ...]]:
    """The token sequences of a sample: one, or one per user/assistant pair when its turns are independent (a system turn belongs to each).

    `one_answer`: one sequence per learnt assistant turn, with all turns before it, for models that write only what comes last.
    """
    head = sample.turns[:1] if sample.turns and sample.turns[0].role == "system" else ()
    body = sample.turns[len(head) :]
    if sample.attributes.get("turns") == "independent":
        return [(*head, *body[start : start + 2]) for start in range(0, len(body), 2)]
    ends = [number for number, turn in enumerate(sample.turns) if turn.role == "assistant" and turn.weight > 0]
    if one_answer and ends and sample.turns[-1].role == "assistant":
        return [sample.turns[: end + 1] for end in ends]
    return [sample.turns]


def common_prefix(lines: Sequence[Line]) -> int:
    """Longest prefix of the decoder with equal ids, entries, positions and sight, before the first answer of every line."""
    limit = min(line.prompt for line in lines)
    first = lines[0]
    length = 0
    while length < limit and all(
        line.decoder.ids[length] == first.decoder.ids[length]
        and line.sees[length] == first.sees[length]
        and line.decoder.positions[length] == first.decoder.positions[length]
        for line in lines
    ):
        length += 1
    slots = {slot: entry for slot, entry in zip(first.decoder.slots, first.decoder.entries) if slot < length}
    for line in lines[1:]:
        own = {slot: entry for slot, entry in zip(line.decoder.slots, line.decoder.entries) if slot < length}
        differing = [slot for slot in slots.keys() | own.keys() if slots.get(slot) != own.get(slot)]
        length = min([length, *differing])
    return length
