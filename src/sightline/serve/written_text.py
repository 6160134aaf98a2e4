"""The text of one answer while it is written: what may be handed out, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sightline.model.processor import Processor

UNFINISHED = "\ufffd"
"""What a tokenizer shows of a character of which not all bytes are there."""


class Writing:
    """Tokens in, text out. Text that may still turn out to be part of what ends the answer, or of a character, is held back."""

    def __init__(self, processor: Processor, stop: Sequence[str], most: int) -> None:
        self.processor, self.stop, self.most = processor, tuple(stop), most
        self.tokens: list[int] = []
        self.text = ""
        """All that was handed out."""
        self.finish: Literal["stop", "length"] | None = None
        endings = (*stop, processor.chat.stop) if processor.chat.stop else tuple(stop)
        self._beginnings = {ending[:length] for ending in endings for length in range(1, len(ending))}
        self._longest = max(map(len, self._beginnings), default=0)

    def add(self, token: int, last: bool = False) -> str:
        """What this token adds to what was handed out; `finish` says whether it was the last, as it is where `last` is told."""
        self.tokens.append(token)
        text = self.processor.decode(self.tokens)
        ended = self.processor.ended(self.tokens)
        for stop in self.stop:  # in their order, each in what the one before left: as an answer is cut that was written whole
            if stop in text:
                text, ended = text[: text.index(stop)], True
        if ended or last or len(self.tokens) >= self.most:
            self.finish = "stop" if ended else "length"
        else:
            text = self._safe(text)
        added = text[len(self.text) :]
        self.text += added
        return added

    def close(self) -> str:
        """End here for want of room: what was held back."""
        text = self.processor.decode(self.tokens)
        self.finish, added = "length", text[len(self.text) :]
        self.text = text
        return added

    def _safe(self, text: str) -> str:
        text = text.rstrip(UNFINISHED)
        for length in range(min(self._longest, len(text)), 0, -1):
            if text[-length:] in self._beginnings:
                return text[:-length]
        return text
