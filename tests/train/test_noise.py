"""Noise on embedded text: its size, where it is, and when there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sightline.errors import Refused
from sightline.model.batch import Batch
from sightline.model.vlm import Model
from sightline.train.noise import TextNoise
from sightline.train.stage import prepare
from sightline.train.train_state import seed_step

ALPHA = 5.0


def noisy(world, **said) -> Model:
    model: Model = world.model()
    prepare(model, world.stage(neftune=ALPHA, **said))
    return model


def batches(world) -> dict[bool, Batch]:
    """The same rows, in one bin and in a bin each."""
    found = {}
    for pack in (True, False):
        [found[pack]] = world.feed(world.stage(pack=pack)).micro_batches(0)
    return found


def noise_of(model: Model, batch: Batch) -> torch.Tensor:
    """What was added, (B, T, D), with the places of pictures as they are."""
    assert batch.decoder is not None
    no_slots = replace(batch.decoder, slots=batch.decoder.slots[:0], sources=batch.decoder.sources[:0])
    seed_step(0, 0, 0)
    return (model.write(no_slots, None) - model.language_model.embed(batch.decoder.ids)).detach()


@pytest.mark.parametrize("packed", [True, False])
def test_noise_is_as_wide_as_the_samples_own_length_says(world, packed: bool) -> None:
    model, batch = noisy(world), batches(world)[packed]
    assert batch.decoder is not None
    found, width = noise_of(model, batch), model.language_model.config.width()
    samples = 0
    for row, segments in zip(found, batch.decoder.segments):
        assert not row[segments == 0].any(), "none on padding"
        for number in range(1, int(segments.max()) + 1):
            own = row[segments == number]
            reach = ALPHA / (len(own) * width) ** 0.5
            assert 0.98 * reach < own.abs().max() <= reach * 1.0001
            assert abs(own.std() / reach - 3**-0.5) < 0.03 and abs(own.mean()) < 0.1 * reach
            samples += 1
    assert samples == 4


def test_pictures_get_none(world) -> None:
    model, batch = noisy(world), batches(world)[True]
    assert batch.decoder is not None
    table = model.see(batch)
    assert table is not None
    written = model.write(batch.decoder, table).flatten(0, 1)
    assert torch.equal(written[batch.decoder.slots], table[batch.decoder.sources])


def test_other_steps_and_ranks_draw_others_and_the_same_step_the_same(world) -> None:
    model, batch = noisy(world), batches(world)[True]

    def said(step: int, rank: int) -> torch.Tensor:
        seed_step(0, step, rank)
        return model(batch).logp.detach()

    assert torch.equal(said(3, 0), said(3, 0))
    assert not torch.equal(said(3, 0), said(4, 0)) and not torch.equal(said(3, 0), said(3, 1))


def test_none_where_nothing_is_trained(world) -> None:
    model, batch, plain = noisy(world), batches(world)[True], world.model()
    expected = plain(batch).logp
    assert not torch.allclose(model(batch).logp, expected, atol=1e-3)
    with torch.no_grad():
        assert torch.allclose(model(batch).logp, expected, atol=1e-5), "a probe keeps no gradients"
    assert torch.allclose(model.eval()(batch).logp, expected, atol=1e-5), "an evaluation is not training"
    assert list(model.state_dict()) == list(plain.state_dict()) and model.parts().keys() == plain.parts().keys()
    prepare(model, world.stage())
    assert model.noise is None, "the next stage begins without it"


def test_a_stage_learns_with_it_and_is_the_same_again(world) -> None:
    curves = [world.train(world.model(), world.stage(neftune=ALPHA, every=1))[1].curve for _ in range(2)]
    assert curves[0] == curves[1] != world.train(world.model(), world.stage(every=1))[1].curve


def test_refused_where_no_text_is_embedded(world) -> None:
    said = {"objective": "contrastive", "data": {"captions": 1.0}, "train": {"text_encoder": {"learning_rate": 1e-2}}}
    with pytest.raises(Refused, match="train/nothing-to-disturb"):
        noisy(world, **said)


def test_shape_of_an_empty_bin() -> None:
    from sightline.model.batch import Stream

    none = torch.zeros(1, 3, dtype=torch.int64)
    stream = Stream(ids=none, positions=none, segments=none.int(), branches=none.int(), slots=none[0, :0], sources=none[0, :0])
    x = torch.ones(1, 3, 4)
    assert torch.equal(TextNoise(ALPHA)(x, stream), x)
