"""Memory that a plan predicts without numbers, against what a real step allocates; deep stacks extended from shallow ones; what devices and recomputation change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from sightline import plan_memory
from sightline.model.vlm import Model
from sightline.plan_memory import CASTS, GRADIENTS, StepMemory, measure_steps
from sightline.plan_rows import processor_of, rows_of, vocabulary, worst_batch
from sightline.recipe import Recipe, load
from sightline.train.stage import StageConfig, prepare
from sightline.train.switches import throw

TINY = Path(__file__).parent / "recipes" / "tiny.yaml"
WIDE = [
    "model.language_model.config={model_type: qwen2, hidden_size: 96, intermediate_size: 256, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2}",
    "data.questions.expect={rows: 100, text: 90, answers: 30, size: [64, 64]}",
]
SDPA = "model.language_model.attention=sdpa"


def loaded(*overrides: str, number: int = 3) -> tuple[Recipe, StageConfig]:
    recipe = load(TINY, [*WIDE, *overrides]).recipe
    return recipe, recipe.stages[number]


def worst(recipe: Recipe, stage: StageConfig, rows: int) -> tuple[Any, Any, Any]:
    """(config, objective, batch)."""
    config = recipe.config_of(stage).resolve(*vocabulary(recipe, "model"))
    processor, known = processor_of(recipe, stage, config, None)
    data = rows_of(recipe, stage, processor, known, None)
    objective: Any = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
    return config, objective, worst_batch([length for one in data for length in one.lengths], rows, processor, objective, stage.pack)[0]


def predicted(recipe: Recipe, stage: StageConfig, rows: int = 6, accumulates: bool = False) -> StepMemory:
    config, objective, batch = worst(recipe, stage, rows)
    with torch.device("meta"):
        model = Model(config)
        prepare(model, stage)
    throw(model, stage)
    return measure_steps(model, objective, [batch], stage, accumulates)[0]


def allocated(recipe: Recipe, stage: StageConfig, rows: int = 6, accumulates: bool = False) -> int:
    """Bytes that a real forward and backward have at most beside the weights, by torch's own record of allocations."""
    config, objective, batch = worst(recipe, stage, rows)
    torch.manual_seed(0)
    model = Model(config)
    prepare(model, stage)
    throw(model, stage)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=stage.precision == "bfloat16"):
            losses = objective(model, batch)
        torch.stack(list(losses.sums.values())).sum().backward()

    there = 0
    if accumulates:
        step()
        there = sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    live = peak = 0
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]  # pyright: ignore[reportOptionalMemberAccess]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak + there


@pytest.mark.parametrize(
    ("number", "overrides", "accumulates"),
    [
        (3, (), False),
        (3, (SDPA,), False),
        (3, (SDPA, "stages.instruct.train={connector: {learning_rate: 1e-3}, language_model: {learning_rate: 1e-3}}"), True),
        (3, (SDPA, "stages.instruct.pack=false"), False),
        (3, (SDPA, "stages.instruct.recompute=true"), False),
        (2, ("stages.align.precision=float32",), False),
        (0, (), False),
    ],
    ids=["adapters-eager", "adapters-sdpa", "whole-accumulating", "padded", "recomputed", "connector-float32", "contrastive"],
)
def test_the_prediction_is_what_a_step_allocates(number: int, overrides: tuple[str, ...], accumulates: bool) -> None:
    recipe, stage = loaded(*overrides, number=number)
    found = predicted(recipe, stage, accumulates=accumulates)
    assert sum(found.step.values()) == pytest.approx(allocated(recipe, stage, accumulates=accumulates), rel=0.05)
    if accumulates:
        assert found.step[GRADIENTS] == pytest.approx(sum(found.gradients.values()), rel=0.02)


