"""Every transformer tower gives what transformers' own class gives on the same weights: hidden states, final norm, gradients, crops of several sizes."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_towers as towers
import torch
from torch import Tensor

from sightline.model.encoder_modules import TransformersEncoder
from sightline.model.encoders import Read
from sightline.model.tiling import Grid

READS = [
    Read(lead="keep"),
    Read(layer=-2),
    Read(layer=(1, -1), join="concat", lead="keep"),
    Read(layer=(-1, -3, 0), join="interleave"),
]
MIXED = [(16, 16), (24, 40), (48, 16), (24, 40), (8, 8)]


def wanted(tower: Any, states: tuple[Tensor, ...], read: Read, lead: int) -> Tensor:
    """The read by its definition: hidden states of transformers, (n, L, C)."""
    norm = getattr(tower, "post_layernorm", None) or getattr(tower, "layernorm", None)
    layers = [norm(states[layer]) if read.final_norm else states[layer] for layer in read.layers]
    kept = [layer if read.lead == "keep" else layer[:, lead:] for layer in layers]
    if read.join == "concat":
        return torch.cat(kept, dim=-1)
    return torch.stack([layer[..., channel] for channel in range(kept[0].shape[-1]) for layer in kept], dim=-1)


def lead_of(module: TransformersEncoder) -> int:
    return module.config.model_copy(update={"tokens": "all", "reads": {}}).grid(16, 16).lead


def gradients_agree(module: TransformersEncoder, tower: Any) -> None:
    theirs = dict(tower.named_parameters())
    assert set(theirs) == {name for name, _ in module.tower.named_parameters()}
    largest = max(float(p.grad.abs().max()) for p in theirs.values() if p.grad is not None)
    for name, own in module.tower.named_parameters():
        given = theirs[name].grad
        if own.grad is None or given is None:
            assert own.grad is None or not own.grad.any()
            assert given is None or not given.any()
        elif name.endswith("k_proj.bias"):
            # softmax does not change when every score does: these gradients are zero, and only rounding is left of them
            assert own.grad.abs().max() < 1e-5 * largest and given.abs().max() < 1e-5 * largest
        else:
            assert towers.apart(own.grad, given) <= 1e-5, name


@pytest.mark.parametrize("name", towers.TRANSFORMERS)
@pytest.mark.parametrize("read", READS, ids=str)
def test_hidden_states_and_gradients_are_those_of_transformers(name: str, read: Read) -> None:
    read = read.model_copy(update={"final_norm": name not in towers.NORMLESS and read.layer == -1})
    module = towers.encoder(name)
    tower = towers.reference(module)
    pixels = towers.crops((16, 16), (16, 16))
    found = module(towers.pictures(*pixels), read)
    given = wanted(tower, tower(towers.normalised(module, *pixels), output_hidden_states=True).hidden_states, read, lead_of(module))
    assert found.crops == (0, 1) and [grid.count for grid in found.grids] == [given.shape[1]] * 2
    assert towers.apart(found.values, given.flatten(0, 1)) <= 1e-5
    weights = torch.randn(given.shape, generator=torch.Generator().manual_seed(1))
    (found.values * weights.flatten(0, 1)).sum().backward()
    (given * weights).sum().backward()
    gradients_agree(module, tower)


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in towers.TRANSFORMERS if name not in towers.NORMLESS])
def test_the_final_norm_of_the_last_layer_is_what_transformers_ends_with(name: str) -> None:
    module = towers.encoder(name)
    pixels = towers.crops((16, 16))
    result = towers.reference(module)(towers.normalised(module, *pixels))
    found = module(towers.pictures(*pixels), Read(lead="keep", final_norm=True)).values
    if name == "clip":  # its class normalises the class token alone
        assert towers.apart(found[:1], result.pooler_output) <= 1e-5
    else:
        assert towers.apart(found, result.last_hidden_state[0]) <= 1e-5


@pytest.mark.parametrize("name", [name for name in towers.TRANSFORMERS if name != "idefics2"])
def test_crops_of_several_sizes_are_interpolated_as_transformers_does_one_by_one(name: str) -> None:
    fixed = name in towers.FIXED
    module = towers.encoder(name, positions="interpolate" if fixed else None)
    tower = towers.reference(module)
    pixels = towers.crops(*MIXED)
    found = module(towers.pictures(*pixels), Read(layer=-2, lead="keep"))
    said = {"interpolate_pos_encoding": True} if fixed else {}
    given = [tower(towers.normalised(module, crop), output_hidden_states=True, **said).hidden_states[-2][0] for crop in pixels]
    lead = lead_of(module)
    assert found.grids == tuple(Grid(columns=width // 8, rows=height // 8, lead=lead) for width, height in MIXED)
    for own, theirs in zip(found.split(), given):
        assert towers.apart(own, theirs) <= 1e-5
    weights = torch.randn(found.values.shape, generator=torch.Generator().manual_seed(1))
    (found.values * weights).sum().backward()
    (torch.cat(given) * weights).sum().backward()
    gradients_agree(module, tower)


def test_idefics2_takes_padded_crops_as_its_own_class_does() -> None:
    module = towers.encoder("idefics2")
    tower = towers.reference(module)
    pixels = towers.crops(*MIXED)
    found = module(towers.pictures(*pixels), Read(final_norm=True))
    padded = torch.zeros(len(MIXED), 3, 40, 48)
    patches = torch.zeros(len(MIXED), 5, 6, dtype=torch.bool)
    for number, (crop, (width, height)) in enumerate(zip(pixels, MIXED)):
        padded[number, :, :height, :width] = towers.normalised(module, crop)[0]
        patches[number, : height // 8, : width // 8] = True
    given = tower(padded, patch_attention_mask=patches).last_hidden_state
    kept = torch.cat([states[real] for states, real in zip(given, patches.flatten(1))])
    assert towers.apart(found.values, kept) <= 1e-5
    weights = torch.randn(kept.shape, generator=torch.Generator().manual_seed(1))
    (found.values * weights).sum().backward()
    (kept * weights).sum().backward()
    gradients_agree(module, tower)


@torch.no_grad()
@pytest.mark.parametrize("name", towers.TRANSFORMERS)
@pytest.mark.parametrize("lead", ["keep", "drop"])
def test_a_crop_alone_equals_the_crop_in_company(name: str, lead: Any) -> None:
    module = towers.encoder(name, positions="interpolate-aligned" if name in towers.FIXED else None)
    pixels = towers.crops(*MIXED)
    read = Read(layer=(-1, 0), lead=lead)
    together = module(towers.pictures(*pixels), read)
    for number, crop in enumerate(pixels):
        alone = module(towers.pictures(crop), read)
        assert alone.grids == together.grids[number : number + 1]
        assert towers.apart(together.split()[number], alone.values) <= 1e-6


@torch.no_grad()
@pytest.mark.parametrize("name", towers.TRANSFORMERS)
@pytest.mark.parametrize("sizes", [[], [(16, 16)], MIXED])
def test_blocks_run_once_and_only_as_deep_as_is_read(name: str, sizes: list[tuple[int, int]]) -> None:
    module = towers.encoder(name, positions="interpolate" if name in towers.FIXED else None)
    runs: list[int] = []
    for number, block in enumerate(module.blocks):
        block.register_forward_pre_hook(lambda _, __, number=number: runs.append(number))
    features = module(towers.pictures(*towers.crops(*sizes)), Read(layer=(1, -2)))
    assert runs == [0, 1]
    assert len(features.grids) == len(features.crops) == len(sizes)
    assert features.values.shape == (sum(grid.count for grid in features.grids), 32)


@pytest.mark.parametrize("name", towers.CONFIGS)
@pytest.mark.parametrize("layers", [(-1,), (-2,), (-3, -2), (0,)], ids=str)
def test_spare_is_what_gets_no_gradient(name: str, layers: tuple[int, ...]) -> None:
    if name in towers.PYRAMIDS and layers != (-1,):
        return
    changes: dict[str, Any] = {} if name in towers.NORMLESS else {"final_norm": True}
    reads = {"text_encoder": Read(layer=layers[-1], lead="keep")} if len(layers) > 1 else {}
    module = towers.encoder(name, layer=layers[0], reads=reads, **changes)
    shown = towers.pictures(*towers.crops((16, 16)))
    sum(module(shown, read).values.square().sum() for read in (module.config.read(), *reads.values())).backward()
    silent = [parameter for parameter, tensor in module.named_parameters() if tensor.grad is None or not tensor.grad.any()]
    assert module.spare == silent
    running = {id(tensor) for block in module.blocks for tensor in block.parameters()}
    assert not running & {id(tensor) for parameter, tensor in module.named_parameters() if parameter in silent}


def test_spare_tensors_are_kept_as_they_are() -> None:
    module = towers.encoder("clip", layer=-3)
    assert len(module.blocks) == 1 and any("encoder.layers.2." in name for name in module.spare)
    assert set(module.spare) < set(module.state_dict())
    assert module.spare_for([Read(final_norm=True)]) == []
