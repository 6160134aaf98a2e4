"""Captions of a published set: COCO in Karpathy's split, RSICD, UCM and Sydney captions, NWPU-Captions, Flickr, or a store; every caption of a picture is a reference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from sightline.data.questions import captions_in
from sightline.evaluate.meteor import Synonyms, meteor
from sightline.evaluate.metrics import Value, caption_metrics, rouge_l, tokenize
from sightline.evaluate.published import PublishedRow, Verdict, refused
from sightline.evaluate.question_files import ANSWERS, right_answers
from sightline.evaluate.read_sets import SetKind
from sightline.samples.sample import Sample

_SEED = 20


class CaptionSet(SetKind):
    """Pictures to describe, in any layout of captions that is read: BLEU-1..4, ROUGE-L, CIDEr, and METEOR where it is asked for."""

    files: ClassVar[str] = "a store, or captions in a layout that is read (dataset_rsicd.json, captions_val2014.json, ..)"
    kind: Literal["caption-set"] = "caption-set"
    split: str | None = "test"
    """Split of `path` that is asked; all when null."""
    ask: str = "Describe the picture in one sentence."
    """What the user says."""
    meteor: Synonyms | None = None
    """none or wordnet: also METEOR as nltk computes it, without or with WordNet's synonyms. Needs the extra `meteor`."""
    max_tokens: int = Field(default=64, ge=1)
    """Longest caption."""

    def rows_of(self, samples: Sequence[Sample]) -> Iterator[PublishedRow]:
        """See SetKind. Refused for a sample without a caption."""
        for sample in samples:
            told = sample.attributes.get("references")
            references = [str(one) for one in told] if isinstance(told, list | tuple) else captions_in(sample)
            if not references:
                raise refused("no-answer", f"{sample.origin.source}:{sample.id}", "no caption", "one for each picture", "leave the picture out")
            yield PublishedRow(
                index=sample.id,
                place=f"{sample.origin.source}:{sample.origin.row or sample.id}",
                question=self.ask,
                answer=references[0],
                pictures=sample.pictures,
                fields={ANSWERS: json.dumps(references), "category": "caption"},
            )

    def verdict(self, row: PublishedRow, answer: str) -> Verdict:
        """ROUGE-L of one caption; the published figures are of all together."""
        return Verdict(score=rouge_l(tokenize(answer), [tokenize(one) for one in right_answers(row)]), read=answer)

    def metrics(self, rows: Sequence[PublishedRow], verdicts: Sequence[Verdict]) -> dict[str, Value]:
        """BLEU-4 first; 0..1, CIDEr 0..10."""
        captions = [tokenize(verdict.read or "") for verdict in verdicts]
        references = [[tokenize(one) for one in right_answers(row)] for row in rows]
        pictures = [row.pictures[0].hash if row.pictures else row.index for row in rows]
        found = caption_metrics(captions, references, pictures, np.random.default_rng(_SEED))
        found = {"all": found["bleu-4"], **found}
        return found | (meteor(captions, references, pictures, self.meteor) if self.meteor else {})
