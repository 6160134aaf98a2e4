"""Which rows say the same about the same pictures."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from sightline.data.dedup import Dedup, SemanticDedup, semantic_duplicates
from sightline.data.operators import apply
from sightline.samples.dihedral import turned_pixels
from sightline.samples.exchange import Answer, Request
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Picture, Sample, Show, Text, Turn


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)


def picture(array: np.ndarray, format: str = "PNG", **options: object) -> Picture:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(out, format, **options)
    return describe(out.getvalue(), "", "here")


def row(name: str, *pictures: Picture, question: str = "", answer: str = "a field", split: str = "train", source: str = "set", maker: str = "human") -> Sample:
    asked = (*(Show(picture=number) for number in range(len(pictures))), *((Text(text=question),) if question else ()))
    turns = (Turn(role="user", items=asked or (Text(text="?"),)), Turn(role="assistant", items=(Text(text=answer),)))
    return Sample(id=name, pictures=pictures, turns=turns, attributes={"split": split}, origin=Origin(source=source, maker=maker))


def gone(operator: Dedup | SemanticDedup, samples: list[Sample], **options: object) -> dict[str, str | None]:
    rows = apply([operator], samples, 0, **options)  # pyright: ignore[reportArgumentType]
    return {sample.id: rule for sample, verdict, rule, *_ in rows if verdict == "quarantined"}


def tagged(array: np.ndarray) -> Picture:
    """The same pixels in a file with other bytes."""
    info = PngImagePlugin.PngInfo()
    info.add_text("camera", "other")
    return picture(array, pnginfo=info)


def test_three_ways_for_pictures_to_be_the_same() -> None:
    first = pixels(0)
    samples = [
        row("a", picture(first)),
        row("b", picture(first)),
        row("c", tagged(first)),
        row("d", picture(first, "JPEG", quality=60)),
        row("e", picture(turned_pixels(first, 5))),
        row("f", picture(pixels(1))),
    ]
    assert gone(Dedup(pictures="bytes"), samples) == {"b": "dedup/same"}
    assert gone(Dedup(pictures="pixels"), samples) == {"b": "dedup/same", "c": "dedup/same"}
    assert gone(Dedup(orientations=False), samples) == {"b": "dedup/same", "c": "dedup/same", "d": "dedup/near"}
    assert gone(Dedup(), samples) == {"b": "dedup/same", "c": "dedup/same", "d": "dedup/near", "e": "dedup/near"}


def test_several_questions_on_one_picture_are_no_duplicates_but_a_repeated_question_is() -> None:
    one = picture(pixels(0))
    samples = [
        row("a", one, question="a road?", answer="yes"),
        row("b", one, question="a pond?", answer="no"),
        row("c", one, question="A  road?", answer="Yes"),
    ]
    assert gone(Dedup(), samples) == {"c": "dedup/same"}


def test_conflicting_answers_go_together_unless_the_first_is_trusted() -> None:
    one = picture(pixels(0))
    samples = [row("a", one, question="a road?", answer="yes"), row("b", one, question="a road?", answer="no"), row("c", one, question="a pond?", answer="no")]
    assert gone(Dedup(), samples) == {"a": "dedup/conflict", "b": "dedup/conflict"}
    assert gone(Dedup(conflicts="first"), samples) == {"b": "dedup/same"}
    captions = [row("a", one, answer="a road"), row("b", one, answer="a grey road")]
    assert gone(Dedup(), captions) == {"b": "dedup/same"}


def test_what_training_shares_with_a_benchmark_goes_from_training() -> None:
    one = pixels(0)
    samples = [row("a", picture(one)), row("b", picture(turned_pixels(one, 2)), split="test"), row("c", picture(one), split="val")]
    assert gone(Dedup(), samples) == {"a": "dedup/leak", "c": "dedup/near"}
    assert gone(Dedup(protect=()), samples) == {"b": "dedup/near", "c": "dedup/same"}


def test_trusted_sources_are_kept_first() -> None:
    one = picture(pixels(0))
    assert gone(Dedup(prefer=("gold",)), [row("a", one, source="web"), row("b", one, source="gold")]) == {"a": "dedup/same"}


def test_texts_without_pictures() -> None:
    long = "Describe in three steps how a harbour is dredged and why that is done again every few years."
    samples = [
        row("a", question=long, answer="First, measure."),
        row("b", question=long.upper(), answer="first,  measure."),
        row("c", question=long, answer="First, measure it."),
        row("d", question="Hello?", answer="Hello."),
    ]
    assert gone(Dedup(), samples) == {"b": "dedup/text", "c": "dedup/text"}
    assert gone(Dedup(texts=1.0), samples) == {"b": "dedup/text"}


def test_semantic_duplicates_of_the_specification() -> None:
    vectors = np.array([(1, 0), (0.999, 0.0447), (0.98, 0.199), (0, 1), (0.02, 0.9998)])
    for epsilon, kept in ((0.01, {0, 2, 3}), (0.03, {0, 3}), (0.001, {0, 2, 3})):
        assert set(range(5)) - set(semantic_duplicates(vectors, 1, epsilon)) == kept


class Embedder:
    """Gives each picture the vector that its id names."""

    def __init__(self, vectors: dict[str, tuple[float, ...]]) -> None:
        self.vectors = vectors

    def answer(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            assert request.ask == "embed" and len(request.sample.pictures) == 1
            yield Answer(key="", sample=request.sample.id, weights="", text="", vector=self.vectors[request.sample.id.partition("#")[0]])

    def measure(self, sample: Sample) -> int:
        return 0


def test_rows_that_an_embedder_cannot_tell_apart() -> None:
    samples = [row("a", picture(pixels(0))), row("b", picture(pixels(1))), row("c", picture(pixels(2))), row("d", answer="no picture")]
    embedder = Embedder({"a": (3.0, 0.0), "b": (0.0, 1.0), "c": (1.0, 0.01)})
    operator = SemanticDedup.model_validate({"with": "tower", "epsilon": 0.01, "clusters": 1})
    assert gone(operator, samples, answerers=lambda _: embedder) == {"c": "semantic-dedup/near"}


@pytest.mark.parametrize("count", [1, 2, 40])
def test_clusters_do_not_hide_exact_copies(count: int) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(count, 8))
    doubled = np.concatenate([vectors, vectors])
    gone_rows = semantic_duplicates(doubled, max(1, round(len(doubled) ** 0.5)), 1e-6)
    assert {min(place, place + count if place < count else place - count) for place in gone_rows} == set(range(count)) and len(gone_rows) == count
