"""Floors printed beside a score: the commonest answer, a linear probe on thumbnails, captions written without looking."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sightline.evaluate.asking import Scores, questions_of
from sightline.evaluate.benchmarks import CaptionBenchmark, QuestionBenchmark
from sightline.evaluate.thumbnails import ThumbnailProbe, captions_of_others, commonest_caption, thumbnail
from sightline.samples.exchange import Decoding
from sightline.samples.pictures import rgb_pixels
from sightline.samples.sample import Picture, Sample
from sightline.samples.store import Store


def baselines(benchmark: QuestionBenchmark | CaptionBenchmark, samples: Sequence[Sample], training: Store | None, seed: int) -> dict[str, Scores]:
    """Scores of what does not understand, by name; those that learn do so from `training`."""
    floors: dict[str, Scores] = {}
    if isinstance(benchmark, QuestionBenchmark):
        floors["commonest answer"] = benchmark.majority()
    if training is None:
        return floors
    taught = [training[int(row)] for row in training.kept]
    questions = questions_of(taught, Decoding())
    rng = np.random.default_rng([seed, 32])
    held_out = _thumbnails([picture for sample in samples for picture in sample.pictures])
    probe = ThumbnailProbe(_thumbnails([picture for sample in taught for picture in sample.pictures]), rng)
    if isinstance(benchmark, QuestionBenchmark):
        floors["thumbnail probe"] = benchmark.score(probe.answer(questions, benchmark, held_out).answers)
        return floors
    floors["commonest caption"] = benchmark.score(commonest_caption(questions, benchmark))
    floors["caption of another"] = benchmark.score(captions_of_others(questions, benchmark, rng))
    if benchmark.names is not None:
        # it answers with a bare class name: only the metric of classes is a fair comparison
        named = benchmark.score(probe.name_classes(questions, benchmark, held_out).answers)
        floors["thumbnail probe"] = Scores(metrics={"class": named.metrics["class"]})
    return floors


def _thumbnails(pictures: Sequence[Picture]) -> dict[str, np.ndarray]:
    unique = {picture.hash: picture for picture in pictures}
    with ThreadPoolExecutor(2) as pool:
        small = pool.map(lambda picture: thumbnail(rgb_pixels(picture)), unique.values())
        return dict(zip(unique, small))
