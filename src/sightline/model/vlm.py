"""Model: parts put together by a ModelConfig. `forward` is its only entry in training; `extend` is its only entry in decoding.

Letters: B bins, T tokens, N feature-table entries, D width, A answer tokens (see batch.py).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sightline.errors import Problem, Refused
from sightline.model.assembly import ModelConfig
from sightline.model.attention import allowed
from sightline.model.batch import Batch, Features, Output, Stream

HEAD_CHUNK = 4096
"""Answer rows per call of the language-model head: bounds the memory of (rows, V) logits."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What decoding remembers: cache columns, which of them are real, and the next position of each bin."""

    cache: Any
    valid: Tensor  # (B, cached) bool
    next: Tensor  # (B,) int64

    def fork(self, counts: Sequence[int]) -> State:
        """Bin i repeated counts[i] times; the copies go their own ways."""
        index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(self.next.device)
        return State(cache=copy.deepcopy(self.cache), valid=self.valid, next=self.next).select(index)

    def select(self, bins: Tensor) -> State:
        """Keep these bins, in this order. The cache is changed in place."""
        self.cache.reorder_cache(bins)
        return State(cache=self.cache, valid=self.valid[bins], next=self.next[bins])


class Model(nn.Module):
    """A composed model. Part paths are its attribute paths: encoders.NAME, connector, fusion, language_model, text_encoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({encoder.name: encoder.build() for encoder in config.encoders})
        channels = config.encoders[0].channels() if config.encoders else 0
        self.language_model = config.language_model.build() if config.language_model else None
        self.connector = config.connector.build(channels, config.language_model.width()) if config.connector and config.language_model else None
        self.fusion = config.fusion.build() if config.language_model else None
        self.text_encoder = config.text_encoder.build(channels) if config.text_encoder else None
        self._refuse_misfits(channels)

    def _refuse_misfits(self, channels: int) -> None:
        problems = []
        width = self.config.language_model.width() if self.config.language_model else channels
        if self.config.encoders and self.connector is None and channels != width:
            problems.append(
                Problem(
                    code="model/no-connector",
                    place="model.connector",
                    found=f"encoder tokens of {channels} numbers before a language model of width {width}",
                    allowed="equal widths, or a connector",
                    fix="add connector: {kind: mlp, depth: 2}",
                )
            )
        window = self.language_model.window if self.language_model is not None else None
        if window is not None and self.config.max_tokens > window:
            problems.append(
                Problem(
                    code="model/sliding-window",
                    place="model.max_tokens",
                    found=f"{self.config.max_tokens} tokens",
                    allowed=f"at most {window}: layers of this language model look back no further, and packed samples are masked without a window",
                    fix=f"model.max_tokens={window}",
                )
            )
        if problems:
            raise Refused(problems)

    @property
    def abilities(self) -> tuple[str, ...]:
        """What it can be asked: write, embed."""
        return self.config.abilities

    def parts(self) -> dict[str, nn.Module]:
        """Part path -> module, for every part with tensors."""
        found: dict[str, nn.Module] = {f"encoders.{name}": module for name, module in self.encoders.items()}
        for name in ("connector", "language_model", "text_encoder"):
            module = getattr(self, name)
            if module is not None:
                found[name] = module
        return found

    def encode(self, batch: Batch, consumer: str = "connector") -> Features | None:
        """Features of all crops as a consumer reads them, from the cache where the batch carries it."""
        if not batch.pictures.tilings:
            return None
        encoder = self.config.encoders[0]
        if batch.pictures.features is not None:
            return batch.pictures.features[encoder.name]
        return self.encoders[encoder.name](batch.pictures, encoder.read(consumer))

    def see(self, batch: Batch) -> Tensor | None:
        """The feature table (N, D): crop tokens in batch order."""
        features = self.encode(batch)
        if features is None:
            return None
        if self.connector is None:
            return features.values
        return self.connector(Features(values=features.values.to(next(self.connector.parameters()).dtype), grids=features.grids)).values

    def write(self, stream: Stream, table: Tensor | None) -> Tensor:
        """Token embeddings with the table's entries written into the slots, (B, T, D)."""
        assert self.language_model is not None
        x = self.language_model.embed(stream.ids)
        if table is None:
            assert not len(stream.slots), "slots without pictures"
            return x
        flat = x.reshape(-1, x.shape[-1]).index_copy(0, stream.slots, table[stream.sources].to(x.dtype))
        return flat.view_as(x) + 0 * table.sum().to(x.dtype)

    def forward(self, batch: Batch, ask: Literal["write", "embed"] = "write") -> Output:
        """write: log-probabilities of the targets. embed: unit vectors of pictures, of their tokens (with a tag projection), and of the side texts."""
        if ask == "embed":
            return self._embed(batch)
        assert self.language_model is not None and self.fusion is not None and batch.decoder is not None
        h = self.fusion(self.language_model, self.write(batch.decoder, self.see(batch)), batch.decoder)
        rows = h.reshape(-1, h.shape[-1])[batch.answers]
        logp, lse = [], []
        for start in range(0, len(rows), HEAD_CHUNK):
            logits = self.language_model.logits(rows[start : start + HEAD_CHUNK])
            total = logits.logsumexp(-1)
            logp.append(logits.gather(1, batch.targets[start : start + HEAD_CHUNK, None])[:, 0] - total)
            lse.append(total)
        nothing = rows.new_zeros(0, dtype=torch.float32)
        return Output(logp=torch.cat(logp) if logp else nothing, lse=torch.cat(lse) if lse else nothing)

    def _embed(self, batch: Batch) -> Output:
        assert self.text_encoder is not None
        features = self.encode(batch, "text_encoder")
        tagged = self.text_encoder.config.tags
        return Output(
            pictures=self.text_encoder.embed_pictures(features) if features else None,
            tokens=self.text_encoder.embed_tokens(features) if features and tagged else None,
            texts=self.text_encoder.embed_texts(batch.texts) if batch.texts is not None else None,
        )

    def extend(self, state: State | None, batch: Batch) -> tuple[Tensor, State]:
        """Decoding, one segment per bin: prefill (state None), going on from a shared prefix, and single steps.

        Returns the hidden state of the last token of each bin (B, D), and the new state. In `batch.decoder`, segment 0 marks padding at the end of a bin.
        """
        from transformers import DynamicCache

        assert self.language_model is not None and batch.decoder is not None
        stream = batch.decoder
        bins, length = stream.ids.shape
        real = stream.segments > 0
        x = self.write(stream, self.see(batch))
        own = allowed(stream)
        if state is None:
            cache, before, start = DynamicCache(), real.new_zeros(bins, 0), real.new_zeros(bins, dtype=torch.int64)
        else:
            cache, before, start = state.cache, state.valid, state.next
        pattern = torch.cat([before[:, None].expand(-1, length, -1), own], dim=2)
        positions = stream.positions + start[:, None]
        hidden = self.language_model.hidden(x, positions, pattern, cache)
        last = real.sum(1) - 1
        h = hidden[torch.arange(bins, device=last.device), last]
        reached = positions.masked_fill(~real, -1).amax(1) + 1
        return h, State(cache=cache, valid=torch.cat([before, real], dim=1), next=reached)
