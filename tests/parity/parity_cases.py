"""Our compositions beside published classes of transformers that hold the same numbers: how both are made, what both are given, and how far apart they are.

The rules of the native formats say which tensors belong together: by them our model takes a class's weights, and a class's gradients get our names. A class is given what
our processor made: its ids with the picture's token in our slots, and its crops, normalised here.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sightline.evaluate.generation import generate
from sightline.lineage import sha256_bytes
from sightline.model.assembly import ModelConfig
from sightline.model.batch import Batch, SideTexts, Stream
from sightline.model.native.key_rules import Move, Rule, moves_in, to_ours
from sightline.model.native.native_weights import everything, untied, wanted
from sightline.model.processor import Processor
from sightline.model.tokens import TextTokenizer, train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.exchange import Decoding
from sightline.samples.sample import Film, Item, Origin, Picture, Sample, Show, Text, Turn
from sightline.train.objectives import AnswerLikelihood

CLOSE = 1e-5
"""Largest max |a - b| / max |b| of a tensor."""
STILL = 2e-6
"""Share of the model's largest gradient below which a gradient is rounding: a bias of keys moves nothing, since softmax takes it out, unless positions turn the keys."""
SPREAD = 0.1
"""Standard deviation of the noise that every parameter gets."""
ROWS = 400
"""Rows of the language models' embeddings: more than any tokenizer here has tokens."""
PICTURE = ROWS - 1
"""Id that a class takes for an entry of a picture; no tokenizer here has it."""
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALVES = (0.5, 0.5, 0.5)
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
TEXT: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.05,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    "tie_word_embeddings": False,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
TEXTS = ("How many ships? Three ships.", "Where? In the harbor.", "a photo of the harbor, two ships and a long quay", "user assistant system USER ASSISTANT")


