"""Lines that are being written together: prompts come in by pieces, tokens are added to all at once, lines leave when they end.

`SlotLines` keeps keys and values in place and knows prompts again; `JoinedLines` works for every fusion, those with memory included, and moves what is there when a line joins or leaves.
Letters: B lines, A asked, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sightline.evaluate.looked import Looked
from sightline.evaluate.prefixes import head, tail
from sightline.model.batch import Batch, Stream, empty_pictures, to_device
from sightline.model.packing import NO_TOKENS, Encoded, pictured
from sightline.model.processor import Processor
from sightline.model.slots import Slots
from sightline.model.vlm import Model, State
from sightline.serve.prefix_cache import PrefixCache, spelled

ROLES = ("overview", "tile", "detail", "canvas")


class Lines(Protocol):
    """Lines of one model. One prompt at a time is being read."""

    def __len__(self) -> int:
        """Lines that are being written."""
        ...

    def open(self, encoded: Encoded) -> int:
        """Begin to read a prompt; how many of its tokens are known already."""
        ...

    def advance(self) -> Tensor | None:
        """Read a picture or the next tokens of the prompt; the hidden state (1, D) of its last token once it is read."""
        ...

    def enter(self, count: int) -> None:
        """The prompt that was read becomes `count` lines after the others."""
        ...

    def drop(self) -> None:
        """The prompt that is being read is not wanted any more."""
        ...

    def step(self, tokens: list[int]) -> Tensor:
        """One token more for each line, in order: hidden states (B, D)."""
        ...

    def leave(self, line: int, written: list[int]) -> None:
        """A line ends, `written` being its tokens; the last line takes its number."""
        ...


def lines_of(model: Model, processor: Processor, precision: str, rows: int, chunk: int, kept: int) -> Lines:
    """The kind of lines that a model allows. `rows`: most lines; `chunk`: tokens of a prompt read at once; `kept`: bytes of prompts that are known again."""
    features = Looked(model, processor, precision)
    fusion = model.config.fusion
    plain = fusion.prompt == "decoder" and all(fusion.route(role) == "decoder" for role in ROLES)
    return SlotLines(model, processor, features, rows, chunk, kept) if plain else JoinedLines(model, processor, features)


class _Reading:
    """What both kinds do with pictures: one is encoded at a time, so that lines being written wait for no more than one."""

    def __init__(self, model: Model, processor: Processor, features: Looked) -> None:
        self.model, self.processor, self.features = model, processor, features
        self.device = next(model.parameters()).device
        self.encoded: Encoded | None = None
        self._unseen: list[Encoded] = []

    def _begin(self, encoded: Encoded) -> None:
        assert self.encoded is None, "one prompt is read at a time"
        self.encoded = encoded
        self._unseen = [pictured(picture, measure) for picture, measure in zip(encoded.pictures, encoded.measures)]

    def _looked(self) -> bool:
        """Encode the next picture; True where there was none left."""
        if not self._unseen:
            return True
        self.features.look([self._unseen.pop(0)])
        self.processor.forget_crops()  # features are kept; nobody looks at pixels again
        return False


class SlotLines(_Reading):
    """Lines in the rows of `Slots`; the last row is that of the prompt being read."""

    def __init__(self, model: Model, processor: Processor, features: Looked, rows: int, chunk: int, kept: int) -> None:
        super().__init__(model, processor, features)
        self.slots = Slots(len(model.language_model.blocks), rows + 1)
        self.prefixes = PrefixCache(kept)
        self.chunk = chunk
        self._spelled: list[np.ndarray] = []
        self._lengths: list[int] = []
        self._next: list[int] = []
        self._own, self._done, self._known = np.zeros(0, np.int64), 0, 0

    def __len__(self) -> int:
        return len(self._lengths)

    def open(self, encoded: Encoded) -> int:
        self._begin(encoded)
        self._own = spelled(encoded, self.processor.config.vectors)
        kept, self._known = self.prefixes.find(self._own)
        if kept is not None:
            self.slots.put(self.slots.rows - 1, kept, self._known)
            unread = encoded.slots[encoded.slots >= self._known]
            self._unseen = self._unseen if len(unread) else []
        self._done = self._known
        return self._known

    def advance(self) -> Tensor | None:
        encoded = self.encoded
        assert encoded is not None
        if not self._looked():
            return None
        tokens = min(self.chunk, encoded.length - self._done)
        part = head(tail(encoded, self._done, whole=False), tokens)
        if not len(part.slots):
            part = tail(part, 0, whole=False)  # pictures that this piece does not show are not needed
        self.features.look([part])
        batch = to_device(self.processor.collate([[part]], features=self.features), self.device)
        state = self.slots.state(self.slots.rows - 1, [self._done], tokens, self.device)
        h, _ = self.model.extend(state, batch, torch.tensor([tokens - 1], device=self.device))
        self._done += tokens
        if self._done < encoded.length:
            return None
        self._keep(self._own, self.slots.rows - 1)
        return h

    def enter(self, count: int) -> None:
        encoded = self.encoded
        assert encoded is not None and self._done == encoded.length
        for _ in range(count):
            self.slots.copy(self.slots.rows - 1, len(self), encoded.length)
            self._lengths.append(encoded.length)
            self._next.append(int(encoded.positions.max()) + 1)
            self._spelled.append(self._own)
        self.encoded = None

    def drop(self) -> None:
        self.encoded, self._unseen = None, []

    def step(self, tokens: list[int]) -> Tensor:
        state = self.slots.state(0, self._lengths, 1, self.device)
        h, _ = self.model.extend(state, to_device(_single(tokens, self._next), self.device), torch.arange(len(tokens), device=self.device))
        self._lengths = [length + 1 for length in self._lengths]
        self._next = [place + 1 for place in self._next]
        return h

    def leave(self, line: int, written: list[int]) -> None:
        length = self._lengths[line]
        whole = np.concatenate([self._spelled[line], np.asarray(written, np.int64)])[:length]
        self._keep(whole, line)
        last = len(self) - 1
        if line != last:
            self.slots.copy(last, line, self._lengths[last])
        self._lengths[line], self._next[line], self._spelled[line] = self._lengths[last], self._next[last], self._spelled[last]
        del self._lengths[last], self._next[last], self._spelled[last]

    def _keep(self, line: np.ndarray, row: int) -> None:
        if self.prefixes.budget and not self.prefixes.holds(line):
            self.prefixes.add(line, self.slots.kept(row, len(line)))


class JoinedLines(_Reading):
    """Lines of a model whose prompts, or pictures, are memory: prompts are read whole."""

    def __init__(self, model: Model, processor: Processor, features: Looked) -> None:
        super().__init__(model, processor, features)
        self._count = 0
        self._read: State | None = None
        self._state: State | None = None

    def __len__(self) -> int:
        return self._count

    def open(self, encoded: Encoded) -> int:
        self._begin(encoded)
        return 0

    def advance(self) -> Tensor | None:
        assert self.encoded is not None
        if not self._looked():
            return None
        encoded = self.encoded
        if encoded.memory is None:  # lines with memory and lines without can only be together where all have some
            encoded = replace(encoded, memory=NO_TOKENS, sees=np.zeros((encoded.length, 2), np.int32))
        self.features.look([encoded])
        batch = self.processor.collate([[encoded]], features=self.features)
        h, self._read = self.model.extend(None, to_device(batch, self.device))
        return h

    def enter(self, count: int) -> None:
        assert self._read is not None
        own = self._read.fork([count]) if count > 1 else self._read
        self._state = own if self._state is None else State.join([self._state, own])
        self._count += count
        self.encoded = self._read = None

    def drop(self) -> None:
        self.encoded, self._unseen, self._read = None, [], None

    def step(self, tokens: list[int]) -> Tensor:
        h, self._state = self.model.extend(self._state, to_device(_single(tokens, [0] * len(tokens)), self.device))
        return h

    def leave(self, line: int, written: list[int]) -> None:
        assert self._state is not None
        order = list(range(self._count))
        order[line] = order[-1]
        self._count -= 1
        self._state = self._state.select(torch.tensor(order[:-1], device=self.device)) if self._count else None


def _single(tokens: list[int], positions: list[int]) -> Batch:
    """A batch of one token for each of several lines."""
    none = torch.zeros(0, dtype=torch.int64)
    ids = torch.tensor(tokens)[:, None]
    one = torch.ones_like(ids, dtype=torch.int32)
    stream = Stream(ids=ids, positions=torch.tensor(positions)[:, None], segments=one, branches=one - 1, slots=none, sources=none)
    empty: Any = empty_pictures()
    return Batch(decoder=stream, answers=none, targets=none, weights=none.float(), owners=none, rows=(), pictures=empty)
