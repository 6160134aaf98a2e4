"""The twin of a recipe: every model at toy size, every data set made on the spot, every stage a few steps. What a full-size recipe does, in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sightline import recipe_source
from sightline.data.captioning import Asking, Caption, Match, is_outside
from sightline.data.questions import Captions, Notes, Questions
from sightline.data.readers.dota import Dota
from sightline.data.readers.karpathy_captions import KarpathyCaptions
from sightline.data.readers.label_masks import LabelMasks
from sightline.data.scenes import Scenes
from sightline.data.scoring import ClipScore, MatchScore, Perplexity
from sightline.evaluate.benchmarks import Questions as QuestionBenchmark
from sightline.kinds import Config
from sightline.lineage import write_text
from sightline.model import hub_layout
from sightline.model.assembly import ModelConfig, TokenizerConfig
from sightline.recipe import DataConfig, EvaluateConfig, ReadConfig, Recipe, load
from sightline.train.objectives import AnswerLikelihood
from sightline.train.stage import PartTraining, StageConfig

MADE = "made-scenes"
"""The data set that all others of a twin are made from."""
REMEMBER = "remember"
"""The stage, its data and its evaluation that show whether a twin can learn its rows by heart."""
STEPS = 3
"""Steps of a stage: as many as the loop needs to tell what changes and what does not."""
_BATCH = 4
_SIDE = 64
"""Px of a made picture's side."""
_VOCABULARY = 600
_LONGEST = 2048
"""Most tokens of a toy's sample."""
_SHORT = 16
"""Most tokens of an answer."""
_SPREAD = 0.09
"""Standard deviation of random weights: narrow layers learn little from the 0.02 of wide ones."""
_LOUD = 3.0e-3
"""A rate for toys."""


def twin(recipe: Recipe, rows: int = 8, remember: int | None = None) -> Recipe:
    """The same recipe in toy form: model, data and stage names stay, and so does who takes what from whom. It needs neither data nor weights.

    `rows`: made scenes, one of 64 px for each row. `remember`: so many steps of one more stage, which trains all parts of the last model that writes on all rows and
    asks them back (evaluation `remember`): the question is the same for every picture, so that only the picture can tell the answer.
    """
    awaited = recipe.awaited()
    told = tuple(dict.fromkeys(data for stage in recipe.stages for data in stage.data if not awaited[data]))
    models = {name: _model(config, told) for name, config in recipe.all_models().items()}
    small = recipe.model_copy(
        update={
            "name": f"{recipe.name}-twin"[:64],
            "threads": 1,
            "writers": [],
            "model": models.pop("model", None) if recipe.model else None,
            "models": models,
            "data": {MADE: _made(rows), **{name: _data(recipe, name) for name in recipe.data}},
            "stages": [_stage(recipe, number, stage) for number, stage in enumerate(recipe.stages)],
            "evaluate": {name: _evaluation(one) for name, one in recipe.evaluate.items()},
        }
    )
    return small if remember is None else _remembering(small, rows, remember)


def write_twin(recipe: str | Path, overrides: Sequence[str], folder: Path) -> Path:
    """The twin of a recipe file or a shipped recipe as a file of its own: folder/twin.yaml. Raises Refused where the recipe is wrong."""
    file = folder / "twin.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, recipe_source.dump(twin(load(recipe, overrides).recipe)))
    return file


def _model(config: ModelConfig, told: tuple[str, ...]) -> ModelConfig:
    """Toy parts with a tokenizer trained on data that no stage makes: the same for all models, which may take parts from each other."""
    toy = config.twin()
    return toy.model_copy(
        update={
            "encoders": [_wide(encoder) for encoder in toy.encoders],
            "connector": _wide(toy.connector),
            "text_encoder": _pooling(toy),
            "tokenizer": TokenizerConfig(train_on=told, size=_VOCABULARY),
            "side_tokenizer": None,
            "max_tokens": min(config.max_tokens, _LONGEST),
        }
    )


def _pooling(toy: ModelConfig) -> Any:
    """The text encoder; one whose pooling has a position for each place of a picture's tokens gets those of the toy encoder."""
    if toy.tiler is None or getattr(toy.text_encoder, "grid", None) is None:
        return toy.text_encoder
    [crop] = toy.tiler.tile(_SIDE, _SIDE).crops
    grid = toy.encoders[0].grid(*crop.window[2:], consumer="text_encoder")
    return toy.text_encoder.model_copy(update={"grid": (grid.columns, grid.rows)})  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]


def _wide(part: Any) -> Any:
    """A part whose random weights spread widely enough to be trained in a hundred steps, where its config says how widely."""
    block = getattr(part, "config", None)
    if not isinstance(block, dict) or "initializer_range" not in hub_layout.transformers_config(block, "twin").to_dict():
        return part
    return part.model_copy(update={"config": {**block, "initializer_range": _SPREAD}})


def _made(rows: int) -> DataConfig:
    scenes = Scenes(count=rows, seed=1, size=_SIDE, val_share=0.0, test_share=0.0)
    readers = (KarpathyCaptions(), LabelMasks(), Dota())
    return DataConfig(make=scenes, read=[ReadConfig(format=reader.kind) for reader in readers])


