"""The table of failures: everything that is looked for in answers, by kind, in the order of the page."""

from __future__ import annotations

from typing import cast

from sightline.evaluate.failures.blindness import Blindness
from sightline.evaluate.failures.calibration import Calibration
from sightline.evaluate.failures.evidence import Evidence
from sightline.evaluate.failures.finding import FAILURE, Examiner, Failure
from sightline.evaluate.failures.format_errors import FormatErrors
from sightline.evaluate.failures.gaps import Gaps
from sightline.evaluate.failures.hallucination import Hallucination
from sightline.evaluate.failures.language_confusion import LanguageConfusion
from sightline.evaluate.failures.region_errors import RegionErrors
from sightline.evaluate.failures.repetition import Repetition
from sightline.evaluate.failures.text_decay import TextDecay
from sightline.kinds import Config

for _failure in (Repetition, Hallucination, Blindness, RegionErrors, FormatErrors, LanguageConfusion, TextDecay, Gaps, Calibration):
    FAILURE.add(_failure)


def examine(evidence: Evidence, configs: tuple[Config, ...] | None = None) -> tuple[Failure, ...]:
    """Every failure of every kind, found or not; `configs` in place of the defaults of all kinds."""
    chosen = configs if configs is not None else tuple(cls() for cls in FAILURE.table().values())
    return tuple(failure for config in chosen for failure in cast(Examiner, config).examine(evidence))
