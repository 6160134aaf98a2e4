"""Tokens of a sample as the model of a recipe, or a finished model, gets them: what `data check` needs to find answers that would be cut."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sightline.errors import Problem, Refused
from sightline.lineage import sha256_json
from sightline.model.processor import Processor
from sightline.preview import processor_of
from sightline.samples.sample import Sample

_BOUNDLESS = 1 << 40


@dataclass(frozen=True)
class TokenMeasure:
    """Counts tokens; each process makes its processor once."""

    recipe: str | None
    model: str | None

    @property
    def key(self) -> str:
        """Hash of the model's configuration."""
        return sha256_json(_named(self.recipe, self.model).config.model_dump(mode="json"))

    @property
    def most(self) -> int:
        """Tokens that the model takes."""
        return _named(self.recipe, self.model).config.max_tokens

    def __call__(self, sample: Sample) -> int:
        """Tokens of the sample with its answers. Refused when the model would not take it, however long it may be."""
        return _boundless(self.recipe, self.model).encode(sample).length


@cache
def _named(recipe: str | None, model: str | None) -> Processor:
    processor = processor_of(recipe, model)
    if processor is None:
        raise Refused(Problem(code="usage/no-model", place="--model", found="neither a recipe nor a model", allowed="--recipe RECIPE or --model MODEL"))
    return processor


@cache
def _boundless(recipe: str | None, model: str | None) -> Processor:
    named = _named(recipe, model)
    return Processor(named.config.model_copy(update={"max_tokens": _BOUNDLESS}), named.tokenizer)
