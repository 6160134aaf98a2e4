"""The benchmarks of training at toy size: both sides of a comparison start from the same weights and learn the same thing, and figures are put together as they were measured."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import bench
import contrastive_vs_open_clip as contrastive
import sides
import torch
import train_vs_transformers as training
import workload_b
from figures import Unmeasured
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, layer_norm, normalize


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of workload B at toy size."""
    folder = tmp_path_factory.mktemp("b")
    workload_b.prepare_folder(folder, "toy", 6)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Weights and pairs of two towers of one block on small pictures."""
    folder = tmp_path_factory.mktemp("pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive, "VISION", {**contrastive.VISION, "image_size": 32, "width": 64})
        patch.setattr(contrastive, "TEXT", {**contrastive.TEXT, "vocab_size": 64, "width": 64, "heads": 1})
        contrastive.prepare_folder(folder, 8, blocks=1)
        yield folder


def side(rate: float, peak: float = 100.0) -> sides.Side:
    """What one pass measured."""
    return {"rate": rate, "peak_mib": peak, "memory": True}


# sides


def test_a_side_is_a_process_of_its_own_that_says_what_it_measured(tmp_path: Path) -> None:
    script = tmp_path / "side.py"
    script.write_text("import json, sys, only_here\nprint('by the way')\nprint(json.dumps({'words': sys.argv[1:], 'found': only_here.__file__}))")
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "only_here.py").write_text("")
    found = sides.run_side(script, "--steps", "2", packages=tmp_path / "packages")
    assert found["words"] == ["--steps", "2"] and found["found"].startswith(str(tmp_path / "packages"))
    with pytest.raises(RuntimeError, match=r"(?s)--steps 2: .*No module named 'only_here'"):
        sides.run_side(script, "--steps", "2")


def test_ratios_are_taken_pair_by_pair() -> None:
    own, other = [side(4), side(9), side(5)], [side(2), side(3), side(5)]
    assert sides.spread(sides.ratios(own, other, "rate")) == {"median": 2.0, "least": 1.0, "largest": 3.0, "values": [2.0, 3.0, 1.0]}
    assert sides.median(own, "rate") == 5


def test_processor_time_is_what_a_pass_took() -> None:
    spent = sides.processor_seconds()
    while sides.processor_seconds() - spent < 0.05:
        sum(range(1000))
    found = sides.measured(10, 0.0, spent)
    assert found["seconds"] >= 0.05 and found["rate"] == 10 / found["seconds"] and found["peak_mib"] > 1


# workload A


def test_workload_a_takes_medians_of_its_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    rates = {"theirs": iter([1.0, 3.0, 2.0, 2.0, 1.0]), "ours": iter([6.0, 3.0]), "cached": iter([1.0, 8.0, 4.0])}

    def run(script: Path, *words: str) -> Any:
        asked.append(words)
        name = "cached" if "--cached" in words else words[1]
        return {"loss": [2.0, 2.0], "norm": [1.0, 1.00001]} if name == "first" else side(next(rates[name]), 50.0 if name == "ours" else 100.0)

    monkeypatch.setattr(training, "run_side", run)
    monkeypatch.setattr(training, "prepare_folder", lambda folder, count: None)
    found = training.compare(tmp_path, 2, 6, '{"tokens": 1}')
    assert found["workers"] == 1  # the best of 1, 3 and 2
    assert found["spreads"]["ratio"] == {"median": 3.0, "least": 3.0, "largest": 3.0, "values": [3.0, 3.0]}
    assert (found["ratio"], found["ours"], found["peer"], found["cached_ratio"], found["peak_memory_ratio"]) == (3.0, 4.5, 1.5, 4.0, 0.5)
    assert found["first_equal"] and not training.equal({"loss": [2.0, 2.001]})
    assert [words for words in asked if words[1] == "ours" and "--cached" not in words] == [
        ("--side", "ours", "--folder", str(tmp_path), "--steps", "6", "--said", '{"tokens": 1}')
    ] * 2


def test_grouping_by_length_decodes_no_picture(toy: Path) -> None:
    processor, store = workload_b.opened(toy, "toy")
    rows = training.PeerRows(processor, store, 999, limit=3)
    assert [len(row["input_ids"]) for row in rows] == [len(ids) for ids in rows.ids]
    assert all(set(row) == {"input_ids"} for row in rows)
    assert set(rows[0]) == {"input_ids", "labels", "pixel_values"}
    assert sum(rows.ids[0] == 999) == 16 and len(rows) == 3


# workload B


def test_both_sides_of_workload_b_begin_alike(toy: Path) -> None:
    found = workload_b.first_step(toy, "toy", "float32")
    assert training.equal(found)
    assert not math.isclose(found["loss"][0], math.log(1000), abs_tol=1e-4)


def test_a_tensor_has_the_numbers_of_its_name() -> None:
    like = torch.zeros(3, 4)
    head, table = "language_model.model.lm_head.weight", "language_model.model.model.embed_tokens.weight"
    assert torch.equal(workload_b.seeded(head, True, like), workload_b.seeded(table, True, like))
    assert not torch.equal(workload_b.seeded(head, False, like), workload_b.seeded(table, False, like))
    assert workload_b.seeded("a.post_layernorm.weight", False, like).mean() > 0.9 > 0.1 > workload_b.seeded("a.post_layernorm.bias", False, like).mean()


def test_workload_b_is_measured(toy: Path) -> None:
    for found in (workload_b.ours(toy, "toy", 3, {}), workload_b.theirs(toy, "toy", 3, 2, 0)):
        assert found["samples"] == 4 and found["rate"] > 0 and found["peak_mib"] > 100


def test_the_first_steps_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 110.0, 112.0, 116.0])
    monkeypatch.setattr(workload_b.time, "perf_counter", lambda: next(times))
    clock = workload_b.Clock("cpu")
    for _ in range(4):
        clock.tick()
    assert (clock.figures(8)["rate"], clock.figures(8)["wall"]) == (16 / 6, 6.0)


def test_flops_are_those_of_a_counter(toy: Path) -> None:
    """torch's counter sees every product of a forward and backward with plain attention, which runs the half that the causal mask hides too."""
    from torch.utils.flop_counter import FlopCounterMode

    from sightline.plan_time import attention_flops
    from sightline.train.objectives import AnswerLikelihood
    from sightline.train.stage import prepare

    processor, store = workload_b.opened(toy, "toy")
    plain = processor.config.language_model.model_copy(update={"attention": "eager"})
    processor.config = processor.config.model_copy(update={"language_model": plain})
    model = workload_b.ours_on(processor, "cpu")
    prepare(model, training.stage_of(1))
    hidden = 0.0
    with FlopCounterMode(display=False) as counter:
        for row in store.kept:
            encoded = processor.encode(store[int(row)])
            hidden += 3 * attention_flops(plain.block(), len(encoded.ids), causal=True)
            AnswerLikelihood().build()(model, processor.collate([[encoded]], root=store.path)).sums["answer"].backward()
    assert workload_b.flops_per_sample(toy, "toy") == pytest.approx((counter.get_total_flops() - hidden) / len(store.kept), rel=0.03)


