"""A tiny world for tests of training: a tokenizer, rows with pictures and answers of very different lengths, and models small enough for one thread."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.data.mixture import Mixture, Share
from sightline.model.assembly import ModelConfig
from sightline.model.chat import chat_format
from sightline.model.packing import FeatureSource
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.samples.pictures import describe
from sightline.samples.sample import Origin, Picture, Polygon, Region, Regions, Sample, Show, Text, Turn
from sightline.samples.store import Store
from sightline.train.feeding import Feed
from sightline.train.loop import Outcome, train
from sightline.train.sharding import spread
from sightline.train.stage import Prepared, StageConfig, prepare
from sightline.train.watch import Watch
from sightline.train.world import ALONE
from sightline.train.world import World as Processes

ANSWERS = ("yes", "a pond", "two tanks beside a long road, three vehicles and a grove of trees", "no")
CAPTIONS = ("a tank beside a road", "two ponds in a field", "trees around many pools", "vehicles on the road")


def picture(number: int) -> Picture:
    """A picture of noise, 32 x 32."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(stream, "PNG")
    return describe(stream.getvalue(), f"{number}.png", "test")


def question(number: int, shown: bool = True) -> Sample:
    """A question about picture `number`, or about nothing."""
    user = Turn(role="user", items=(*([Show()] if shown else []), Text(text="what is here?" if number % 2 else "is there a road beside it?")))
    answer = Turn(role="assistant", items=(Text(text=ANSWERS[number % 4]),))
    return Sample(id=f"q{number}", pictures=(picture(number),) if shown else (), turns=(user, answer), origin=Origin(source="questions"))


def captioned(number: int, others: Sequence[str] = ()) -> Sample:
    """A picture with a caption and other right ones."""
    told = Turn(role="assistant", items=(Text(text=CAPTIONS[number % 4]),), alternatives=tuple((Text(text=text),) for text in others))
    return Sample(id=f"c{number}", pictures=(picture(number),), turns=(Turn(role="user", items=(Show(),)), told), origin=Origin(source="captions"))


def masked(number: int) -> Sample:
    """A question about picture `number`, answered by one mask or two; every third one by words."""
    regions = tuple(Region(shape=Polygon(points=((2.0, 2.0 + k), (28.0 - number, 4.0), (9.0, 30.0 - 8 * k)))) for k in range(number % 3))
    item = Regions(regions=regions, label="a pond") if regions else Text(text="no")
    turns = (Turn(role="user", items=(Show(), Text(text="is there a pond?"))), Turn(role="assistant", items=(item,)))
    return Sample(id=f"m{number}", pictures=(picture(number),), turns=turns, origin=Origin(source="masks"))


@dataclass(frozen=True, kw_only=True)
class World:
    """Stores and models."""

    config: ModelConfig
    processor: Processor
    stores: Mapping[str, Store]
    drawing: World | None = None
    """The same rows and models with a mask head, and the rows `masks`."""

    def model(self, seed: int = 0, **parts: Any) -> Model:
        """A model with random weights; `parts` replace parts of its Config."""
        torch.manual_seed(seed)
        return Model(self.config.model_copy(update=parts)).eval()

    def stage(self, **said: Any) -> StageConfig:
        """A stage in float32; learns answers with the connector and the language model unless said otherwise."""
        rate = {"learning_rate": 1e-2}
        standard = {"name": "try", "objective": "answer-likelihood", "data": {"questions": 1.0}, "train": {"connector": rate, "language_model": rate}}
        return StageConfig.model_validate_json(json.dumps({**standard, "batch": 4, "steps": 4, "precision": "float32", **said}))

    def feed(self, stage: StageConfig, seed: int = 0, features: FeatureSource | None = None, processes: Processes = ALONE) -> Feed:
        """The stage's batches; its objective has seen its rows."""
        mixture = Mixture([Share(name=name, store=self.stores[name], weight=weight) for name, weight in stage.data.items()])
        objective = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
        objective.prepare((share.store[int(row)] for share in mixture.shares for row in share.store.kept), self.processor)
        return Feed(mixture, self.processor, objective, stage, seed, features, processes)

    def train(
        self, model: Model, stage: StageConfig, seed: int = 0, features: FeatureSource | None = None, **more: Any
    ) -> tuple[Prepared, Outcome, list[dict[str, Any]]]:
        """Run the stage on the model; what was prepared, what it did, what it recorded. `more`: checkpoints, fault_folder, record in place of the list, world."""
        torch.manual_seed(seed)
        events: list[dict[str, Any]] = []
        prepared = prepare(model, stage)
        processes = more.get("world", ALONE)
        feed = self.feed(stage, seed, features, processes)
        if stage.sharding == "fsdp":
            prepared = spread(model, prepared, feed.objective.needs, stage.precision, processes)
        record = more.pop("record", events.append)
        return prepared, train(model, prepared, feed.objective, feed, stage, Watch(stage, record), "try", **more), events


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """See World and make_world."""
    return make_world(tmp_path_factory.mktemp("stores"))


def make_world(folder: Path) -> World:
    """Rows: 12 questions, 12 captions, 12 notes, 12 questions answered by masks, in stores under `folder`."""
    rows = {
        "questions": [question(number) for number in range(12)],
        "captions": [captioned(number) for number in range(12)],
        "notes": [question(number, shown=False) for number in range(12)],
        "masks": [masked(number) for number in range(12)],
    }
    stores = {}
    for name, samples in rows.items():
        path = folder / name
        with Store.writer(path) as writer:
            for sample in samples:
                writer.add(sample)
        stores[name] = Store.open(path)
    tokenizer = train_tokenizer([*ANSWERS, *CAPTIONS, "what is here? is there"] * 4, 300, chat_format("turns"))
    language = {"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 2}
    text = {"model_type": "clip_text_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    said = {
        "encoders": [{"config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}}],
        "tiler": {"kind": "whole", "size": 32, "fit": "squash"},
        "connector": {"kind": "mlp", "depth": 2},
        "language_model": {"attention": "eager", "config": {**language, "initializer_range": 0.2, "tie_word_embeddings": True}},
        "text_encoder": {"config": {**text, "max_position_embeddings": 32}, "width": 16, "tags": True, "max_tokens": 32},
    }
    config = ModelConfig.model_validate(said).resolve(tokenizer.size)
    drawer = ModelConfig.model_validate(
        {**said, "codec": "seg", "heads": {"mask": {"kind": "maps", "size": 32, "told": 8, "width": 16, "stem": 16, "depth": 1}}}
    )
    words = train_tokenizer([*ANSWERS, "what is here? is there"] * 4, 300, chat_format("turns"), drawer.controls())
    drawer = drawer.resolve(words.size)
    drawing = World(config=drawer, processor=Processor(drawer, words), stores=stores)
    return World(config=config, processor=Processor(config, tokenizer), stores=stores, drawing=drawing)
