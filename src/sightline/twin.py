"""The twin of a recipe: every model at toy size, every data set made on the spot, every stage a few steps. What a full-size recipe does, in seconds on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline import recipe_source
from sightline.data.captioning import Asking, Caption, Match, is_outside
from sightline.data.operators import Take
from sightline.data.questions import Captions, Notes, Questions
from sightline.data.readers.dota import Dota
from sightline.data.readers.karpathy_captions import KarpathyCaptions
from sightline.data.readers.label_masks import LabelMasks
from sightline.data.scenes import Scenes
from sightline.data.scoring import ByScore, ClipScore, MatchScore, Perplexity
from sightline.data.segment_questions import Segment
from sightline.evaluate.benchmarks import Questions as QuestionBenchmark
from sightline.kinds import Config
from sightline.lineage import write_text
from sightline.model import hub_layout
from sightline.model.assembly import ModelConfig, TokenizerConfig
from sightline.recipe import DataConfig, EvaluateConfig, ReadConfig, Recipe, load
from sightline.soup_recipe import SoupConfig
from sightline.train.objectives import AnswerLikelihood
from sightline.train.stage import PartTraining, StageConfig
from sightline.vary_recipe import SelectConfig, VaryConfig

if TYPE_CHECKING:
    from sightline.expansion import Variant

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
_MOST = 4
"""A stage of a row has at most so many times the steps of the base's."""
_UNMADE = ("change", "zero-shot")
"""Benchmarks of pairs and of one class a picture, which made scenes are not."""
_CAPTIONED = {"captions", "caption-set", "retrieval"}
"""Benchmarks that need captions."""
_MASKED = {"masks"}
"""Benchmarks that need masks."""
_SPREAD = 0.09
"""Standard deviation of random weights: narrow layers learn little from the 0.02 of wide ones."""
_LOUD = 3.0e-3
"""A rate for toys."""


def twin(recipe: Recipe, rows: int = 8, remember: int | None = None, texts: Sequence[str] | None = None) -> Recipe:
    """The same recipe in toy form: model, data and stage names stay, and so does who takes what from whom. It needs neither data nor weights,
    and leaves out benchmarks that read published files.

    `rows`: made scenes, one of 64 px for each row. `remember`: so many steps of one more stage, which trains all parts of the last model that writes on all rows and
    asks them back (evaluation `remember`): the question is the same for every picture, so that only the picture can tell the answer. `texts`: data that tokenizers learn from, by
    default that of all stages. What varies or is selected is left out here: `study_twin` makes the twins of all rows.
    """
    awaited = recipe.awaited()
    told = tuple(texts) if texts is not None else tuple(dict.fromkeys(data for stage in recipe.stages for data in stage.data if not awaited[data]))
    models = {name: _model(config, told) for name, config in recipe.all_models().items()}
    small = recipe.model_copy(
        update={
            "name": f"{recipe.name}-twin"[:64],
            "threads": 1,
            "writers": [],
            "vary": {},
            "select": None,
            "model": models.pop("model", None) if recipe.model else None,
            "models": models,
            "data": {MADE: _made(rows), **{name: _data(recipe, name, rows) for name in recipe.data}},
            "stages": [_stage(recipe, number, stage) for number, stage in enumerate(recipe.stages)],
            "soups": {name: _soup(recipe, name) for name in recipe.soups if _made_here(recipe, name)},
            "evaluate": {name: _evaluation(one) for name, one in recipe.evaluate.items() if _asked_here(recipe, one)},
        }
    )
    return small if remember is None else _remembering(small, rows, remember)


def write_twin(recipe: str | Path, overrides: Sequence[str], folder: Path) -> Path:
    """The twin of a recipe file or a shipped recipe as a file of its own: folder/twin.yaml. Raises Refused where the recipe is wrong."""
    file = folder / "twin.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    whole = load(recipe, overrides).recipe
    write_text(file, recipe_source.dump(study_twin(recipe, overrides) if whole.vary or whole.select else twin(whole)))
    return file