def test_workload_b_without_a_peer_that_fits_has_no_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(script: Path, *words: str) -> Any:
        chosen = words[words.index("--side") + 1]
        fits = "--micro" in words and words[words.index("--micro") + 1] in fitting
        return {"loss": [2.0, 2.0], "norm": [1.0, 1.0]} if chosen == "first" else side(6.0 if chosen == "ours" else 3.0) | {"memory": fits}

    monkeypatch.setattr(workload_b, "run_side", run)
    monkeypatch.setattr(workload_b, "prepare_folder", lambda folder, size, count: None)
    monkeypatch.setattr(workload_b, "flops_per_sample", lambda folder, size: 1e13)
    told = training._told(["--workload", "B", "--size", "7B", "--pairs", "1"])
    fitting = {"2", "1"}
    found = workload_b.compare(tmp_path, told)
    assert (found["ratio"], found["micro"], found["utilisation"]["ours"]) == (2.0, 2, pytest.approx(6e13 / 989e12))
    fitting = set()
    found = workload_b.compare(tmp_path, told)
    assert (found["ratio"], found["peer"], found["micro"], found["ours"]) == (None, None, None, 6.0)


# contrastive


def towers(own: dict[str, Tensor], pixels: Tensor, ids: Tensor) -> Tensor:
    """open_clip's loss by its definition: pre-normalised blocks, the class token and the token of the highest id, projected; symmetric cross-entropy."""

    def normed(name: str, x: Tensor) -> Tensor:
        return layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"])

    def block(head: str, x: Tensor, mask: Tensor | None) -> Tensor:
        attention = nn.MultiheadAttention(x.shape[-1], x.shape[-1] // 64, batch_first=True)
        attention.load_state_dict({name.removeprefix(f"{head}.attn."): tensor for name, tensor in own.items() if name.startswith(f"{head}.attn.")})
        y = normed(f"{head}.ln_1", x)
        x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        inner = gelu(normed(f"{head}.ln_2", x) @ own[f"{head}.mlp.c_fc.weight"].T + own[f"{head}.mlp.c_fc.bias"])
        return x + inner @ own[f"{head}.mlp.c_proj.weight"].T + own[f"{head}.mlp.c_proj.bias"]

    patches = torch.nn.functional.conv2d(pixels, own["visual.conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([own["visual.class_embedding"].expand(len(patches), 1, -1), patches], 1) + own["visual.positional_embedding"]
    pictures = normed("visual.ln_post", block("visual.transformer.resblocks.0", normed("visual.ln_pre", x), None)[:, 0]) @ own["visual.proj"]
    causal = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)
    x = block("transformer.resblocks.0", own["token_embedding.weight"][ids] + own["positional_embedding"], causal)
    texts = normed("ln_final", x)[torch.arange(len(ids)), ids.argmax(1)] @ own["text_projection"]
    scores = own["logit_scale"].exp() * normalize(pictures, dim=-1) @ normalize(texts, dim=-1).T
    return (cross_entropy(scores, torch.arange(len(ids))) + cross_entropy(scores.T, torch.arange(len(ids)))) / 2


@torch.no_grad()
def test_our_first_loss_is_open_clip_s_by_its_definition(pairs: Path) -> None:
    from safetensors.torch import load_file

    mean, std = (torch.tensor(said)[:, None, None] for said in ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]))
    rows = contrastive.PeerPairs(pairs, lambda image: (torch.from_numpy(np.array(image) / 255).permute(2, 0, 1) - mean) / std)
    pixels, ids = (torch.stack(part) for part in zip(*(rows[row] for row in range(8))))
    with torch.enable_grad():
        found = contrastive.ours_first(pairs, 8, "float32")
    assert found["loss"] == pytest.approx(towers(load_file(pairs / "weights" / "open_clip_model.safetensors"), pixels.float(), ids).item(), rel=1e-5)
    assert abs(found["loss"] - math.log(8)) > 1e-3
    assert ids.shape == (8, 77) and (ids.argmax(1) == (ids != 0).sum(1) - 1).all()
    assert found["norm"] > 0


