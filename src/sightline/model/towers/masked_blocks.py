"""Blocks of towers whose transformers class takes no attention mask, with one. Names of tensors stay those of the class.

Letters: K crops, L tokens of the longest crop, C channels.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class FusedAttention(nn.Module):
    """Attention with one matrix for queries, keys and values (BLIP, BLIP-2)."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.qkv: nn.Linear = own.qkv
        self.projection: nn.Linear = own.projection
        self.heads: int = own.num_heads
        self.dropout: float = own.dropout.p if hasattr(own, "dropout") else own.attention_dropout

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, None]:
        """(K, L, C) -> (K, L, C), with the place of the weights left empty; `attention_mask` is added to the scores."""
        crops, length, width = hidden_states.shape
        q, k, v = self.qkv(hidden_states).view(crops, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, attn_mask=attention_mask, dropout_p=self.dropout if self.training else 0.0)
        return self.projection(mixed.transpose(1, 2).reshape(crops, length, width)), None


class ScaledBlock(nn.Module):
    """Pre-norm block with a learnt scale on each branch (InternViT)."""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.attention: nn.Module = own.attention
        self.mlp: nn.Module = own.mlp
        self.layernorm_before: nn.Module = own.layernorm_before
        self.layernorm_after: nn.Module = own.layernorm_after
        self.lambda_1: nn.Parameter = own.lambda_1
        self.lambda_2: nn.Parameter = own.lambda_2
        self.dropout: nn.Module = own.dropout

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(K, L, C) -> (K, L, C)."""
        hidden_states = hidden_states + self.lambda_1 * self.attention(self.layernorm_before(hidden_states), attention_mask=attention_mask)[0]
        return hidden_states + self.lambda_2 * self.dropout(self.mlp(self.layernorm_after(hidden_states)))


def take_masks(blocks: nn.ModuleList, model_type: str) -> None:
    """Replace in place what does not take a mask."""
    for number, block in enumerate(blocks):
        if model_type in ("blip_vision_model", "blip_2_vision_model"):
            block.self_attn = FusedAttention(block.self_attn)
        elif model_type == "internvl_vision":
            blocks[number] = ScaledBlock(block)
