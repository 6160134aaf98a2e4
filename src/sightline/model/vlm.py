"""Model: parts put together by a ModelConfig. `forward` is its only entry in training; `extend` is its only entry in decoding.

Letters: B bins, T tokens, M memory tokens, N feature-table entries, D width, A answer tokens (see batch.py).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from sightline.errors import Problem, Refused
from sightline.model import fusion_modules
from sightline.model.assembly import ModelConfig
from sightline.model.attention import allowed, readable
from sightline.model.batch import Batch, Features, Given, MaskTaps, Output, Stream
from sightline.model.connector_kinds.by_encoder import ByEncoderConnector
from sightline.model.fusion_modules import Memory
from sightline.model.lean_functions import likelihood
from sightline.model.segment_attention import SegmentPattern

COMMON_VOCABULARY = 32_000
HEAD_BYTES = 128 << 20
"""float32 logits per call of the language-model head. Where there are more, each call's are computed again in backward: they never exist whole."""


@dataclass(frozen=True, kw_only=True)
class State:
    """What decoding remembers: cache columns, which of them are real and whose, the next position of each bin, memory, and what of it the last token saw."""

    cache: Any
    valid: Tensor  # (B, cached) bool
    branches: Tensor  # (B, cached) int32: 0 = what all lines of the bin read, 1.. = that line's own
    next: Tensor  # (B,) int64
    memory: Memory | None = None
    sees: Tensor | None = None  # (B, 2) int32

    def fork(self, counts: Sequence[int]) -> State:
        """Bin i repeated counts[i] times; the copies go their own ways."""
        index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(self.next.device)
        return replace(self, cache=copy.deepcopy(self.cache)).select(index)

    @staticmethod
    def join(states: Sequence[State]) -> State:
        """Bins of several states, in order; narrow ones get columns that nothing reads. The states are used up: their caches are emptied as the new one is filled."""
        from sightline.model.cache_room import joined

        first = states[0]
        if len(states) == 1:
            return first
        width = max(state.valid.shape[1] for state in states)
        wide = lambda own: pad(own, (0, width - own.shape[1]))  # noqa: E731
        memories = [state.memory for state in states if state.memory is not None]
        sees = [state.sees for state in states if state.sees is not None]
        assert len(memories) in (0, len(states)), "all states have memory, or none"
        return State(
            cache=joined([state.cache for state in states]),
            valid=torch.cat([wide(state.valid) for state in states]),
            branches=torch.cat([wide(state.branches) for state in states]),
            next=torch.cat([state.next for state in states]),
            memory=Memory.stack(memories) if memories else None,
            sees=torch.cat(sees) if len(sees) == len(states) else None,
        )

    def reach(self, stream: Stream) -> Tensor:
        """(B, T, cached + T) bool: which columns the tokens of a stream read, once they are there themselves."""
        known, own = self.branches[:, None], stream.branches[:, :, None]
        return torch.cat([self.valid[:, None] & ((known == 0) | (known == own)), allowed(stream)], dim=2)

    def after(self, stream: Stream, following: Tensor, memory: Memory | None, sees: Tensor | None) -> State:
        """What is remembered once the tokens of a stream are in the cache; `following` (B,): the next position of each bin."""
        valid = torch.cat([self.valid, stream.segments > 0], dim=1)
        branches = torch.cat([self.branches, stream.branches], dim=1)
        return State(cache=self.cache, valid=valid, branches=branches, next=following, memory=memory, sees=sees)

    def select(self, bins: Tensor) -> State:
        """Keep these bins, in this order. The cache is changed in place."""
        self.cache.reorder_cache(bins)
        memory = self.memory.select(bins) if self.memory is not None else None
        sees = self.sees[bins] if self.sees is not None else None
        return State(cache=self.cache, valid=self.valid[bins], branches=self.branches[bins], next=self.next[bins], memory=memory, sees=sees)


