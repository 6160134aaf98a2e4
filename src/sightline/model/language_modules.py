"""The module of a transformers causal language model. Letters: B bins, T tokens, D width, A answer tokens, V vocabulary (see batch.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import Problem, Refused
from sightline.model import hub_layout, segment_attention
from sightline.model.attention import backend_mask
from sightline.model.language import LanguageModelConfig
from sightline.model.lean_functions import lighten_norms
from sightline.model.segment_attention import AskedRows, SegmentPattern, carrying


class GridRotary(nn.Module):
    """Rotary angles of positions on a grid: channel i of a half takes the time, row or column stream by its section (Wang et al. 2024, section 2.1)."""

    def __init__(self, line: nn.Module, sections: tuple[int, int, int]) -> None:
        super().__init__()
        self.line = line
        self.sections = sections

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin (B, T, head) for positions (3, B, T); positions on a line are three equal streams."""
        if position_ids.dim() == 2:
            return self.line(x, position_ids)
        streams = [self.line(x, stream) for stream in position_ids]
        cos, sin = (torch.cat([part[k % 3] for k, part in enumerate(zip(*(s[which].split(self.sections * 2, -1) for s in streams)))], -1) for which in (0, 1))
        return cos, sin


class CausalLanguageModel(nn.Module):
    """Embeds, runs the decoder under a given attention pattern, and turns single rows into logits."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.config = config
        model_config = hub_layout.transformers_config(config.block(), "language_model")
        if config.checkpoint and hub_layout.find(config.checkpoint):
            self.model: Any = hub_layout.load_weights(AutoModelForCausalLM, config.checkpoint, model_config, "language_model")
        else:
            self.model = AutoModelForCausalLM.from_config(model_config, dtype=torch.float32)
        known = bool(getattr(self.model, "_supports_attention_backend", False)) and not getattr(model_config, "attn_logit_softcapping", None)
        self.segments = config.attention == "sdpa" and known
        """Whether `hidden` takes a SegmentPattern."""
        if self.segments:
            segment_attention.register()
        self.model.set_attn_implementation(segment_attention.NAME if self.segments else config.attention)
        lighten_norms(self.model, config.width())
        if config.extra_rows:
            self._widen_input(config.extra_rows)
        if config.sections:
            self.model.base_model.rotary_emb = GridRotary(self.model.base_model.rotary_emb, config.sections)

    def _widen_input(self, rows: int) -> None:
        table = self.model.get_input_embeddings()
        if self.model.config.tie_word_embeddings:
            raise Refused(
                Problem(
                    code="model/tied-rows",
                    place="language_model.extra_rows",
                    found=f"{rows} rows beside tied embeddings",
                    allowed="0 where input and output embeddings are one table",
                    fix="set tie_word_embeddings: false, or extra_rows: 0",
                )
            )
        wide = nn.Embedding(table.num_embeddings + rows, table.embedding_dim, device=table.weight.device, dtype=table.weight.dtype)
        with torch.no_grad():
            wide.weight.normal_(0.0, getattr(self.model.config, "initializer_range", 0.02))
            wide.weight[: table.num_embeddings] = table.weight
        self.model.set_input_embeddings(wide)

    @property
    def blocks(self) -> list[nn.Module]:
        """Decoder layers in depth order."""
        decoder = getattr(self.model.base_model, "decoder", self.model.base_model)
        return list(decoder.layers)

    @property
    def memory_width(self) -> int:
        """Width of what its blocks read by cross-attention."""
        return self.config.width()

    def new_cache(self) -> Any:
        """An empty cache for `hidden`."""
        from transformers import DynamicCache

        return DynamicCache()

    @property
    def window(self) -> int | None:
        """How far back some layers look, in tokens; None = everywhere."""
        return getattr(self.model.config, "sliding_window", None)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        return self.model.get_input_embeddings()(ids)

    embed_memory = embed

    def hidden(self, x: Tensor, positions: Tensor, pattern: Tensor | SegmentPattern, cache: Any = None, **passed: Any) -> Tensor:
        """(B, T, D) under a (B, Tq, Tk) bool pattern, or that of segments, -> (B, T, D). With a cache, its columns come first in Tk and it is extended in place.

        `positions` is (B, T), or (3, B, T) on a grid. `passed` travels through the model's forward to its layers.
        """
        if self.config.grid_positions and positions.dim() == 2:
            positions = positions.expand(3, -1, -1)
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        mask = carrying(pattern, x) if isinstance(pattern, SegmentPattern) else backend_mask(pattern, self.config.attention, dtype)
        return self.model.base_model(
            inputs_embeds=x, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, **passed
        ).last_hidden_state

    def asked_rows(self, x: Tensor, positions: Tensor, pattern: SegmentPattern, places: Tensor) -> Tensor:
        """As `hidden`, for some flat places (A,): (A, D). On the CPU the last layer runs for them alone."""
        last: Any = self.blocks[-1]
        decoder = self.model.base_model
        plain = all(hasattr(decoder, name) for name in ("layers", "norm", "rotary_emb")) and all(hasattr(last, name) for name in ("self_attn", "mlp"))
        # a hook is a fusion's block or a sharded layer, which runs once; recomputation and compiled code would run without ours
        alone = not last._forward_pre_hooks and "forward" not in last.__dict__ and last._compiled_call_impl is None
        if x.device.type != "cpu" or not plain or not alone or not len(places):
            return self.hidden(x, positions, pattern).flatten(0, 1)[places]
        asked = AskedRows(pattern, places)
        hook = last.register_forward_pre_hook(asked, with_kwargs=True)
        try:
            found = self.hidden(x, positions, pattern)
        finally:
            hook.remove()
        return found[0] if asked.took else found.flatten(0, 1)[places]

    def logits(self, rows: Tensor) -> Tensor:
        """(A, D) -> (A, V) float32, with the scale or soft cap of the model's class."""
        scores = self.model.get_output_embeddings()(rows).float()
        settings = self.model.config
        scores = scores * getattr(settings, "logit_scale", None) if getattr(settings, "logit_scale", None) else scores
        scores = scores / settings.logits_scaling if getattr(settings, "logits_scaling", None) else scores
        cap = getattr(settings, "final_logit_softcapping", None)
        return torch.tanh(scores / cap) * cap if cap else scores

    @torch.no_grad()
    def prove_logits(self) -> None:
        """Refuse a class whose own forward gives other logits than `logits`: head weights alone are wrong for several families."""
        training = self.training
        self.eval()
        ids = torch.zeros(1, 1, dtype=torch.int64, device=next(self.parameters()).device)
        own = self.model(input_ids=ids, use_cache=False).logits[0].float()
        ours = self.logits(self.hidden(self.embed(ids), torch.zeros_like(ids), torch.ones(1, 1, 1, dtype=torch.bool, device=ids.device))[0])
        self.train(training)
        refuse_other_logits(type(self.model).__name__, own, ours)


def refuse_other_logits(name: str, own: Tensor, ours: Tensor) -> None:
    """Refused where a class's own logits differ from ours."""
    worst = (own - ours).abs().max().item()
    if worst > 1e-3 * max(1.0, own.abs().max().item()):
        raise Refused(
            Problem(
                code="model/logits-differ",
                place="language_model",
                found=f"{name}: logits of its forward differ by {worst:.3g}",
                allowed="equal logits",
                fix="this family scales its logits in a way that is not known here; choose another or report it",
            )
        )
