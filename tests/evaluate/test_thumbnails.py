"""The probe finds what a thumbnail shows, finds nothing where nothing is, and floors do not look."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sightline.errors import Refused
from sightline.evaluate.benchmarks import Captions, QuestionBenchmark, Questions
from sightline.evaluate.thumbnails import ThumbnailProbe, _eye, _ridge, captions_of_others, commonest_caption, thumbnail
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn

CORNERS = ("northwest", "northeast", "southwest", "southeast")


def scene(number: int, rng: np.random.Generator) -> tuple[np.ndarray, Sample]:
    """Noise with a dark corner or two; one question asks for the corners, one for the first, one for a coin that the picture does not show."""
    pixels = rng.integers(100, 156, (32, 32, 3)).astype(np.uint8)
    dark = rng.choice(4, size=rng.integers(1, 3), replace=False)
    for corner in dark:
        pixels[corner // 2 * 16 : corner // 2 * 16 + 16, corner % 2 * 16 : corner % 2 * 16 + 16] //= 2
    answers = [
        ("labels", "which corners are dark?", ", ".join(sorted(CORNERS[corner] for corner in dark))),
        ("presence", "is the northwest dark?", "yes" if 0 in dark else "no"),
        ("coin", "heads or tails?", ("heads", "tails")[rng.integers(2)]),
    ]
    turns = [turn for _, q, a in answers for turn in (Turn(role="user", items=(Show(), Text(text=q))), Turn(role="assistant", items=(Text(text=a),)))]
    attributes = {"turns": "independent", "kind": ",".join(kind for kind, _, _ in answers), "class": CORNERS[min(dark)]}
    picture = Picture(hash=f"{number:064x}", width=32, height=32, data=b"")
    return pixels, Sample(id=f"s{number}", pictures=(picture,), turns=tuple(turns), attributes=attributes, origin=Origin(source="test"))


def scenes(count: int, first: int) -> tuple[dict[str, np.ndarray], list[Sample]]:
    made = [scene(number, np.random.default_rng(number)) for number in range(first, first + count)]
    return {sample.pictures[0].hash: pixels for pixels, sample in made}, [sample for _, sample in made]


def captioned(samples: list[Sample]) -> list[Sample]:
    """One caption turn per scene, its class with it."""
    reply = lambda sample: Turn(role="assistant", items=(Text(text=f"a dark {sample.attributes['class']} corner"),))  # noqa: E731
    return [
        Sample(
            id=sample.id,
            pictures=sample.pictures,
            turns=(Turn(role="user", items=(Show(),)), reply(sample)),
            attributes={"class": sample.attributes["class"]},
            origin=sample.origin,
        )
        for sample in samples
    ]


TRAIN = scenes(600, 0)
HELD_OUT = scenes(150, 1000)


def questions(samples: list[Sample]) -> QuestionBenchmark:
    return Questions(data="x").build(samples)


def probe(seed: int = 0) -> ThumbnailProbe:
    return ThumbnailProbe(TRAIN[0], np.random.default_rng(seed))


def test_the_probe_sees_what_is_there_and_guesses_what_is_not() -> None:
    benchmark = questions(HELD_OUT[1])
    probed = probe().answer(questions(TRAIN[1]).questions, benchmark, HELD_OUT[0])
    metrics = benchmark.score(probed.answers).metrics
    assert probed.unlearnt == 0
    assert metrics["labels"].value > 0.9 and metrics["presence"].value > 0.95
    assert metrics["coin"].low < 0.5 < metrics["coin"].high
    assert probe().answer(questions(TRAIN[1]).questions, benchmark, HELD_OUT[0]) == probed


def test_texts_that_training_lacks_get_the_commonest_answer_and_are_counted() -> None:
    benchmark = questions(HELD_OUT[1][:10])
    train = [question for question in questions(TRAIN[1]).questions if question.kind == "labels"]
    presence = [question for question in questions(TRAIN[1][:12]).questions if question.kind == "presence"]
    probed = probe().answer([*train, *presence], benchmark, HELD_OUT[0])
    kinds = {question.request.sample.id: question.kind for question in benchmark.questions}
    said = {kinds[answer.sample]: answer.text for answer in probed.answers}
    assert probed.unlearnt == 20 and said["presence"] == "no" and said["coin"] == ""


def test_classes_of_captions() -> None:
    held_out, train = Captions(data="x").build(captioned(HELD_OUT[1])), Captions(data="x").build(captioned(TRAIN[1]))
    probed = probe().name_classes(train.questions, held_out, HELD_OUT[0])
    right = [answer.text == question.source.attributes["class"] for question, answer in zip(held_out.questions, probed.answers)]
    assert np.mean(right) > 0.85
    few = probe().name_classes(train.questions[:5], held_out, HELD_OUT[0])
    assert few.unlearnt == 150 and len({answer.text for answer in few.answers}) == 1


def test_training_without_classes_is_refused() -> None:
    samples = captioned(TRAIN[1][:2])
    bare = Sample(id="bare", pictures=samples[0].pictures, turns=samples[0].turns, origin=samples[0].origin)
    held_out = Captions(data="x").build(captioned(HELD_OUT[1][:3]))
    with pytest.raises(Refused, match=r"evaluate/no-class at bare\n.*1 of 2 training samples"):
        probe().name_classes(Captions(data="x").build([bare, samples[1]]).questions, held_out, HELD_OUT[0])


def test_floors_do_not_look() -> None:
    train, held_out = Captions(data="x").build(captioned(TRAIN[1])), Captions(data="x").build(captioned(TRAIN[1][:40]))
    assert {answer.text for answer in commonest_caption(train.questions, held_out)} == {"a dark northwest corner"}
    two = Captions(data="x").build(captioned(TRAIN[1][:2]))
    swapped = captions_of_others(two.questions, two, np.random.default_rng(0))
    assert [answer.text for answer in swapped] == [question.right[0] for question in two.questions[::-1]]
    assert [answer.sample for answer in swapped] == [question.request.sample.id for question in two.questions]
    assert two.score(swapped).metrics["rouge-l"].value < 1


def test_ridge_equals_the_normal_equations() -> None:
    rng = np.random.default_rng(3)
    features, targets, seen = rng.normal(size=(40, 7)), rng.normal(size=(40, 2)), rng.normal(size=(5, 7))
    found = _ridge(features, targets, np.array([0.0, 0.5]), seen)
    for penalty, predicted in zip((0.0, 0.5), found):
        centred = features - features.mean(axis=0)
        weights = np.linalg.solve(centred.T @ centred + penalty * 40 * np.eye(7), centred.T @ (targets - targets.mean(axis=0)))
        assert predicted == pytest.approx((seen - features.mean(axis=0)) @ weights + targets.mean(axis=0))


def test_main_directions_equal_those_of_a_full_decomposition() -> None:
    rng = np.random.default_rng(4)
    pictures = (rng.normal(size=(300, 12)) @ rng.normal(size=(12, 3072)) * 10 + 128).clip(0, 255).reshape(300, 32, 32, 3).astype(np.uint8)
    eye = _eye(pictures, rng)
    flat = (pictures.reshape(300, -1) - eye.mean) / eye.spread
    _, _, exact = np.linalg.svd(flat, full_matrices=False)
    assert eye.directions.shape == (3072, 256)
    assert np.linalg.svd(exact[:10] @ eye.directions[:, :10], compute_uv=False) == pytest.approx(np.ones(10), abs=1e-3)
    assert eye.look(pictures[:3]).shape == (3, 256)


def test_a_thumbnail_is_the_mean_of_what_it_covers() -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[::2] = 200
    small = thumbnail(pixels)
    assert small.shape == (32, 32, 3) and (small == 100).all()


@pytest.mark.slow
def test_the_eye_of_a_thousand_pictures_opens_in_seconds() -> None:
    rng = np.random.default_rng(5)
    start = time.process_time()
    _eye(rng.integers(0, 256, (1000, 32, 32, 3)).astype(np.uint8), rng)
    assert time.process_time() - start < 15
