"""Switches change memory and time, and no result beyond rounding."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from sightline.train.stage import prepare
from sightline.train.switches import keep_memory, throw


def learnt(world, said: dict[str, object], backend: str = "aot_eager") -> tuple[float, dict[str, torch.Tensor], int]:
    """Loss, gradients and number of kept tensors of step 0."""
    model = world.model()
    stage = world.stage(batch=4, **said)
    prepared = prepare(model, stage)
    throw(model, stage, backend)
    feed = world.feed(stage)
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = feed.objective(model, feed.micro_batches(0)[0]).sums["answer"]
    loss.backward()
    assert set(model.state_dict()) == set(world.model().state_dict())
    return loss.item(), {name: p.grad for name, p in prepared.trained.items() if p.grad is not None}, sum(kept)


@pytest.mark.parametrize("said", [{"recompute": True}, {"tf32": True}, {"recompute": True, "pack": True}])
def test_results_stay(world, said: dict[str, object]) -> None:
    plain, switched = learnt(world, {}), learnt(world, said)
    assert switched[0] == pytest.approx(plain[0], rel=1e-6)
    assert switched[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(switched[1][name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()), msg=name)
    if "recompute" in said:
        assert switched[2] < 0.7 * plain[2]
    assert torch.backends.cuda.matmul.allow_tf32 == said.get("tf32", False)


@pytest.mark.slow
def test_compiled_blocks_say_the_same(world) -> None:
    plain, compiled = learnt(world, {}), learnt(world, {"compile": True})
    torch._dynamo.reset()
    assert compiled[0] == pytest.approx(plain[0], rel=1e-6)
    for name, gradient in plain[1].items():
        torch.testing.assert_close(compiled[1][name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()), msg=name)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a switch of glibc")
def test_freed_memory_is_used_again() -> None:
    assert keep_memory()
    mebibytes = 40
    _ = bytearray(b"1") * (mebibytes << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        _ = bytearray(b"1") * (mebibytes << 20)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < mebibytes << 8, "fewer pages are cleared than one of the five has"


def test_elsewhere_memory_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_memory()