def _data(recipe: Recipe, name: str) -> DataConfig:
    """Rows of the made scenes, or of what it was taken from, in the form that its users ask for."""
    asking = [_asking(operator) for operator in recipe.data[name].then if isinstance(operator, Asking) and not is_outside(operator.answered_by)]
    return DataConfig(source=recipe.data[name].source or MADE, then=[*_operators(recipe, name), *asking])


def _asking(operator: Asking) -> Asking:
    """The same question to a toy: short answers, and none so bad that its row goes."""
    short = next((said for kind, said in _SHORTLY.items() if isinstance(operator, kind)), {})
    return operator.model_copy(update=short)


_SHORTLY: dict[type[Asking], dict[str, Any]] = {
    Caption: {"max_tokens": _SHORT},
    Match: {"at_least": 0.0},
    Perplexity: {"keep": None},
    ClipScore: {"keep": None, "at_least": None},
    MatchScore: {"keep": None, "at_least": None},
}
"""What operators that ask are told for a toy."""


def _operators(recipe: Recipe, name: str) -> list[Config]:
    """Captions where pairs are learnt or captions are scored, and where the recipe has them; notes for text alone; questions elsewhere; nothing for what only others use."""
    objectives = {stage.objective.kind for stage in recipe.stages if name in stage.data}  # pyright: ignore[reportAttributeAccessIssue]
    scored = {one.benchmark.kind for one in recipe.evaluate.values() if getattr(one.benchmark, "data", None) == name}  # pyright: ignore[reportAttributeAccessIssue]
    if not objectives and not scored:
        return []
    if "text" in objectives:
        return [Notes(per_picture=1)]
    described = objectives & {"contrastive", "picture-text"} or "captions" in scored or _has_captions(recipe, name)
    return [Captions()] if described else [Questions(per_picture=1)]


def _has_captions(recipe: Recipe, name: str) -> bool:
    at: str | None = name
    while at is not None:
        one = recipe.data[at]
        if any(isinstance(step, Captions) for step in one.then) or any(read.format == "karpathy-captions" for read in one.read):
            return True
        at = one.source
    return False


def _stage(recipe: Recipe, number: int, stage: StageConfig) -> StageConfig:
    earlier = {other.name for other in recipe.stages[:number]}
    return stage.model_copy(
        update={
            "train": {path: _training(one) for path, one in stage.train.items()},
            "init": {part: origin for part, origin in stage.init.items() if origin in earlier},
            "batch": min(stage.batch, _BATCH),
            "micro_batch": None,
            "tiler": stage.tiler.twin() if stage.tiler else None,
            "steps": STEPS,
            "epochs": None,
            "precision": "float32",
        }
    )


def _training(one: PartTraining) -> PartTraining:
    """Toys may have one block that is read; adapters of rank 2 fit all of them."""
    lora = one.lora.twin() if one.lora else None
    return one.model_copy(update={"lora": lora, "last": 1 if one.last else None})


def _evaluation(one: EvaluateConfig) -> EvaluateConfig:
    short = {"limit": 2, "max_tokens": _SHORT, **({"classes": None} if hasattr(one.benchmark, "classes") else {})}
    return one.model_copy(
        update={"benchmark": one.benchmark.model_copy(update=short), "controls": False, "gate": None, "thumbnails": None, "precision": "float32"}
    )


def _parts(config: ModelConfig) -> list[str]:
    """Paths of the parts with tensors, of a model built without memory."""
    import torch

    from sightline.model.vlm import Model

    with torch.device("meta"):
        return list(Model(config.resolve(_VOCABULARY)).parts())


def _remembering(small: Recipe, rows: int, steps: int) -> Recipe:
    """One more stage for the last model that writes, and one more evaluation on its rows."""
    models = small.all_models()
    writers = [small.model_of(stage) for stage in small.stages if "write" in models[small.model_of(stage)].abilities]
    if not writers:
        return small
    stage = StageConfig(
        name=REMEMBER,
        model=writers[-1],
        objective=AnswerLikelihood(),
        data={REMEMBER: 1.0},
        train={path: PartTraining(learning_rate=_LOUD) for path in _parts(models[writers[-1]])},
        batch=min(rows, 8),
        steps=steps,
        warmup=0.1,
        precision="float32",
    )
    asked = EvaluateConfig(benchmark=QuestionBenchmark(data=REMEMBER, max_tokens=_SHORT), stage=REMEMBER, controls=False, precision="float32")
    # every tokenizer learns these words: parts go from one model to another only where their tokens are the same
    grown = {
        name: model.model_copy(update={"tokenizer": model.tokenizer.model_copy(update={"train_on": (*model.tokenizer.train_on, REMEMBER)})})
        for name, model in models.items()
    }
    return small.model_copy(
        update={
            **({"model": grown["model"]} if small.model else {"models": grown}),
            "data": {**small.data, REMEMBER: DataConfig(source=MADE, then=[Questions(kinds={"labels": 1.0}, per_picture=1, balance=False)])},
            "stages": [*small.stages, stage],
            "evaluate": {REMEMBER: asked, **small.evaluate},
        }
    )
