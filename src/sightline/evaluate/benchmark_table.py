"""The table of benchmarks: those made from samples, and those that read their published files."""

from __future__ import annotations

from sightline.evaluate.benchmark_kinds.caption_set import CaptionSet
from sightline.evaluate.benchmark_kinds.dual_towers import Retrieval, ZeroShot
from sightline.evaluate.benchmark_kinds.grounding import Grounding, Referring, RotatedMap
from sightline.evaluate.benchmark_kinds.hallusionbench import HallusionBench
from sightline.evaluate.benchmark_kinds.llava_bench import LlavaBench
from sightline.evaluate.benchmark_kinds.masks import Change, Masks
from sightline.evaluate.benchmark_kinds.mathvista import MathVista
from sightline.evaluate.benchmark_kinds.mm_vet import MmVet
from sightline.evaluate.benchmark_kinds.mme import Mme
from sightline.evaluate.benchmark_kinds.mmmu import Mmmu
from sightline.evaluate.benchmark_kinds.multiple_choice import Ai2d, MmBench, MmStar, MultipleChoice, RealWorldQa, ScienceQaTest
from sightline.evaluate.benchmark_kinds.object_hallucination import Chair, LabelProbes
from sightline.evaluate.benchmark_kinds.ocrbench import OcrBench
from sightline.evaluate.benchmark_kinds.own_questions import OwnQuestions
from sightline.evaluate.benchmark_kinds.pope import Pope
from sightline.evaluate.benchmark_kinds.short_answer import ChartQa, DocVqa, GqaTest, InfoVqa, OcrVqaTest, RsvqaTest, TextVqaTest, VqaRadTest, VqaV2Test
from sightline.evaluate.benchmarks import BENCHMARK

__all__ = ["BENCHMARK"]

_YES_NO = (Mme, Pope, HallusionBench, LabelProbes)
_CHOICES = (MultipleChoice, MmBench, MmStar, Ai2d, RealWorldQa, ScienceQaTest, Mmmu, MathVista)
_TEXTS = (OcrBench, VqaV2Test, TextVqaTest, GqaTest, OcrVqaTest, ChartQa, DocVqa, InfoVqa, RsvqaTest, VqaRadTest, OwnQuestions, CaptionSet, Chair)
_REGIONS = (Grounding, Referring, RotatedMap, Masks, Change)
_VECTORS = (Retrieval, ZeroShot)
_JUDGED = (MmVet, LlavaBench)
for _kind in (*_YES_NO, *_CHOICES, *_TEXTS, *_REGIONS, *_VECTORS, *_JUDGED):
    BENCHMARK.add(_kind)