def test_our_side_is_measured(pairs: Path) -> None:
    found = contrastive.ours(pairs, 4, 2, {})
    assert found["samples"] == 8 and found["rate"] > 0


def test_torchvision_belongs_to_torch() -> None:
    assert contrastive.torchvision_of("2.13.0+cpu") == "torchvision==0.28.*"
    assert contrastive.torchvision_of("2.11.1") == "torchvision==0.26.*"
    with pytest.raises(contrastive.NoPeer, match=r"torch 3\.0\.0"):
        contrastive.torchvision_of("3.0.0")


def installer(folder: Path, code: int) -> tuple[str, ...]:
    """A pip that makes the package, or says why not."""
    program = f"import pathlib, sys; t = pathlib.Path(sys.argv[sys.argv.index('--target') + 1]); (t / 'open_clip').mkdir(parents=True); sys.exit({code} and 'no wheels')"
    return (sys.executable, "-c", program)


def test_the_folder_of_open_clip_is_made_once_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "env"
    with pytest.raises(contrastive.NoPeer, match=r"could not be installed into .*env: no wheels"):
        contrastive.make_env(folder, installer(folder, 1))
    assert list(folder.parent.iterdir()) == []
    assert contrastive.make_env(folder, installer(folder, 0)) == folder
    assert contrastive.make_env(folder, ("no-such-program",)) == folder
    assert [path.name for path in folder.iterdir()] == ["open_clip"]


def test_without_open_clip_there_is_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(folder: Path) -> Path:
        raise contrastive.NoPeer("no wheels")

    monkeypatch.setattr(contrastive, "make_env", absent)
    assert contrastive.main(["--env", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "nothing was measured: no wheels" in said.err
    with pytest.raises(Unmeasured, match="no wheels"):
        list(bench.contrastive(bench.Bench(out=tmp_path, data=tmp_path)))


@pytest.mark.parametrize(("norm", "code"), [(1.0, 0), (1.001, 1)])
def test_contrastive_figures(norm: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[str, Path | None]] = []

    def run(script: Path, *words: str, packages: Path | None = None) -> Any:
        asked.append((words[1], packages))
        return {"loss": 2.0, "norm": norm if words[1] == "theirs-first" else 1.0} if "first" in words[1] else side(6.0 if words[1] == "ours" else 3.0)

    monkeypatch.setattr(contrastive, "run_side", run)
    monkeypatch.setattr(contrastive, "make_env", lambda folder: folder)
    monkeypatch.setattr(contrastive, "prepare_folder", lambda folder, count, blocks: None)
    assert contrastive.main(["--env", str(tmp_path), "--pairs", "3", "--workers", "0"]) == code
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["ratio"], found["ours"], found["peer"], found["first_equal"]) == (2.0, 6.0, 3.0, not code)
    assert {packages for name, packages in asked if name.startswith("theirs")} == {tmp_path.resolve()}
    assert {packages for name, packages in asked if name.startswith("ours")} == {None}
    assert [name for name, _ in asked[4:]] == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]
    figures = {figure.name: figure for figure in bench.contrastive(bench.Bench(out=tmp_path, data=tmp_path, seeds=1))}
    assert figures["contrastive speed"].values == (2.0,) and figures["contrastive first step"].passed is not bool(code)


def test_training_figures_against_their_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = {"ratio": sides.spread([2.1, 1.9, 2.2]), "cached_ratio": sides.spread([2.9]), "peak_memory_ratio": sides.spread([0.6])}
    made = {"spreads": speeds, "ours": 2.0, "peer": 1.0, "first": {"float32": {"loss": [1.0, 1.0], "norm": [1.0, 1.0]}}}
    monkeypatch.setattr(training, "compare", lambda folder, pairs, steps, said: made)
    figures = list(bench.training(bench.Bench(out=tmp_path, data=tmp_path)))
    assert [(figure.name, figure.passed) for figure in figures] == [
        ("training speed", True),
        ("training speed, cached", False),
        ("training memory", True),
        ("training first step", True),
    ]
