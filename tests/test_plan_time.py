"""Arithmetic by rule against counted arithmetic, named hardware, declared rows, disk, and what serving takes."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sightline import plan_stages
from sightline.errors import Refused
from sightline.model.vlm import Model
from sightline.plan import plan
from sightline.plan_rows import DataRows, RowLength, histogram, processor_of, rows_of, vocabulary, worst_batch
from sightline.plan_serving import BYTES, cache_per_token, plan_serving
from sightline.plan_time import Hardware, attention_flops, disk_of, hardware, stage_flops, visits_of, work_of
from sightline.recipe import Expect, Recipe, load
from sightline.train.stage import StageConfig, prepare
from sightline.twin import twin

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
A40 = Hardware(name="A40", devices=8, flops=149.7e12, memory=48e9, bandwidth=0.7e12, utilisation=0.4)
VIT = "model.encoders=[{config: {model_type: clip_vision_model, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 3, num_attention_heads: 2, image_size: 32, patch_size: 8}}]"
DECODER = "model.language_model.config={model_type: qwen2, hidden_size: 64, intermediate_size: 192, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 4, tie_word_embeddings: false}"
WHOLE = "{connector: {learning_rate: 1e-3}, language_model: {learning_rate: 1e-3}}"


def stage_of(train: str, *overrides: str) -> tuple[Recipe, StageConfig]:
    said = [VIT, DECODER, "model.language_model.attention=sdpa", f"stages.instruct.train={train}", "stages.instruct.precision=float32", *overrides]
    recipe = load(TINY, said).recipe
    return recipe, recipe.stages[3]


def counted(recipe: Recipe, stage: StageConfig, rows: int) -> tuple[float, dict[str, float]]:
    """(FLOPs of matrices that torch counts in a step, FLOPs by rule and part)."""
    config = recipe.config_of(stage).resolve(*vocabulary(recipe, "model"))
    processor, known = processor_of(recipe, stage, config, None)
    data = rows_of(recipe, stage, processor, known, None)
    objective: Any = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
    batch, lengths = worst_batch([length for one in data for length in one.lengths], rows, processor, objective)
    model = Model(config)
    prepare(model, stage)
    # a layer that carries a hook runs for all places, as it does on accelerators
    model.language_model.blocks[-1].register_forward_pre_hook(lambda *_: None)
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(objective(model, batch).sums.values())).sum().backward()
    attention = sum(count for op, count in counter.get_flop_counts()["Global"].items() if "attention" in str(op) or "bmm" in str(op))
    work = work_of(model)
    read = {"encoders.vision": "patches", "connector": "entries", "language_model": "tokens", "head": "answers"}
    return counter.get_total_flops() - attention, {path: work[path].both * sum(getattr(one, key) for one in lengths) for path, key in read.items()}


@pytest.mark.parametrize(
    "train",
    [
        WHOLE,
        "{connector: {learning_rate: 1e-3}}",
        "{language_model: {learning_rate: 1e-3, last: 2}}",
        "{language_model: {learning_rate: 1e-3, lora: {rank: 4}}}",
        "{encoders: {learning_rate: 1e-3}, connector: {learning_rate: 1e-3}, language_model: {learning_rate: 1e-3}}",
    ],
    ids=["whole", "connector", "last-blocks", "adapters", "everything"],
)
def test_the_rules_are_what_torch_counts(train: str) -> None:
    recipe, stage = stage_of(train, "data.questions.expect={rows: 50, text: 60, answers: 20, spread: 0, size: [32, 32]}")
    found, by_part = counted(recipe, stage, 4)
    assert sum(by_part.values()) == pytest.approx(found, rel=0.06)


def test_rules_by_hand() -> None:
    recipe, stage = stage_of("{connector: {learning_rate: 1e-3}}")
    with torch.device("meta"):
        model = Model(recipe.config_of(stage).resolve(*vocabulary(recipe, "model")))
        prepare(model, stage)
    work = work_of(model)
    matrices = sum(p.numel() for name, p in model.language_model.named_parameters() if ".layers." in name and p.dim() == 2)
    assert work["language_model"].forward == pytest.approx(2 * matrices, rel=0.02)
    assert work["language_model"].backward == work["language_model"].forward, "frozen, and passed through"
    assert work["encoders.vision"].backward == 0, "no gradient below the lowest trained part"
    assert work["connector"].both == pytest.approx(6 * sum(p.numel() for p in model.connector.parameters() if p.dim() == 2))
    head = model.language_model.model.get_output_embeddings().weight
    assert (work["head"].forward, work["head"].backward) == (2 * head.numel(), 2 * head.numel())
    assert attention_flops({"num_hidden_layers": 3, "hidden_size": 10}, 100, causal=True) == 2 * 3 * 10 * 100**2


def test_each_encoder_computes_its_own_tokens() -> None:
    recipe = twin(load("points").recipe)
    with torch.device("meta"):
        model = Model(recipe.config_of(recipe.stages[1]).resolve(*vocabulary(recipe, "points")))
        prepare(model, recipe.stages[2])
    work = work_of(model)
    length = RowLength(tokens=50, answers=5, encoded={"general": 10, "text": 30}, entries=4, pictures=1)
    data = [DataRows(name="d", rows=100, own=100, pictures=100, how="declared", lengths=[length])]
    found = stage_flops(model, data, 200, cached=False, recompute=False)
    assert found["encoders.general"] == 200 * 10 * work["encoders.general"].both
    assert found["encoders.text"] == 200 * 30 * work["encoders.text"].both
    assert stage_flops(model, data, 200, cached=True, recompute=False)["encoders.text"] == found["encoders.text"] / 2, "each picture once"
    width = {encoder.name: encoder.channels() for encoder in model.config.encoders}
    assert disk_of(model, data, True, True, "bfloat16")["features"] == 100 * 2 * (10 * width["general"] + 30 * width["text"])


def test_visits_follow_the_mixture() -> None:
    said = ["stages.instruct.data={questions: 1.0, captions: 1.0}", "stages.instruct.mix={rows: 500, most: {captions: 0.2}}"]
    recipe, stage = stage_of(WHOLE, *said, *(f"data.{name}.expect={{rows: {rows}, size: [32, 32]}}" for name, rows in (("questions", 100), ("captions", 900))))
    config = recipe.config_of(stage).resolve(*vocabulary(recipe, "model"))
    processor, known = processor_of(recipe, stage, config, None)
    assert [(one.name, one.own, one.rows) for one in rows_of(recipe, stage, processor, known, None)] == [("questions", 100, 400), ("captions", 900, 100)]


def test_equal_steps_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    measure = plan_stages.measure_steps
    monkeypatch.setattr(plan_stages, "measure_steps", lambda *given, **more: (calls.append(given[3].name), measure(*given, **more))[1])
    steps: plan_stages.Known = {}
    found = []
    for changes in ([], ["stages.instruct.steps=9", "stages.instruct.train.connector.learning_rate=1e-4"], ["stages.instruct.precision=bfloat16"]):
        recipe, _ = stage_of(WHOLE, "data.questions.expect={rows: 50, size: [32, 32]}", *changes)
        found.append(plan_stages.plan_stage(recipe, 3, A40, "none", None, steps).memory)
    assert calls == ["instruct", "instruct"]
    assert found[0] == found[1] != found[2]
    again = plan_stages.plan_stage(stage_of(WHOLE, "data.questions.expect={rows: 50, size: [32, 32]}")[0], 3, A40, "none", None, {})
    assert again.memory == found[0]


def test_a_cache_that_cannot_pay_is_told() -> None:
    large = ["data.questions.expect={rows: 200000000, size: [32, 32]}", "stages.instruct.steps=null"]
    for changes, told in (
        (["stages.instruct.epochs=1"], True),
        (["stages.instruct.epochs=3"], False),
        (["stages.instruct.epochs=1", "stages.instruct.cache_features=false"], False),
        (["stages.instruct.epochs=3", "data.questions.expect={rows: 2000000000, size: [32, 32]}"], True),
    ):
        recipe, _ = stage_of(WHOLE, *large, *changes)
        planned = plan_stages.plan_stage(recipe, 3, A40, "none", None, {})
        assert [finding.code for finding in planned.findings] == ["plan/cache-cannot-pay"] * told, (changes, planned.time.disk)


def test_named_hardware() -> None:
    found = hardware("8xa40")
    assert (found.said, found.devices, found.flops, found.memory) == ("8xA40", 8, 149.7e12, 48e9)
    assert hardware("4090").devices == 1
    own = hardware("cpu")
    assert own.flops > 1e9
    assert own.memory > 1e8
    for wrong in ("8xB40", "0xA40", "A40x8", "-1xA40", "2xcpu", "x"):
        with pytest.raises(Refused, match="usage/hardware") as refused:
            hardware(wrong)
        assert "A100-80" in refused.value.problems[0].allowed


def test_declared_rows() -> None:
    recipe, stage = stage_of(
        WHOLE, "data.questions.expect={rows: 1000, text: 80, answers: 20, spread: 0.5, size: [32, 32]}", "stages.instruct.data={questions: 0.5}"
    )
    config = recipe.config_of(stage).resolve(*vocabulary(recipe, "model"))
    processor, known = processor_of(recipe, stage, config, None)
    [one] = rows_of(recipe, stage, processor, known, None)
    assert (one.how, one.rows, one.pictures) == ("declared", 500, 1000)
    assert one.mean("patches") == 16
    around = min(length.tokens - length.answers for length in one.lengths)  # what the chat format and the picture add to the shortest text
    assert around >= 16
    assert one.mean("answers") == pytest.approx(20, rel=0.1)
    shown = histogram([one])
    assert sum(share for _, _, share in shown) == pytest.approx(1)
    assert shown[0][0] == min(length.tokens for length in one.lengths)
    assert all(high + 1 == low for (_, high, _), (low, _, _) in pairwise(shown))
    assert visits_of([one], stage.model_copy(update={"steps": None, "epochs": 2.0, "batch": 64})) == (math.ceil(1000 / 64), 16 * 64)


def test_stand_ins_have_the_lengths_they_stand_for() -> None:
    recipe, stage = stage_of(WHOLE, "data.questions.expect={rows: 1000, text: 80, answers: 20, spread: 0.5, size: [32, 32]}")
    config = recipe.config_of(stage).resolve(*vocabulary(recipe, "model"))
    processor, known = processor_of(recipe, stage, config, None)
    [one] = rows_of(recipe, stage, processor, known, None)
    batch, lengths = worst_batch(one.lengths, 5, processor, stage.objective.build())  # pyright: ignore[reportAttributeAccessIssue]
    longest = sorted((length.tokens for length in one.lengths), reverse=True)[:5]
    assert [length.tokens for length in lengths] == longest
    assert batch.decoder is not None
    assert tuple(batch.decoder.ids.shape) == (5, longest[0])
    assert len(batch.pictures.tilings) == 5, "no picture is shown twice"


def test_serving_by_hand() -> None:
    llama = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}
    assert cache_per_token(llama) == 524_288
    assert cache_per_token({**llama, "num_key_value_heads": 8}) == 131_072
    assert cache_per_token({**llama, "head_dim": 64}) == 262_144
    recipe, stage = stage_of(WHOLE)
    with torch.device("meta"):
        model = Model(recipe.config_of(stage).resolve(*vocabulary(recipe, "model")))
    served = plan_serving(model, 16, A40)
    assert served is not None
    assert served.cache_per_token == 2 * 2 * 4 * 64
    assert served.request == 16 + 512
    whole, int8, int4 = served.rows
    assert whole.weights == 2 * sum(p.numel() for p in model.parameters())
    assert whole.weights > int8.weights > int4.weights
    matrices = sum(p.numel() for block in model.language_model.blocks for p in block.parameters() if p.dim() >= 2)
    assert whole.weights - int4.weights == pytest.approx(matrices * (2 - BYTES["int4"]), abs=1)
    assert (whole.devices, whole.concurrent) == (1, int((0.9 * 48e9 - whole.weights) / (served.request * served.cache_per_token)))
    small = Hardware(name="none", devices=1, flops=1.0, memory=whole.weights / 0.9 * 0.7, bandwidth=1.0, utilisation=1.0)
    tight = plan_serving(model, 16, small)
    assert tight is not None
    assert tight.rows[0].devices in (0, 2, 4), "spread over more devices, or on none of them"


def test_a_whole_plan() -> None:
    expected = [f"data.{name}.expect={{rows: 200, text: 40, answers: 20, size: [32, 32]}}" for name in ("captions", "questions")]
    found = plan(TINY, [*expected, "data.notes.expect={rows: 50, text: 30, answers: 29, size: null}"], model_only=False, machine="8xA40")
    assert [stage.name for stage in found.stages] == ["see", "read", "align", "instruct"]
    assert found.findings == []
    assert all(stage.memory is not None and stage.memory.fits for stage in found.stages)
    assert [stage.memory.sharding for stage in found.stages if stage.memory is not None] == ["none", "fsdp", "fsdp", "fsdp"], "contrast is not spread"
    align, instruct = found.stages[2:]
    assert align.time.by_part["encoders.vision"] > 0
    assert align.time.flops == sum(align.time.by_part.values())
    assert align.time.hours == pytest.approx(align.time.flops / (8 * 149.7e12 * 0.4) / 3600)
    assert instruct.time.disk["checkpoints"] == 2 * 12 * sum(row.trained for row in instruct.table)
    assert instruct.memory is not None
    assert instruct.memory.largest > instruct.memory.rows
    said = str(found)
    for part in ("stage instruct", "declared", "memory by part", "micro_batch up to", "TFLOP/s", "serving model on A40", "int4", "in all"):
        assert part in said
    record = found.record()
    assert record["stages"][3]["memory"]["device"]["total"] == instruct.memory.device["total"]
    assert record["hardware"]["name"] == "A40"


def test_guessed_rows_are_told_and_wrong_recipes_refused() -> None:
    found = plan(TINY, model_only=False, machine="A40")
    assert {finding.code for finding in found.findings} == {"plan/guessed-rows"}
    assert {stage.data[0]["how"] for stage in found.stages} == {"assumed"}
    with pytest.raises(Refused, match="run/cannot-split"):
        plan(TINY, ["stages.see.micro_batch=2"], model_only=False)


def test_what_is_expected_is_checked() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Expect(rows=0)