class LayoutVectors(nn.Module):
    """Learned vectors of width D that a layout places among the entries."""

    def __init__(self, names: Sequence[str], width: int) -> None:
        super().__init__()
        self.names = tuple(names)
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.randn(width) * width**-0.5))

    def forward(self) -> Tensor:
        """(names, D), in the layout's order."""
        return torch.stack([getattr(self, name) for name in self.names])


class Model(nn.Module):
    """A composed model. Part paths are its attribute paths: encoders.NAME, combine, connector, layout, prompts, regions, fusion, language_model, text_encoder, heads.NAME."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({encoder.name: encoder.build() for encoder in config.encoders})
        self.language_model: Any = config.language_model.build() if config.language_model else None
        width = config.language_model.width() if config.language_model else 0
        # it bounds the size of a chunk of the head, nothing else: where a config leaves it to its class, a common size will do
        self._vocabulary = config.language_model.block().get("vocab_size", COMMON_VOCABULARY) if config.language_model else 0
        channels = {encoder.name: encoder.channels() for encoder in config.encoders}
        combined = config.combined
        self.combine: Any = combined.build(channels if combined.place == "before" else dict.fromkeys(channels, width)) if config.encoders else None
        self.connector: Any = self._build_connector(channels, width)
        vectors = config.layout.vectors if config.language_model else ()
        self.layout = LayoutVectors(vectors, width) if vectors else None
        self.prompts: Any = config.prompts.build(list(self.encoders.items()), width) if config.prompts is not None else None
        self.regions: Any = config.regions.build(width) if config.regions is not None else None
        self.fusion: Any = config.fusion.build(config.language_model.block()) if config.language_model else None
        if self.fusion is not None:
            self.fusion.attach(self.language_model)
        own_text = config.text_encoder if config.text_encoder is not None and config.text_part is None else None
        seen = config.encoders[0].channels("text_encoder") if config.encoders else 0
        self.text_encoder: Any = own_text.build(seen) if own_text is not None else None
        self.heads = nn.ModuleDict({name: head.build(width, config.encoders) for name, head in config.heads.named().items()})
        self.noise: Any = None
        """What a stage does to embedded text while it trains: (x, stream) -> x."""
        self._refuse_misfits(channels, width)

    def _build_connector(self, channels: dict[str, int], width: int) -> Any:
        connector, combined = self.config.connector, self.config.combined
        if connector is None:
            return None
        if isinstance(connector, ByEncoderConnector):
            return connector.build_each(channels, width)
        before = {combined.channels(channels)} if combined.place == "before" else set(channels.values())
        if len(before) > 1:
            raise Refused(
                Problem(
                    code="model/shared-connector",
                    place="model.connector",
                    found=f"one connector for encoders of {', '.join(f'{n}: {c}' for n, c in channels.items())} channels",
                    allowed="equal channels, or a connector per encoder",
                    fix="connector: {kind: by-encoder, connectors: {NAME: {kind: ...}, ..}}",
                )
            )
        return connector.build(before.pop(), width)

    def _refuse_misfits(self, channels: dict[str, int], width: int) -> None:
        problems = []
        if self.config.encoders and self.connector is None and self.language_model is not None:
            wide = self.language_model.memory_width if self.config.fusion.route("overview") == "memory" else width
            problems += [
                Problem(
                    code="model/no-connector",
                    place="model.connector",
                    found=f"encoder tokens of {own} numbers before a language model of width {wide}",
                    allowed="equal widths, or a connector",
                    fix="add connector: {kind: mlp, depth: 2}",
                )
                for own in {self.config.combined.channels(channels)} - {wide}
            ]
        wide = self.language_model.memory_width if self.language_model is not None else width
        if self.config.prompts is not None and self.config.prompts.entries and self.connector is None and wide != width:
            problems.append(
                Problem(
                    code="model/prompt-width",
                    place="model.prompts.place",
                    found=f"prompts of {width} numbers beside encoder tokens of {wide}",
                    allowed="equal widths, or prompts in the encoders",
                    fix="prompts: {place: encoder}",
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
        """What it can be asked: write, embed, match, tell, mask."""
        return self.config.abilities

    @property
    def texts(self) -> Any:
        """The module that embeds texts: the text encoder, or the part that is also one."""
        return getattr(self, self.config.text_part) if self.config.text_part else self.text_encoder

    def parts(self) -> dict[str, nn.Module]:
        """Part path -> module, for every part with tensors; a connector per encoder is a part each."""
        found: dict[str, nn.Module] = {f"encoders.{name}": module for name, module in self.encoders.items()}
        for name in ("combine", "connector", "layout", "prompts", "regions", "fusion", "language_model", "text_encoder"):
            module = getattr(self, name)
            if name == "connector" and isinstance(self.config.connector, ByEncoderConnector):
                found |= {f"connector.{encoder}": own for encoder, own in module.connectors.items()}
            elif module is not None and next(module.parameters(), None) is not None:
                found[name] = module
        return found | {f"heads.{name}": module for name, module in self.heads.items()}

    def encode(self, batch: Batch, consumer: str = "connector") -> dict[str, Features]:
        """Features by encoder, as a consumer reads them; from the cache where the batch carries it."""
        if not batch.pictures.tilings:
            return {}
        if batch.pictures.features is not None:
            return batch.pictures.features
        found: dict[str, Features] = {}
        for encoder in self.config.encoders:
            module = self.encoders[encoder.name]
            prompts = self.prompts(encoder.name) if self.config.prompted_encoders else None
            learns = any(p.requires_grad for p in module.parameters()) or (prompts is not None and prompts.requires_grad)
            with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
                own: Features = module(batch.pictures, encoder.read(consumer), **({"prompts": prompts} if prompts is not None else {}))
            kind = own.values.device.type
            if consumer == "connector" and torch.is_autocast_enabled(kind) and not own.values.requires_grad:
                own = replace(own, values=own.values.to(torch.get_autocast_dtype(kind)))  # what the feature cache holds
            found[encoder.name] = own
        return found

    def see(self, batch: Batch) -> Tensor | None:
        """The feature table (N, D): crop tokens in batch order, then the layout's vectors, prompts, and those of regions."""
        features = self.encode(batch)
        if not features:
            return None
        texts = batch.texts if self.config.connector is not None and self.config.connector.reads_text else None
        if self.config.combined.place == "before":
            table = self._connect(self.combine(features, batch.pictures), texts, batch)
        elif isinstance(self.config.connector, ByEncoderConnector):
            table = self.combine(self.connector.forward_each({name: self._cast(own) for name, own in features.items()}, texts, batch.pictures), batch.pictures)
        else:
            table = self.combine({name: self._connect(own, texts, batch) for name, own in features.items()}, batch.pictures)
        vectors = [self.layout()] if self.layout is not None else []
        vectors += [self.prompts()] if self.prompts is not None and not self.config.prompted_encoders else []
        vectors += [self.regions(table, batch.pictures, batch.regions)] if self.regions is not None else []
        return torch.cat([table.values, *(found.to(table.values.dtype) for found in vectors)]) if vectors else table.values

    def _cast(self, features: Features) -> Features:
        return replace(features, values=features.values.to(next(self.connector.parameters()).dtype))

    def _connect(self, features: Features, texts: Any, batch: Batch) -> Features:
        return features if self.connector is None else self.connector(self._cast(features), texts=texts, pictures=batch.pictures)

    def write(self, stream: Stream, table: Tensor | None, memory: bool = False) -> Tensor:
        """Token embeddings with the table's entries written into the slots, (B, T, D); `memory`: it is the memory stream, which another side may read."""
        x = (self.language_model.embed_memory if memory else self.language_model.embed)(stream.ids)
        x = x if self.noise is None else self.noise(x, stream)
        if table is None:
            assert not len(stream.slots), "slots without pictures"
            return x
        if x.shape[-1] != table.shape[-1]:  # memory of a decoder whose cross-attention reads the encoder's own width: it holds nothing but entries
            x = x.new_zeros(*x.shape[:2], table.shape[-1])
        flat = x.reshape(-1, x.shape[-1]).index_copy(0, stream.slots, table[stream.sources].to(x.dtype))
        return flat.view_as(x) + 0 * table.sum().to(x.dtype)

    def forward(self, batch: Batch, ask: Literal["write", "mask", "embed", "match", "tell"] = "write", given: Given | None = None) -> Output:
        """write: log-probabilities of the targets; mask: those, and logits of the masks that answers name. embed: unit vectors of pictures, of their tokens (with a tag projection), and of the side texts.

        match: logits of `given.pairs`; tell: log-probabilities of the tokens of `given.texts`, both from the features of an earlier `embed`.
        """
        if ask == "embed":
            return self._embed(batch)
        if ask == "match":
            assert given is not None
            return Output(match=self.texts.match(given.features, given.texts, given.pairs))
        if ask == "tell":
            assert given is not None
            told = self.texts.tell(given.features, given.texts)
            return Output(logp=told.logp, mean_logp=told.mean_logp, owners=told.owners)
        rows = self.rows(batch)
        logp, lse = [], []
        chunk = max(1, HEAD_BYTES // (4 * self._vocabulary))
        for own, targets in zip(rows.split(chunk), batch.targets.split(chunk)):
            again = len(rows) > chunk and torch.is_grad_enabled()
            found = checkpoint(self._judge, own, targets, use_reentrant=False) if again else self._judge(own, targets)
            logp.append(found[0])
            lse.append(found[1])
        nothing = rows.new_zeros(0, dtype=torch.float32)
        masks = self.draw(rows[batch.masks.answers], batch.masks) if ask == "mask" and batch.masks is not None else None
        return Output(logp=torch.cat(logp) if logp else nothing, lse=torch.cat(lse) if lse else nothing, masks=masks)

    def draw(self, taps: Tensor, asked: MaskTaps) -> Tensor:
        """Logits (G, s, s) of the masks that hidden states (G, D) stand for. Training goes through `forward`; this is for what was decoded."""
        return self.heads["mask"](taps, asked, self.encoders)

    def _judge(self, rows: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of targets (A,) and log-sum-exp (A,) of rows (A, D)."""
        return likelihood(self.language_model.logits(rows), targets)

    def rows(self, batch: Batch) -> Tensor:
        """Last hidden states of the decoder at the places that predict (A, D)."""
        h = self.hidden(batch, batch.answers)
        return h if h.dim() == 2 else h.flatten(0, 1)[batch.answers]

    def hidden(self, batch: Batch, places: Tensor | None = None) -> Tensor:
        """Last hidden states of the decoder (B, T, D); where the language model can, only those of flat `places` (A, D)."""
        assert batch.decoder is not None
        table = self.see(batch)
        memory = self._memory(batch, table, keep=False)
        reads = readable(batch.sees, memory.values.shape[1]) if memory is not None and batch.sees is not None else None
        x = self.write(batch.decoder, table if len(batch.decoder.slots) or batch.memory is None else None)
        by_segment = getattr(self.language_model, "segments", False) and bool(batch.decoder.runs)
        pattern = SegmentPattern.of(batch.decoder) if by_segment else allowed(batch.decoder)
        if places is not None and by_segment and isinstance(self.fusion, fusion_modules.Sequence):
            return self.language_model.asked_rows(x, batch.decoder.positions, pattern, places)
        return self.fusion(self.language_model, x, batch.decoder.positions, pattern, memory, reads, segments=batch.decoder.segments)

    def _memory(self, batch: Batch, table: Tensor | None, keep: bool) -> Memory | None:
        if batch.memory is None:
            return None
        return replace(
            self.fusion.remember(self.language_model, self.write(batch.memory, table, memory=True), batch.memory, keep), segments=batch.memory.segments
        )

    def _embed(self, batch: Batch) -> Output:
        features = self.encode(batch, "text_encoder").get(self.config.encoders[0].name)
        if features is not None and len(features.crops) != len(batch.pictures.tilings):
            raise Refused(
                Problem(
                    code="model/crops-of-a-vector",
                    place="model.tiler",
                    found=f"{len(features.crops)} crops of {len(batch.pictures.tilings)} pictures",
                    allowed="one crop a picture: a text is compared with a picture and not with parts of it",
                    fix="tiler: {kind: whole, size: ...}",
                )
            )
        texts = self.texts
        tagged = getattr(texts.config, "tags", False)
        return Output(
            pictures=texts.embed_pictures(features) if features else None,
            tokens=texts.embed_tokens(features) if features and tagged else None,
            texts=texts.embed_texts(batch.texts) if batch.texts is not None else None,
            features=features,
        )

    def extend(self, state: State | None, batch: Batch, places: Tensor | None = None) -> tuple[Tensor, State]:
        """Decoding, one segment per bin: prefill (state None), going on from a shared prefix, and single steps.

        Returns the hidden state of the last token of each bin (B, D), and the new state. In `batch.decoder`, segment 0 marks padding at the end of a bin.

        With flat `places` (A,) a bin may hold several lines, the branches of one trunk: a token reads the trunk and its own branch. Hidden states of the places (A, D) come back;
        positions and `sees` of the batch are then those of whole lines, and are not counted on from the state. Where no place is asked for, the pass ends early if it can.
        """
        from sightline.model.cache_room import keys_alone, roomy  # transformers is not imported before a model is

        assert batch.decoder is not None
        stream = batch.decoder
        bins, real = len(stream.ids), stream.segments > 0
        table = self.see(batch)
        x = self.write(stream, table if len(stream.slots) or batch.memory is None else None)
        fresh = state is None
        if state is None:
            none = real.new_zeros(bins, 0)
            state = State(cache=roomy(self.language_model.new_cache()), valid=none, branches=none.int(), next=none.long().sum(1))
        memory, sees = self._going_on(state, batch, self._memory(batch, table, keep=True))
        reads = readable(sees, memory.values.shape[1]) if memory is not None and sees is not None else None
        by_segment = fresh and getattr(self.language_model, "segments", False) and bool(stream.runs)
        pattern = SegmentPattern.of(stream) if by_segment else state.reach(stream)
        positions = stream.positions if places is not None else stream.positions + state.next[:, None]
        hidden = x
        with keys_alone(state.cache, len(self.language_model.blocks)) if places is not None and not len(places) else nullcontext():
            hidden = self.fusion(self.language_model, x, positions, pattern, memory, reads, state.cache, stream.segments)
        last, every = real.sum(1) - 1, torch.arange(bins, device=real.device)
        reached = positions.amax(0) if positions.dim() == 3 else positions
        following = reached.masked_fill(~real, -1).amax(1) + 1
        known = state.after(stream, following, memory, sees[every, last] if sees is not None else None)
        return hidden[every, last] if places is None else hidden.flatten(0, 1)[places], known

    def _going_on(self, state: State, batch: Batch, fresh: Memory | None) -> tuple[Memory | None, Tensor | None]:
        """Memory of the state and of the batch together, and what the new tokens see of it (B, T, 2): new pictures, else what the last token saw."""
        if fresh is None:
            length = batch.decoder.ids.shape[1] if batch.decoder is not None else 0
            if batch.sees is not None:
                return state.memory, batch.sees
            return state.memory, state.sees[:, None].expand(-1, length, -1) if state.sees is not None else None
        assert batch.sees is not None
        if state.memory is None:
            return fresh, batch.sees
        moved = batch.sees + state.memory.values.shape[1]
        if state.sees is not None:
            blind = batch.sees[..., 0] == batch.sees[..., 1]
            moved = torch.where(blind[..., None], state.sees[:, None], moved)
        return state.memory.join(fresh), moved
