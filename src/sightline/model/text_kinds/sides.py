"""What text sides share: which places are text, the head over words, and the likelihood of texts.

Letters: X texts, L tokens of the longest text, Z text tokens that are told, W width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from sightline.model.batch import SideTexts

CHUNK = 4096
"""Rows per call of the head: bounds the memory of (rows, V) logits."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """How likely texts are, token by token; the first token of a text is given and not told."""

    logp: Tensor  # (Z,) float32 log-probability of each token
    mean_logp: Tensor  # (Z,) float32 mean log-probability over the vocabulary, for label smoothing
    owners: Tensor  # (Z,) int64 number of the text


class _Transform(nn.Module):
    def __init__(self, width: int, activation: str, eps: float) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.activation = ACT2FN[activation]
        self.LayerNorm = nn.LayerNorm(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(x)))


class _Predictions(nn.Module):
    def __init__(self, width: int, vocabulary: int, activation: str, eps: float) -> None:
        super().__init__()
        self.transform = _Transform(width, activation, eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))


class WordHead(nn.Module):
    """BERT's head over words: one more layer, then the word embeddings themselves as weights. Keys as published: predictions.transform, predictions.bias."""

    def __init__(self, width: int, vocabulary: int, activation: str, eps: float, spread: float) -> None:
        super().__init__()
        self.predictions = _Predictions(width, vocabulary, activation, eps)
        nn.init.normal_(self.predictions.transform.dense.weight, std=spread)
        nn.init.zeros_(self.predictions.transform.dense.bias)

    def forward(self, rows: Tensor, words: Tensor) -> Tensor:
        """(N, W) and word embeddings (V, W) -> logits (N, V) float32."""
        return linear(self.predictions.transform(rows), words, self.predictions.bias).float()


def real(texts: SideTexts) -> Tensor:
    """(X, L) bool: which places hold a token."""
    return torch.arange(texts.ids.shape[1], device=texts.ids.device) < texts.lengths[:, None]


def starting(ids: Tensor, token: int) -> Tensor:
    """Ids (X, L) of texts that begin with this token."""
    return torch.cat([torch.full_like(ids[:, :1], token), ids[:, 1:]], dim=1)


def backward_looking(valid: Tensor) -> Tensor:
    """(X, L, L) bool from places of tokens (X, L): each place reads the tokens up to itself."""
    length = valid.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=valid.device).tril() & valid[:, None]


def likelihood(head: WordHead, words: Tensor, hidden: Tensor, texts: SideTexts) -> Told:
    """Likelihood of every token of `texts` but the first, each from the hidden state (X, L, W) of the place before it."""
    told = real(texts)[:, 1:]
    rows, targets = hidden[:, :-1][told], texts.ids[:, 1:][told]
    logp, mean_logp = [], []
    for start in range(0, len(rows), CHUNK):
        logits = head(rows[start : start + CHUNK], words)
        total = logits.logsumexp(-1)
        logp.append(logits.gather(1, targets[start : start + CHUNK, None])[:, 0] - total)
        mean_logp.append(logits.mean(-1) - total)
    return Told(logp=torch.cat(logp), mean_logp=torch.cat(mean_logp), owners=told.nonzero()[:, 0])
