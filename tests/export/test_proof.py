"""What a proof compares, without the other process: tokens of prompts, logits, answers and names, each of which alone refuses an export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import native_models
import pytest
import torch
from tiny_models import sample, turn
from torch import Tensor

from sightline.checkpoint_import import import_checkpoint
from sightline.errors import Refused
from sightline.export import proof
from sightline.export.exporters import exporter
from sightline.export.proof import CLOSE, Asked, expansions, messages, prove_writer
from sightline.model import directory

Said = dict[str, Any]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model directory and its export."""
    folder = tmp_path_factory.mktemp("llava")
    native_models.published(native_models.CASES["llava"], folder / "published")
    import_checkpoint(folder / "published", folder / "model")
    exporter("llava").write(folder / "model", folder / "out")
    return folder / "model", folder / "out"


def other(said: Said, number: int, **changes: Any) -> None:
    said["requests"][number] |= changes


CHANGES: dict[str, tuple[Callable[[Said, dict[str, Tensor]], Any], str]] = {
    "a prompt of other tokens": (lambda said, _: other(said, 1, ids=[*said["requests"][1]["ids"], 0]), "export/prompt-differs"),
    "another answer": (lambda said, _: other(said, 2, text="other"), "export/golden-differs"),
    "the same answer of other tokens": (lambda said, _: other(said, 2, tokens=[0]), "export/golden-differs"),
    "logits beyond rounding": (lambda _, tensors: tensors["0.logits"].mul_(1 + 2 * CLOSE), "export/differs"),
    "an empty tensor of the class": (lambda said, _: said["keys"].update(missing_keys=["lm_head.weight"]), "export/keys"),
}


@pytest.mark.parametrize("name", [None, *CHANGES])
def test_each_difference_refuses(name: str | None, exported: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(folder: Path, out: Path, stock: proof.Stock, ask: str, asked: Sequence[Asked], job: Said) -> tuple[Said, dict[str, Tensor]]:
        told = [{"ids": one.ids, "tokens": one.tokens, "text": " " + one.text} for one in asked]
        tensors = {f"{number}.logits": one.found["logits"].clone() for number, one in enumerate(asked)}
        said = {"requests": told, "keys": {"missing_keys": []}, "through": "a stand-in", "software": {"none": "0"}}
        if name is not None:
            CHANGES[name][0](said, tensors)
        return said, tensors

    monkeypatch.setattr(proof, "run_stock", stand_in)
    own: Any = exporter("llava")
    if name is None:
        found = prove_writer(*exported, own.stock())
        assert (found.difference, found.through, len(found.golden)) == (0.0, "a stand-in", 3)
    else:
        with pytest.raises(Refused, match=CHANGES[name][1]):
            prove_writer(*exported, own.stock())


def test_a_prompt_becomes_a_chat(exported: tuple[Path, Path]) -> None:
    _, processor, _ = directory.load(exported[0])
    pictures = [native_models.photo(number, 40, 30) for number in range(2)]
    asked = sample(turn("user", "First:", 1, "then", 0), pictures=pictures)
    assert messages(processor, asked) == [{"role": "user", "content": ["First:", 0, "then", 1]}]
    assert expansions(processor, asked, "<image>") == ["<image>" * 4] * 2


def test_without_golden_requests_nothing_is_proved(exported: tuple[Path, Path], tmp_path: Path) -> None:
    own: Any = exporter("llava")
    with pytest.raises(Refused, match="export/no-golden"):
        list(proof.golden_of(tmp_path, "write"))
    assert own.stock().processor


def test_logits_are_those_of_one_forward(exported: tuple[Path, Path]) -> None:
    model, processor, _ = directory.load(exported[0])
    own: Any = exporter("llava")
    [(_, row, asked), *_] = proof.golden_of(exported[0], "write")
    found = proof.ours(model, processor, row, asked, 0, own.stock(), exported[1] / "pictures")
    assert found.found["logits"].shape == (len(row["tokens"]), native_models.ROWS)
    assert found.found["logits"].argmax(-1).tolist() == row["tokens"]
    assert torch.isfinite(found.found["logits"]).all()
