"""What serving a model takes: weights at three precisions, the cache of keys and values of a request, how many requests fit, and over how many devices a model must be spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sightline.model.vlm import Model
from sightline.plan_time import Hardware

USABLE = 0.9
"""Share of a device's memory that weights and cache may take, as serving engines have it."""
BYTES = {"bfloat16": 2.0, "int8": 1.0, "int4": 0.5 + 4 / 128}
"""Bytes of a number in a matrix of the language model's blocks; int4 with a scale and a zero point of 16 bits for each 128. All else stays in bfloat16."""
WORDS = 512
"""Tokens of question and answer beside the picture in the request that is counted."""
_LARGEST = 64


@dataclass(frozen=True, kw_only=True)
class Serving:
    """One precision on one sort of device."""

    precision: str
    weights: int
    """Bytes of all weights."""
    devices: int
    """Smallest number of devices, a divisor of the key heads or a multiple of them, over which weights and one longest request fit; 0 = none up to 64."""
    concurrent: int
    """Typical requests at a time on that many devices."""


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """Memory of serving."""

    hardware: str
    cache_per_token: int
    """Bytes of keys and values of one decoder position in bfloat16."""
    request: int
    """Positions of a typical request: one picture of 1024 x 768 and 512 tokens of text."""
    longest: int
    """Positions of the longest request."""
    rows: list[Serving]


def plan_serving(model: Model, picture_tokens: int, hardware: Hardware) -> ServingPlan | None:
    """What serving takes on devices of this sort; None for a model that does not write."""
    language = model.config.language_model
    if language is None or model.language_model is None:
        return None
    block = language.block()
    token = cache_per_token(block)
    matrices = sum(p.numel() for inner in model.language_model.blocks for p in inner.parameters() if p.dim() >= 2)
    whole = sum(p.numel() for p in model.parameters())
    spread = sum(p.numel() for p in model.language_model.parameters())
    heads = block.get("num_key_value_heads") or block.get("num_attention_heads") or block.get("num_heads") or 1
    request, longest = picture_tokens + WORDS, model.config.max_tokens
    rows = []
    for precision, size in BYTES.items():
        language_bytes = matrices * size + (spread - matrices) * 2
        others = (whole - spread) * 2
        devices = next(
            (count for count in _counts(heads) if language_bytes / count + others + longest * token / min(count, heads) <= USABLE * hardware.memory), 0
        )
        left = USABLE * hardware.memory - language_bytes / max(1, devices) - others
        concurrent = int(left / (request * token / min(devices, heads))) if devices else 0
        rows.append(Serving(precision=precision, weights=round(language_bytes + others), devices=devices, concurrent=concurrent))
    return ServingPlan(hardware=hardware.name, cache_per_token=token, request=request, longest=longest, rows=rows)


def cache_per_token(block: dict[str, Any]) -> int:
    """Bytes of keys and values of one position over all layers, in bfloat16."""
    layers = block.get("num_hidden_layers") or block.get("num_decoder_layers") or block.get("num_layers") or 0
    heads = block.get("num_attention_heads") or block.get("num_heads") or 1
    width = block.get("head_dim") or block.get("d_kv") or (block.get("hidden_size") or block.get("d_model") or 0) // heads
    return 2 * 2 * layers * (block.get("num_key_value_heads") or heads) * width


def _counts(heads: int) -> list[int]:
    """Powers of two over which heads can be spread."""
    return [count for count in (2**k for k in range(7)) if (heads % count == 0 or count % heads == 0) and count <= _LARGEST]