def photo(seed: int, width: int, height: int) -> Picture:
    """A picture of noise."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(stream, "PNG")
    data = stream.getvalue()
    return Picture(hash=sha256_bytes(data), width=width, height=height, data=data)


def said(role: Any, *items: str | int | tuple[int, ...]) -> Turn:
    """A turn of texts, numbers of pictures, and films as tuples of them."""

    def item(one: str | int | tuple[int, ...]) -> Item:
        if isinstance(one, str):
            return Text(text=one)
        return Show(picture=one) if isinstance(one, int) else Film(pictures=one, times=tuple(0.5 * number for number in range(len(one))))

    return Turn(role=role, items=tuple(item(one) for one in items))


def sample(pictures: Sequence[Picture], *turns: Turn) -> Sample:
    """A sample of these turns."""
    return Sample(id="s", pictures=tuple(pictures), turns=turns, origin=Origin(source="test", row="1"))


def dialogue(pictures: Sequence[Picture], answer: str = "Three ships.") -> Sample:
    """Each picture is asked about in a turn of its own, the first after a word; the last answer is given."""
    turns = [said("user", "Look:", 0, "How many ships?")]
    for number in range(1, len(pictures)):
        turns += [said("assistant", "Two."), said("user", number, "And there?")]
    return sample(pictures, *turns, said("assistant", answer))


def paired_texts(pair: Pair, *texts: str, size: int = 28) -> Batch:
    """A picture for each text."""
    rows = [pair.processor.encode_pair(sample([photo(number, size + 7 * number, size)]), text) for number, text in enumerate(texts)]
    return pair.processor.collate([[row] for row in rows])


def tokenizer_for(config: ModelConfig) -> TextTokenizer:
    """Trained for the chat format and the layout."""
    return train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())


def stirred(make: Callable[[], Any], seed: int) -> Any:
    """A class whose every parameter was moved by noise: a bias of zeros, a norm of ones or a closed gate would hide that it is not applied."""
    torch.manual_seed(seed)
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * SPREAD)
    return module.eval()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Our model and a published class with the same numbers."""

    model: Model
    processor: Processor
    theirs: Any
    moves: list[Move]
    names: dict[str, str]
    """Each of a tensor's names, where tied ones have several, to the one that speaks for it."""

    def batch(self, *samples: Sample) -> Batch:
        """A bin for each sample."""
        return self.processor.collate([[self.processor.encode(one)] for one in samples])

    def prompt(self, *samples: Sample) -> Batch:
        """A bin for each sample, which ends where an answer begins."""
        return self.processor.collate([[self.processor.encode(one, answer=False)] for one in samples])

    def pixels(self, batch: Batch, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> list[Tensor]:
        """Crops of the batch (bands, h, w), normalised. `mean` and `std` in 0..1; frames of a film one after another."""
        assert batch.pictures.pixels is not None
        shape = (-1, 1, 1)

        def spread(values: Sequence[float], bands: int) -> Tensor:
            return torch.tensor(values).repeat(bands // len(values)).view(shape) * 255.0

        return [(crop.float() - spread(mean, len(crop))) / spread(std, len(crop)) for crop in batch.pictures.pixels]

    def gradients(self) -> dict[str, Tensor]:
        """Ours by the name that speaks, those of one name together; a parameter that nothing reads has none."""
        found: dict[str, Tensor] = {}
        for path, part in self.model.parts().items():
            for own, parameter in part.named_parameters():
                if parameter.grad is not None:
                    name = self.names[f"{path}.{own}"]
                    found[name] = found[name] + parameter.grad if name in found else parameter.grad
        return {name: grad for name, grad in found.items() if bool(grad.any())}

    def their_gradients(self) -> dict[str, Tensor]:
        """Theirs under our names."""
        own = {name: one.grad if one.grad is not None else torch.zeros_like(one) for name, one in self.theirs.named_parameters()}
        found = {self.names[name]: grad for name, grad in to_ours(self.moves, own, "theirs").items()}
        return {name: grad for name, grad in found.items() if bool(grad.any())}


def paired(
    config: ModelConfig,
    make: Callable[[], Any],
    rules: Sequence[Rule],
    side: TextTokenizer | None = None,
    fresh: tuple[str, ...] = (),
    seed: int = 0,
) -> Pair:
    """Our model with the numbers of a class. `fresh`: beginnings of names of ours that the class has no place for; `seed` of the numbers."""
    theirs = stirred(make, seed)
    model = Model(config).eval()
    own = dict(theirs.named_parameters())
    moves = moves_in(rules, own, "theirs")
    needs = wanted(model)
    kept = {need.name: need.tensor for need in needs if need.name.startswith(fresh)} if fresh else {}
    given = everything(needs, untied(needs, to_ours(moves, own, "theirs") | kept, "theirs"))
    for path, part in model.parts().items():
        part.load_state_dict({name: given[f"{path}.{name}"].detach() for name in part.state_dict()})
    names = {name: need.name for need in needs for name in need.names}
    return Pair(model=model, processor=Processor(config, tokenizer_for(config), side), theirs=theirs, moves=moves, names=names)


def shown(stream: Stream | None) -> dict[str, Tensor]:
    """A stream as a class takes it: ids with the picture's token in the slots, and which of them are real."""
    assert stream is not None
    ids = stream.ids.clone()
    ids.view(-1)[stream.slots] = PICTURE
    return {"input_ids": ids, "attention_mask": (stream.segments > 0).long()}


def labels(batch: Batch, shifts: bool = True) -> Tensor:
    """(B, T) targets where they stand, -100 elsewhere; `shifts`: the class moves them by one itself."""
    assert batch.decoder is not None
    found = torch.full_like(batch.decoder.ids, -100)
    found.view(-1)[batch.answers + int(shifts)] = batch.targets
    return found


def there(texts: SideTexts) -> Tensor:
    """(X, L) 1 where a token is."""
    return (torch.arange(texts.ids.shape[1]) < texts.lengths[:, None]).long()


def mixed(scores: Tensor) -> Tensor:
    """A number that depends on every score, and on each in another way."""
    return (scores * torch.randn(scores.shape, generator=torch.Generator().manual_seed(3))).sum()


def apart(found: Tensor, expected: Tensor) -> float:
    """max |a - b| / max |b|."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} against {tuple(expected.shape)}"
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@dataclass(kw_only=True)
class Found:
    """How far apart both are."""

    logits: float
    loss: float
    gradients: dict[str, float] = field(default_factory=dict)
    """Of every parameter with a gradient."""
    still: dict[str, float] = field(default_factory=dict)
    """Larger of both gradients, as a share of the model's largest, of the parameters whose gradient is rounding."""
    unread: set[str] = field(default_factory=set)
    """Parameters without a gradient on our side."""
    their_unread: set[str] = field(default_factory=set)
    spare: set[str] = field(default_factory=set)
    """Parameters that our parts say no output depends on."""

    def check(self, still: tuple[str, ...] = (), other: tuple[str, ...] = ()) -> None:
        """All of it close, and what has no gradient is the same in both.

        `still`: ends of the names of parameters that move nothing; `other`: beginnings of those, beside the spare ones, that this loss does not read. Each is there.
        """
        assert self.logits <= CLOSE
        assert self.loss <= CLOSE
        worst = max(self.gradients, key=self.gradients.__getitem__)
        assert self.gradients[worst] <= CLOSE, f"{worst}: {self.gradients[worst]}"
        assert self.unread == self.their_unread
        assert self.spare <= self.unread
        assert {name for name in self.unread if not name.startswith(other)} <= self.spare
        assert [one for one in other if not any(name.startswith(one) for name in self.unread)] == []
        assert all(share <= STILL for share in self.still.values()), self.still
        assert {one for one in still if any(name.endswith(one) for name in self.still)} == set(still)


def compare(pair: Pair, batch: Batch, inputs: Mapping[str, Any], still: tuple[str, ...] = (), shifts: bool = True) -> Found:
    """Logits of every token, the loss on the answers, and its gradient, of ours and of the class; `still` as in Found.check."""
    assert batch.decoder is not None
    real = batch.decoder.segments > 0
    loss = AnswerLikelihood().build()(pair.model, batch).sums["answer"] / batch.weights.sum()
    with torch.no_grad():
        ours = pair.model.language_model.logits(pair.model.hidden(batch)[real])
    given = pair.theirs(**inputs, labels=labels(batch, shifts))
    return compare_values(pair, (ours, loss), (given.logits[real], given.loss), still)


def compare_values(pair: Pair, ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor], still: tuple[str, ...] = ()) -> Found:
    """Scores, a loss and its gradient, of ours and of the class."""
    for model, (_, loss) in ((pair.model, ours), (pair.theirs, theirs)):
        model.zero_grad()
        loss.backward()
    found = Found(logits=apart(ours[0], theirs[0]), loss=apart(ours[1], theirs[1]))
    own, other = pair.gradients(), pair.their_gradients()
    largest = max(float(grad.abs().max()) for grad in other.values())
    for name in own.keys() | other.keys():
        if still and name.endswith(still):
            found.still[name] = max(float(side[name].abs().max()) for side in (own, other) if name in side) / largest
        elif name in own and name in other:
            found.gradients[name] = apart(own[name], other[name])
    every = {name for name in pair.names.values() if not still or not name.endswith(still)}
    spare = {pair.names[f"{path}.{name}"] for path, part in pair.model.parts().items() for name in getattr(part, "spare", ())}
    found.unread, found.their_unread, found.spare = every - own.keys(), every - other.keys(), every & spare
    return found


@torch.no_grad()
def greedy(pair: Pair, batch: Batch, inputs: Mapping[str, Any], tokens: int = 10) -> tuple[list[list[int]], list[list[int]]]:
    """What both write after a prompt, `tokens` tokens a bin."""
    ours = generate(pair.model, batch, [Decoding(max_tokens=tokens)] * len(batch.rows), lambda ids: False)
    theirs = pair.theirs.generate(**inputs, max_new_tokens=tokens, do_sample=False)
    return [ids for ids, _ in ours], theirs[:, -tokens:].tolist()