def study_twin(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The twin of a recipe with `vary` or `select`: a recipe that varies too, whose rows say what tells the twin of each row from that of the base.

    Tokenizers of all rows learn the same texts, and a data set has the same rows wherever the recipe does not change it, so that rows share what they share at full size.
    """
    from sightline.expansion import SELECTION, expand

    whole = load(recipe, overrides).recipe
    groups = expand(recipe, overrides)
    every = [variant.loaded.recipe for rows in groups.values() for variant in rows]
    used = list(dict.fromkeys(data for one in every for stage in one.stages for data in stage.data))
    texts = [data for data in used if all(data in one.data and not one.awaited()[data] for one in every)]
    recipes = {(group, variant.name): variant.loaded.recipe for group, rows in groups.items() for variant in rows}
    toys = {place: twin(one, texts=texts) for place, one in recipes.items()}
    selecting = {place: one for place, one in recipes.items() if one.select}
    for place, toy in toys.items():
        data = {name: _asked_most(name, place, groups, toys) for name in toy.data}
        stages = _long(toy, recipes[place], recipes[place[0], groups[place[0]][0].name])
        toys[place] = toy.model_copy(update={"data": data, "stages": stages, "select": _selecting(selecting.get(place), toy)})
    first = next(iter(toys.values()))
    if SELECTION in groups:
        return toys[SELECTION, groups[SELECTION][-1].name]
    vary = {}
    for group, rows in groups.items():
        base, *others = [variant.name for variant in rows]
        cumulative, keys, changes = whole.vary[group].cumulative, set[str](), {}
        for name in others:
            keys = {*(keys if cumulative else ()), *_differing(toys[group, name], first)}
            told = toys[group, name].model_dump(mode="json")
            changes[name] = {key: told[key] for key in told if key in keys}
        vary[group] = VaryConfig(rows=changes, base=base, cumulative=cumulative, columns=_kept_columns(whole.vary[group], first))
    return first.model_copy(update={"vary": vary})


def _long(toy: Recipe, recipe: Recipe, base: Recipe) -> list[StageConfig]:
    """Stages whose steps are to those of the base's twin as the steps at full size, where rows are expected: fewer and more steps are controls."""
    usual = {stage.name: steps for stage in base.stages if (steps := _expected_steps(base, stage))}
    own = {stage.name: _expected_steps(recipe, stage) for stage in recipe.stages}
    share = {name: steps / usual[name] for name, steps in own.items() if steps and name in usual}
    return [stage.model_copy(update={"steps": min(_MOST * STEPS, max(1, round(STEPS * share.get(stage.name, 1.0))))}) for stage in toy.stages]


def _expected_steps(recipe: Recipe, stage: StageConfig) -> int | None:
    """Steps at full size; None where they follow from rows of which nothing is expected."""
    rows = {name: recipe.data[name].expect for name in stage.data}
    if stage.steps is None and stage.mix is not None:
        return stage.total_steps(stage.mix.rows) if stage.mix.rows is not None else None
    counted = [weight * said.rows if (said := rows[name]) is not None else None for name, weight in stage.data.items()]
    if stage.steps is None and None in counted:
        return None
    return stage.total_steps(round(sum(one for one in counted if one is not None)))


def _asked_most(name: str, place: tuple[str, str], groups: Mapping[str, Sequence[Variant]], toys: Mapping[tuple[str, str], Recipe]) -> DataConfig:
    """A data set of a row's twin in the form that some row with the same data asks for."""
    recipes = {(group, variant.name): variant.loaded.recipe for group, rows in groups.items() for variant in rows}
    own = recipes[place].data.get(name)
    same = [other for other, recipe in recipes.items() if recipe.data.get(name) == own]
    return max((toys[other].data[name] for other in same), key=lambda one: len(one.then))


def _selecting(recipe: Recipe | None, toy: Recipe) -> SelectConfig | None:
    """The same selection of what the twin trains, whose data are all of the same scenes; none where the twin leaves out what is selected on."""
    if recipe is None or recipe.select is None:
        return None
    kept = tuple(name for name in recipe.select.select_on if name in toy.evaluate)
    return recipe.select.model_copy(update={"select_on": kept, "allow_test_selection": True}) if kept else None


def _kept_columns(config: VaryConfig, toy: Recipe) -> tuple[str, ...]:
    """Columns whose evaluations are in the twin."""
    return tuple(column for column in config.columns if column.partition(".")[0] in toy.evaluate)


def _differing(toy: Recipe, base: Recipe) -> set[str]:
    """The keys of a twin that are not those of another."""
    own, other = (one.model_dump(mode="json", exclude={"vary", "name"}) for one in (toy, base))
    return {key for key, value in own.items() if value != other[key]}


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


def _data(recipe: Recipe, name: str, rows: int) -> DataConfig:
    """Rows of the made scenes, or of what it was taken from, in the form that its users ask for; asked and chosen in the order of the recipe."""
    before: list[Config] = []
    after: list[Config] = []
    for operator in recipe.data[name].then:
        if isinstance(operator, Asking) and not is_outside(operator.answered_by):
            after.append(_asking(operator))
        elif (chosen := _choosing(operator, recipe, name, rows)) is not None:
            (after if after else before).append(chosen)
    return DataConfig(source=recipe.data[name].source or MADE, then=[*before, *_operators(recipe, name), *after])


def _choosing(operator: Config, recipe: Recipe, name: str, rows: int) -> Config | None:
    """The same choice among fewer rows: a share by score as it is, the first or last rows in the proportion of what is expected. Bounds of scores mean nothing for a toy, and splits are not made."""
    if isinstance(operator, ByScore) and (operator.lowest or operator.highest):
        return operator.model_copy(update={"at_least": None, "at_most": None})
    source = recipe.data[name].source
    whole = recipe.data[source].expect if source is not None else None
    if isinstance(operator, Take) and whole is not None and (operator.first or operator.last):
        few = {key: max(1, round(rows * said / whole.rows)) if (said := getattr(operator, key)) else None for key in ("first", "last")}
        return operator.model_copy(update={"split": (), **few})
    return None


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
    pools = [stage for soup in recipe.soups for stage in recipe.pool_of(soup)]
    if recipe.select is not None:
        stage = recipe.stages[recipe.number_of(recipe.select.stage)]
        pools.append(stage.model_copy(update={"data": recipe.select.candidates}))
    objectives = {stage.objective.kind for stage in (*recipe.stages, *pools) if name in stage.data}  # pyright: ignore[reportAttributeAccessIssue]
    scored = {one.benchmark.kind for one in recipe.evaluate.values() if getattr(one.benchmark, "data", None) == name}  # pyright: ignore[reportAttributeAccessIssue]
    if not objectives and not scored:
        return []
    said = recipe.data[name].expect
    if "text" in objectives or (said is not None and said.size is None):
        return [Notes(per_picture=1)]
    if "mask" in objectives or scored & _MASKED:
        return [Segment(per_picture=2)]
    described = objectives & {"contrastive", "picture-text"} or scored & _CAPTIONED or _has_captions(recipe, name)
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
            "init": {part: origin for part, origin in stage.init.items() if origin in earlier or (origin in recipe.soups and _made_here(recipe, origin))},
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


def _made_here(recipe: Recipe, soup: str) -> bool:
    """Whether some ingredient is trained by the recipe, and the base where there is one: others are not at hand in a twin."""
    config = recipe.soups[soup]
    return (config.pool is not None or any(_here(recipe, one) for one in config.ingredients)) and (config.base is None or _here(recipe, config.base))


def _here(recipe: Recipe, name: str) -> bool:
    """Whether a stage or soup of this name is in the twin."""
    return _made_here(recipe, name) if name in recipe.soups else any(stage.name == name for stage in recipe.stages)


def _soup(recipe: Recipe, name: str) -> SoupConfig:
    """The same soup of what the twin trains; all its data are of the same scenes, so that what is selected on is also reported."""
    config = recipe.soups[name]
    here = tuple(one for one in config.ingredients if _here(recipe, one))
    made = {*here, *(stage.name for stage in recipe.pool_of(name))}
    kept = [key for key, one in recipe.evaluate.items() if _asked_here(recipe, one)]
    asked = {key: tuple(one for one in getattr(config, key) if one in kept) for key in ("select_on", "report_on")}
    unscored = {} if asked["select_on"] else {"method": "average", "by_part": False}
    weights = {one: weight for one, weight in config.weights.items() if one in made}
    return config.model_copy(update={"ingredients": here, "weights": weights, "allow_test_selection": True, **asked, **unscored})


def _asked_here(recipe: Recipe, one: EvaluateConfig) -> bool:
    """Whether what an evaluation asks is in the twin, and who answers."""
    benchmark: Any = one.benchmark
    if getattr(benchmark, "data", None) is None or benchmark.kind in _UNMADE:
        return False
    return one.stage not in recipe.soups or _made_here(recipe, one.stage)


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
