"""The module of a transformers causal language model. Letters: B bins, T tokens, D width, A answer tokens, V vocabulary (see batch.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import Problem, Refused
from sightline.model import hub_layout
from sightline.model.attention import backend_mask
from sightline.model.language import LanguageModelConfig


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
        self.model.set_attn_implementation(config.attention)

    @property
    def blocks(self) -> list[nn.Module]:
        """Decoder layers in depth order."""
        return list(self.model.base_model.layers)

    @property
    def window(self) -> int | None:
        """How far back some layers look, in tokens; None = everywhere."""
        return getattr(self.model.config, "sliding_window", None)

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        return self.model.get_input_embeddings()(ids)

    def hidden(self, x: Tensor, positions: Tensor, pattern: Tensor, cache: Any = None) -> Tensor:
        """(B, T, D) under a (B, Tq, Tk) bool pattern -> (B, T, D). With a cache, its columns come first in Tk and it is extended in place."""
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        mask = backend_mask(pattern, self.config.attention, dtype)
        return self.model.base_model(
            inputs_embeds=x, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state

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
        worst = (own - ours).abs().max().item()
        if worst > 1e-3 * max(1.0, own.abs().max().item()):
            raise Refused(
                Problem(
                    code="model/logits-differ",
                    place="language_model",
                    found=f"{type(self.model).__name__}: logits of its forward differ by {worst:.3g}",
                    allowed="equal logits",
                    fix="this family scales its logits in a way that is not known here; choose another or report it",
                )
            )
