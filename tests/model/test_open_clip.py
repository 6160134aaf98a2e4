"""open_clip checkpoints: what the format's own definition computes from the same tensors, both towers, in every container; nothing of a pickle is run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny_towers as towers
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from sightline.errors import Refused
from sightline.model import hub_layout, open_clip
from sightline.model.encoders import EncoderConfig, Read

VISION = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8, "mlp_ratio": 2.0}
TEXT = {"context_length": 6, "vocab_size": 20, "width": 12, "heads": 3, "layers": 2}
STATISTICS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def tensors() -> dict[str, Tensor]:
    """A random checkpoint of the format."""
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "visual.conv1.weight": (16, 3, 8, 8),
        "visual.class_embedding": (16,),
        "visual.positional_embedding": (5, 16),
        "visual.proj": (16, 10),
        "token_embedding.weight": (20, 12),
        "positional_embedding": (6, 12),
        "text_projection": (12, 10),
        "logit_scale": (),
    }
    for head, width, inner in (("visual.transformer.", 16, 32), ("transformer.", 12, 48)):
        for layer in range(2):
            block = f"{head}resblocks.{layer}."
            shapes |= {f"{block}attn.in_proj_weight": (3 * width, width), f"{block}attn.in_proj_bias": (3 * width,)}
            shapes |= {f"{block}attn.out_proj.weight": (width, width), f"{block}attn.out_proj.bias": (width,)}
            shapes |= {f"{block}mlp.c_fc.weight": (inner, width), f"{block}mlp.c_fc.bias": (inner,)}
            shapes |= {f"{block}mlp.c_proj.weight": (width, inner), f"{block}mlp.c_proj.bias": (width,)}
            shapes |= {f"{block}ln_{number}.{kind}": (width,) for number in (1, 2) for kind in ("weight", "bias")}
    shapes |= {f"{norm}.{kind}": (width,) for norm, width in (("visual.ln_pre", 16), ("visual.ln_post", 16), ("ln_final", 12)) for kind in ("weight", "bias")}
    return {
        name: 0.3 * torch.randn(shape, generator=generator) + (1.0 if ".ln_" in name and name.endswith("weight") else 0.0) for name, shape in shapes.items()
    }


def normed(own: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"])


def transformer(own: dict[str, Tensor], head: str, x: Tensor, heads: int, quick: bool, mask: Tensor | None = None) -> Tensor:
    """The format's blocks by its definition: torch's own multi-head attention, then two linear layers."""
    for layer in range(2):
        block = f"{head}resblocks.{layer}."
        attention = nn.MultiheadAttention(x.shape[-1], heads, batch_first=True)
        attention.load_state_dict({name.removeprefix(f"{block}attn."): tensor for name, tensor in own.items() if name.startswith(f"{block}attn.")})
        y = normed(own, f"{block}ln_1", x)
        x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = normed(own, f"{block}ln_2", x) @ own[f"{block}mlp.c_fc.weight"].T + own[f"{block}mlp.c_fc.bias"]
        y = y * torch.sigmoid(1.702 * y) if quick else gelu(y)
        x = x + y @ own[f"{block}mlp.c_proj.weight"].T + own[f"{block}mlp.c_proj.bias"]
    return x


def visual(own: dict[str, Tensor], pixels: Tensor, quick: bool) -> Tensor:
    """(n, 5, 16): normalised tokens after the last block, the class token first."""
    patches = torch.nn.functional.conv2d(pixels, own["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([own["visual.class_embedding"].expand(len(patches), 1, -1), patches], dim=1) + own["visual.positional_embedding"]
    return normed(own, "visual.ln_post", transformer(own, "visual.transformer.", normed(own, "visual.ln_pre", x), 2, quick))


def textual(own: dict[str, Tensor], ids: Tensor, quick: bool) -> Tensor:
    """(n, length, 12): normalised tokens after the last block."""
    causal = torch.full((ids.shape[1],) * 2, float("-inf")).triu(1)
    x = own["token_embedding.weight"][ids] + own["positional_embedding"][: ids.shape[1]]
    return normed(own, "ln_final", transformer(own, "transformer.", x, 3, quick, causal))


def write(folder: Path, file: str, own: dict[str, Tensor], **model: Any) -> Path:
    """A checkpoint as it lies on the hub."""
    said = {"model_cfg": {"embed_dim": 10, "vision_cfg": VISION, "text_cfg": TEXT, **model}, "preprocess_cfg": STATISTICS}
    (folder / "open_clip_config.json").write_text(json.dumps(said))
    if file.endswith(".safetensors"):
        save_file({name: tensor.contiguous() for name, tensor in own.items()}, folder / file)
    else:
        torch.save(own, folder / file)
    return folder


@torch.no_grad()
@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_both_towers_compute_what_the_format_defines(quick: bool, file: str, tmp_path: Path) -> None:
    own = tensors()
    checkpoint = str(write(tmp_path, file, own, **({"quick_gelu": True} if quick else {})))
    config = EncoderConfig(checkpoint=checkpoint, final_norm=True, tokens="all").resolve()
    assert (config.mean, config.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    module = config.build().eval()
    pixels = towers.crops((16, 16), (16, 16))
    found = module(towers.pictures(*pixels), config.read())
    assert towers.apart(found.values, visual(own, towers.normalised(module, *pixels), quick).flatten(0, 1)) <= 1e-5

    read = open_clip.read_open_clip(checkpoint)
    block = open_clip.open_clip_config(checkpoint)
    assert read is not None and block is not None
    from transformers import CLIPModel, CLIPTextModel

    text = CLIPTextModel(hub_layout.transformers_config(block["text_config"], "x")).eval()  # pyright: ignore[reportArgumentType]
    open_clip.fill(text, open_clip.part(read, "text_model."), checkpoint)
    ids = torch.tensor([[18, 3, 4, 19], [18, 5, 19, 0]])
    assert towers.apart(text(input_ids=ids).last_hidden_state, textual(own, ids, quick)) <= 1e-5
    assert torch.equal(read["text_projection.weight"], own["text_projection"].T) and torch.equal(read["visual_projection.weight"], own["visual.proj"].T)
    assert torch.equal(read["logit_scale"], own["logit_scale"])
    assert set(read) == set(CLIPModel(hub_layout.transformers_config(block, "x")).state_dict())  # pyright: ignore[reportArgumentType]


@torch.no_grad()
@pytest.mark.parametrize("wrapping", ["bare", "training checkpoint", "text tower of its own"])
def test_a_weights_file_alone_takes_its_config_from_the_recipe(wrapping: str, tmp_path: Path) -> None:
    own = tensors()
    held: Any = dict(own)
    if wrapping == "training checkpoint":
        held = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in own.items()}}
    if wrapping == "text tower of its own":
        held = {name if name.startswith(("visual.", "logit")) else f"text.{name}": tensor for name, tensor in own.items()}
    torch.save(held, tmp_path / "tower.pt")
    read = open_clip.read_open_clip(str(tmp_path / "tower.pt"))
    write(tmp_path, "open_clip_model.safetensors", own)
    beside = open_clip.read_open_clip(str(tmp_path))
    assert read is not None and beside is not None and read.keys() == beside.keys()
    assert all(torch.equal(tensor, beside[name]) for name, tensor in read.items())
    (tmp_path / "open_clip_config.json").unlink()
    checkpoint = str(tmp_path / "tower.pt")
    with pytest.raises(Refused, match=r"model/no-config at encoders\.vision\n  found:   .*tower\.pt without open_clip_config\.json"):
        EncoderConfig(checkpoint=checkpoint).resolve()
    block = {"model_type": "clip_vision_model", **towers.VIT, "intermediate_size": 32, "num_hidden_layers": 2}
    module = EncoderConfig(checkpoint=checkpoint, config=block).build().eval()
    pixels = towers.crops((16, 16))
    found = module(towers.pictures(*pixels), Read(lead="keep", final_norm=True)).values
    assert towers.apart(found, visual(own, towers.normalised(module, *pixels), quick=True)[0]) <= 1e-5
    larger = EncoderConfig(checkpoint=checkpoint, config=block | {"image_size": 24}, positions="interpolate-aligned").build()
    assert larger.tower.embeddings.position_embedding.weight.shape == (10, 16)
    with pytest.raises(Refused, match=r"model/shape-mismatch at .*position_embedding\.weight\n  found:   \(5, 16\) in the checkpoint\n  allowed: \(10, 16\)"):
        EncoderConfig(checkpoint=checkpoint, config=block | {"image_size": 24}).build()


def test_towers_that_are_no_plain_clip_are_refused_by_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        "open_clip_model.safetensors",
        tensors(),
        vision_cfg={"timm_model_name": "convnext_large", "timm_pool": "avg"},
        text_cfg={"hf_model_name": "r"},
    )
    with pytest.raises(
        Refused, match=r"model/open-clip-tower at .*json\n  found:   vision_cfg\.timm_model_name 'convnext_large'.*, text_cfg\.hf_model_name 'r'\n"
    ):
        EncoderConfig(checkpoint=str(tmp_path)).resolve()
    write(tmp_path, "open_clip_model.safetensors", tensors(), vision_cfg={"layers": [3, 4, 6, 3], "width": 64})
    with pytest.raises(Refused, match=r"found:   vision_cfg\.layers \[3, 4, 6, 3\]"):
        EncoderConfig(checkpoint=str(tmp_path)).resolve()
    torch.save({"visual.conv1.weight": torch.zeros(2, 3, 3, 3), "visual.layer1.0.conv1.weight": torch.zeros(2)}, tmp_path / "resnet.pt")
    with pytest.raises(Refused, match=r"model/checkpoint-not-read at .*resnet\.pt\n  found:   tensors .*visual\.layer1"):
        open_clip.read_open_clip(str(tmp_path / "resnet.pt"))


def test_missing_tensors_and_other_shapes_are_listed_together(tmp_path: Path) -> None:
    own = tensors()
    del own["visual.ln_post.weight"]
    own["visual.class_embedding"] = torch.zeros(7)
    write(tmp_path, "open_clip_model.safetensors", own)
    with pytest.raises(Refused) as refused:
        EncoderConfig(checkpoint=str(tmp_path)).build()
    assert [problem.code for problem in refused.value.problems] == ["model/shape-mismatch", "model/missing-weights"]
    assert "class_embedding" in str(refused.value) and "1 tensors are not in the checkpoint: post_layernorm.weight" in str(refused.value)


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.witness, "run"))


def test_nothing_of_a_pickle_is_run(tmp_path: Path) -> None:
    witness = tmp_path / "was-run"
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"visual.conv1.weight": Evil(witness)}, protocol=2))
    torch.save({**tensors(), "more": Evil(witness)}, tmp_path / "evil.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    (tmp_path / "noise.bin").write_bytes(bytes(range(255, 0, -1)))
    for file in ("evil.bin", "evil.pt", "cut.safetensors", "noise.bin"):
        with pytest.raises(Refused, match=rf"model/checkpoint-not-read at .*{file}[^$]*allowed: safetensors, or a pickle of tensors alone"):
            open_clip.read_open_clip(str(tmp_path / file))
    assert not witness.exists()


def test_what_is_no_open_clip_checkpoint_is_left_to_others(tmp_path: Path) -> None:
    assert open_clip.read_open_clip(str(tmp_path)) is None and open_clip.open_clip_config(str(tmp_path)) is None
    assert open_clip.read_open_clip("no-such-owner/no-such-model") is None
    write(tmp_path, "open_clip_model.safetensors", tensors())
    assert open_clip.weights_file(str(tmp_path)) == tmp_path / "open_clip_model.safetensors"
    # a folder of both layouts is read in the one that transformers knows; timm's config.json names no model type
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch32"}))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert open_clip.weights_file(str(tmp_path)) is not None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    assert open_clip.weights_file(str(tmp_path)) is None