def test_weights_and_moments_by_part() -> None:
    recipe, stage = loaded()
    found = predicted(recipe, stage)
    model = Model(recipe.config_of(stage).resolve(*vocabulary(recipe, "model")))
    table = {row.part: row for row in prepare(model, stage).table}
    assert found.optimizer == {path: 8 * row.trained for path, row in table.items()}
    assert found.gradients == {path: 4 * row.trained for path, row in table.items()}
    assert all(found.weights[path] >= 4 * sum(p.numel() for p in part.parameters()) for path, part in model.parts().items())
    assert found.total == sum(sum(table.values()) for table in (found.weights, found.optimizer, found.step))


def test_a_deep_stack_is_extended_from_a_shallow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, stage = loaded(SDPA, WIDE[0].replace("num_hidden_layers: 4", "num_hidden_layers: 11"))
    whole = predicted(recipe, stage)
    monkeypatch.setattr(plan_memory, "DEEP", 8)
    extended = predicted(recipe, stage)
    assert extended.total == pytest.approx(whole.total, rel=0.01)
    assert extended.weights == whole.weights
    assert extended.saved_by_recomputing == pytest.approx(whole.saved_by_recomputing, rel=0.02)


@pytest.mark.parametrize("trained", ["connector: {learning_rate: 1e-3}", "connector: {learning_rate: 1e-3}, encoders: {learning_rate: 1e-3, last: 2}"])
def test_frozen_blocks_of_an_encoder_leave_nothing(monkeypatch: pytest.MonkeyPatch, trained: str) -> None:
    deep = (
        "{model_type: clip_vision_model, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 9, num_attention_heads: 2, image_size: 32, patch_size: 8}"
    )
    recipe, stage = loaded(SDPA, f"model.encoders=[{{config: {deep}, layer: -2}}]", f"stages.instruct.train={{{trained}}}")
    monkeypatch.setattr(plan_memory, "_FROZEN", 99)
    whole = predicted(recipe, stage)
    monkeypatch.setattr(plan_memory, "_FROZEN", 3)
    run: list[int] = []
    forward = nn.ModuleList.__delitem__
    monkeypatch.setattr(nn.ModuleList, "__delitem__", lambda self, which: (run.append(len(range(*which.indices(len(self))))), forward(self, which))[1])
    assert predicted(recipe, stage) == whole
    assert run == [8 - 3 if "encoders" not in trained else 6 - 3]


def test_more_rows_take_more_and_recomputing_takes_less() -> None:
    recipe, stage = loaded(SDPA)
    small, large = predicted(recipe, stage, 2), predicted(recipe, stage, 8)
    assert large.on(1)["activations"] > 2.5 * small.on(1)["activations"]
    assert large.on(1, recompute=True)["activations"] < 0.7 * large.on(1)["activations"]


def test_devices_share_what_lasts() -> None:
    found = StepMemory(
        weights={"language_model": 800, "connector": 8},
        optimizer={"language_model": 1600, "connector": 16},
        gradients={"language_model": 400, "connector": 4},
        step={"language_model": 70, GRADIENTS: 100, CASTS: 30, "head and loss": 5},
        blocks=[(30, 10), (30, 10)],
        largest_block=10,
        outside=3,
    )
    assert found.on(1) == {"weights": 808, "optimizer": 1616, "gradients": 100, CASTS: 30, "activations": 70, "head and loss": 5, "total": 2629}
    # of the language model a quarter, of the connector all; two gathered blocks in two bytes a number, and in four what lies in none
    assert found.on(4) == {"weights": 208, "optimizer": 416, "gradients": 104, CASTS: 52, "activations": 70, "head and loss": 5, "total": 855}
    assert found.on(1, recompute=True)["activations"] == 70 - 20


def test_a_stage_that_trains_what_its_loss_does_not_read() -> None:
    recipe, stage = loaded("stages.align.train={text_encoder: {learning_rate: 1e-3}}", number=2)
    with pytest.raises(AssertionError, match="nothing that stage align trains reaches its loss"):
        predicted(recipe, stage)
