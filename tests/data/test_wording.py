"""English of labels and numbers."""

from __future__ import annotations

import pytest

from sightline.data.wording import counted, listed, plural, said, with_article


@pytest.mark.parametrize(
    ("words", "many"), [("pond", "ponds"), ("bus", "buses"), ("body", "bodies"), ("bay", "bays"), ("branch", "branches"), ("storage tank", "storage tanks")]
)
def test_plural(words: str, many: str) -> None:
    assert plural(words) == many


def test_phrases() -> None:
    assert said("storage-tank") == said("storage_tank") == "storage tank"
    assert [with_article(words) for words in ("pond", "airport")] == ["a pond", "an airport"]
    assert [counted("pond", number) for number in (1, 2, 10, 37)] == ["a pond", "two ponds", "ten ponds", "37 ponds"]
    assert [listed(["a", "b", "c"][:number]) for number in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
