"""The module of a transformers encoder-decoder language model. Letters: B bins, T decoder tokens, M memory tokens, D width, A answer tokens, V vocabulary (see batch.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sightline.model import hub_layout
from sightline.model.attention import backend_mask
from sightline.model.language import EncoderDecoderConfig


class EncoderDecoderLanguageModel(nn.Module):
    """Encodes the memory stream, decodes under a given pattern, and turns single rows into logits. Relative positions follow from places in a bin."""

    window = None
    tells_pictures = True
    """The decoder reads what the encoder makes of pictures, as it reads text."""

    def __init__(self, config: EncoderDecoderConfig) -> None:
        super().__init__()
        from transformers import AutoModelForSeq2SeqLM

        self.config = config
        model_config = hub_layout.transformers_config(config.block(), "language_model")
        if config.checkpoint and hub_layout.find(config.checkpoint):
            self.model: Any = hub_layout.load_weights(AutoModelForSeq2SeqLM, config.checkpoint, model_config, "language_model")
        else:
            self.model = AutoModelForSeq2SeqLM.from_config(model_config, dtype=torch.float32)
        if config.tied is False:
            head = self.model.get_output_embeddings()
            head.weight = nn.Parameter(head.weight.detach().clone())

    @property
    def blocks(self) -> list[nn.Module]:
        """Encoder layers, then decoder layers."""
        return [*self.model.get_encoder().block, *self.model.get_decoder().block]

    @property
    def memory_width(self) -> int:
        """Width of what the decoder reads."""
        return self.config.width()

    def new_cache(self) -> Any:
        """An empty cache for `hidden`: keys of the decoder, and of the memory once it was read."""
        from transformers import DynamicCache, EncoderDecoderCache

        return EncoderDecoderCache(DynamicCache(), DynamicCache())

    def embed(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        return self.model.get_input_embeddings()(ids)

    embed_memory = embed

    def encode(self, m: Tensor, pattern: Tensor, pictures: Tensor) -> Tensor:
        """(B, M, D) under a (B, M, M) pattern -> (B, M, D); which of them are `pictures` (B, M) makes no difference."""
        return self.model.get_encoder()(inputs_embeds=m, attention_mask=backend_mask(pattern, "eager", m.dtype)).last_hidden_state

    def hidden(
        self, x: Tensor, positions: Tensor, pattern: Tensor, cache: Any = None, memory: Tensor | None = None, memory_pattern: Tensor | None = None
    ) -> Tensor:
        """(B, T, D) under a (B, Tq, Tk) pattern, reading memory (B, M, D) under (B, Tq, M) -> (B, T, D)."""
        if memory is None or memory_pattern is None:
            memory, memory_pattern = x.new_zeros(len(x), 1, x.shape[-1]), x.new_zeros(*x.shape[:2], 1, dtype=torch.bool)
        some = memory_pattern.any(-1, keepdim=True)  # a row that reads nothing is padding: it reads everything instead of dividing by zero
        return (
            self.model.get_decoder()(
                inputs_embeds=x,
                attention_mask=backend_mask(pattern, "eager", x.dtype),
                encoder_hidden_states=memory,
                encoder_attention_mask=backend_mask(memory_pattern | ~some, "eager", x.dtype),
                past_key_values=cache,
                use_cache=cache is not None,
            )
        ).last_hidden_state

    def logits(self, rows: Tensor) -> Tensor:
        """(A, D) -> (A, V) float32; scaled where input and output embeddings are one table."""
        scaled = getattr(self.model.config, "scale_decoder_outputs", self.model.config.tie_word_embeddings)
        return self.model.get_output_embeddings()(rows * self.config.width() ** -0.5 if scaled else rows).float()

    @torch.no_grad()
    def prove_logits(self) -> None:
        """The decoder's own forward gives the same logits as `logits`."""
        from sightline.model.language_modules import refuse_other_logits

        training = self.training
        self.eval()
        ids = torch.zeros(1, 1, dtype=torch.int64, device=next(self.parameters()).device)
        own = self.model(input_ids=ids, decoder_input_ids=ids, use_cache=False).logits[0].float()
        one = torch.ones(1, 1, 1, dtype=torch.bool, device=ids.device)
        ours = self.logits(self.hidden(self.embed(ids), ids, one, memory=self.encode(self.embed(ids), one, one[0]), memory_pattern=one)[0])
        self.train(training)
        refuse_other_logits(type(self.model).__name__, own, ours)
