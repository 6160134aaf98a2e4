"""Rounded language models: what is stored, what comes back, what it costs, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exported_models import SENT, config_of, photo
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_models import TEXTS, built, sample, turn
from torch import nn

from sightline.errors import Refused
from sightline.evaluate.answering import LocalAnswerer
from sightline.evaluate.golden import write_golden
from sightline.export.quantized_export import ROUNDED, SETTINGS, load_quantized, quantize
from sightline.export.rounded_layers import GROUP, How, RoundedLinear, round_layers, rounded, whole
from sightline.model import directory
from sightline.model.tokens import train_tokenizer
from sightline.samples.exchange import Decoding, Request


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with golden requests."""
    folder = tmp_path_factory.mktemp("ours")
    config = config_of(SENT["flat"])
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    model, processor = built(config.resolve(400, control=tokenizer.control), tokenizer)
    weights = directory.save(folder, model, processor)
    asked = [sample(turn("user", 0, text), pictures=[photo(40, 30)]) for text in ("Where?", "How many ships?")]
    answerer = LocalAnswerer(model, processor, weights)
    told = [(one, next(answerer.answer([Request(sample=one, decoding=Decoding(max_tokens=8))]))) for one in asked]
    write_golden(folder, model, processor, told)
    return folder


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["int8", "int4"]), st.integers(1, 9), st.integers(1, 100), st.integers(0, 9))
def test_no_number_moves_by_more_than_half_a_step(how: How, outputs: int, inputs: int, seed: int) -> None:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))
    stored = rounded(weight, how)
    back = whole(stored["rounded"], stored["scales"], how, inputs)
    step = stored["scales"].repeat_interleave(inputs if how == "int8" else GROUP, dim=1)[:, :inputs]
    assert back.shape == weight.shape and bool(((back - weight).abs() <= step / 2 * 1.001).all())
    again = rounded(back, how)
    torch.testing.assert_close(whole(again["rounded"], again["scales"], how, inputs), back)


def test_zeros_stay_zeros() -> None:
    for how in ("int8", "int4"):
        stored = rounded(torch.zeros(2, 5), how)
        assert not whole(stored["rounded"], stored["scales"], how, 5).any()


def test_tied_layers_and_the_head_stay() -> None:
    module = nn.ModuleDict({"table": nn.Embedding(7, 4), "tied": nn.Linear(4, 7, bias=False), "head": nn.Linear(4, 7), "inner": nn.Linear(4, 4)})
    tied: Any = module["tied"]
    tied.weight = module["table"].weight  # pyright: ignore[reportAttributeAccessIssue]
    assert round_layers(module, "int8", kept=module["head"]) == ["inner"]
    assert isinstance(module["inner"], RoundedLinear) and module["inner"](torch.ones(2, 4)).shape == (2, 4)


@pytest.mark.parametrize(("how", "share"), [("int8", 0.35), ("int4", 0.25)])
def test_a_rounded_model_is_small_and_says_what_it_cost(how: How, share: float, home: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def measured(answerer: Any) -> dict[str, float]:
        asked.append(type(answerer.model.language_model.model.model.layers[0].mlp.up_proj).__name__)
        return {"accuracy": 1 / len(asked)}

    found = quantize(home, tmp_path / "out", how, measured)
    assert found.layers == 14 and asked == ["Linear", "RoundedLinear"] and found.metrics == {"accuracy": (1.0, 0.5)}
    before = directory.read_tensors(home)
    layers = json.loads((tmp_path / "out" / SETTINGS).read_text())["layers"]
    kept = load_file(tmp_path / "out" / ROUNDED)
    assert sum(one.nbytes for one in kept.values()) < share * sum(before[f"{layer}.weight"].nbytes for layer in layers)
    assert 0 < found.logp < 1 and len(found.golden) == 2 and found.bytes[1] < found.bytes[0]
    assert "accuracy: 1.0000 before, 0.5000 after" in str(found) and f"{how}: 14 layers" in str(found)
    assert found.record()["golden"] == found.golden


def test_what_is_loaded_answers_as_its_whole_weights_would(home: Path, tmp_path: Path) -> None:
    quantize(home, tmp_path / "out", "int8")
    model, processor, weights = load_quantized(tmp_path / "out")
    plain, _, _ = directory.load(home)
    with torch.no_grad():
        for name, layer in model.language_model.model.named_modules():
            if isinstance(layer, RoundedLinear):
                plain.language_model.model.get_submodule(name).weight.copy_(layer.weight)
    request = Request(sample=sample(turn("user", 0, "Where?"), pictures=[photo(90, 30)]), decoding=Decoding(max_tokens=8))
    ours, theirs = (next(LocalAnswerer(one, processor, weights).answer([request])) for one in (model, plain))
    assert (ours.tokens, ours.text) == (theirs.tokens, theirs.text)
    torch.testing.assert_close(torch.tensor(ours.logps), torch.tensor(theirs.logps))


def test_what_is_no_rounded_model_is_refused(home: Path, tmp_path: Path) -> None:
    quantize(home, tmp_path / "out", "int8")
    with pytest.raises(Refused, match=r"model/not-a-model"):
        directory.load(tmp_path / "out")
    with pytest.raises(Refused, match="export/not-quantized"):
        load_quantized(home)
    with pytest.raises(Refused, match="export/quantize"):
        quantize(home, tmp_path / "other", "int3")  # pyright: ignore[reportArgumentType]
    with (tmp_path / "out" / ROUNDED).open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x7f")
    with pytest.raises(Refused, match="export/changed"):
        load_quantized(tmp_path / "out")


def test_a_model_without_golden_requests_is_refused(home: Path, tmp_path: Path) -> None:
    model, processor, _ = directory.load(home)
    (tmp_path / "bare").mkdir()
    directory.save(tmp_path / "bare", model, processor)
    with pytest.raises(Refused, match="evaluate/no-golden"):
        quantize(tmp_path / "bare", tmp_path / "out", "int8")
