"""The recipe: one strict, typed file that says everything about a run. Loading, `extends:` and overrides: recipe_source.py."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import to_json

from sightline import recipe_source
from sightline.data.captioning import Asking, is_endpoint, is_outside
from sightline.data.reading import READER
from sightline.data.scenes import MAKER
from sightline.data.steps import OPERATOR
from sightline.evaluate.benchmark_table import BENCHMARK
from sightline.kinds import Config, located
from sightline.model.assembly import ModelConfig
from sightline.model.chat import CHAT_FORMATS, ChatFormat
from sightline.recipe_source import Loaded
from sightline.run_writers import WRITER, WriterConfig
from sightline.soup_recipe import SoupConfig, soup_faults, soups_under, stages_under
from sightline.train.stage import StageConfig
from sightline.vary_recipe import SelectConfig, VaryConfig, vary_faults

_PATHS = re.compile(
    r"data\.[^.]+\.read(\.\d+)?\.path|data\.[^.]+\.then\.\d+(\.[^.]+)?\.(with|key_file)|evaluate\.[^.]+\.(benchmark(\.[^.]+)?\.(classes|labels|path|pictures|judge_prompt)|judge_key_file)|(model|models\.[^.]+)\.(side_)?tokenizer\.path"
)
"""Keys that hold paths."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
R = TypeVar("R", bound=BaseModel)


def load(path: str | Path, overrides: Sequence[str] = (), rows: Sequence[str] | None = None) -> Loaded[Recipe]:
    """A checked recipe whose relative paths are settled: those of a file start from its folder, those of an override from the working directory. `rows`: see recipe_source.load."""
    return load_as(Recipe, path, overrides, rows)


def load_as(root: type[R], path: str | Path, overrides: Sequence[str] = (), rows: Sequence[str] | None = None) -> Loaded[R]:
    """The same for another root whose `data` is that of a recipe."""
    loaded = recipe_source.load(path, root, overrides, rows)
    tree = copy.deepcopy(loaded.tree)
    for key in loaded.places:
        if _PATHS.fullmatch(key):
            _settle(tree, key.split("."), loaded.place(key))
    return replace(loaded, recipe=root.model_validate_json(to_json(tree, inf_nan_mode="constants")))


def _settle(tree: Any, keys: list[str], place: str) -> None:
    for key in keys[:-1]:
        tree = tree[int(key) if isinstance(tree, list) else key]
    file, value = place.rpartition(":")[0], tree[keys[-1]]
    base = Path() if place.startswith("override:") else Path(file).parent
    if keys[-1] == "with":
        if is_outside(value) and not is_endpoint(value):
            settled = str(base / value)
            tree[keys[-1]] = settled if is_outside(settled) else f"./{settled}"
    elif value is not None:
        tree[keys[-1]] = str(base / value)


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def short(value: object) -> object:
    """`{dedup: {near: 4}}` is short for `{kind: dedup, near: 4}`."""
    if isinstance(value, dict) and len(value) == 1 and "kind" not in value:
        ((kind, options),) = value.items()
        if options is None or isinstance(options, dict):
            return {"kind": kind, **(options or {})}
    return value


def _named(value: object) -> object:
    """`tensorboard` is short for `{kind: tensorboard}`."""
    return {"kind": value} if isinstance(value, str) else short(value)


class ReadConfig(Config):
    """One published data set to read. Other keys are options of the format's reader."""

    model_config = ConfigDict(extra="allow")

    format: str = "auto"
    """The format's name, or auto: recognise it, and say why."""
    path: str | None = None
    """File or folder; not needed after `make`."""

    def reader(self) -> Config | None:
        """The reader's Config with its options; None = recognise the format."""
        options = dict(self.model_extra or {})
        if self.format == "auto":
            if options:
                raise ValueError(f"options {sorted(options)} need a format: auto takes none")
            return None
        return READER.parse({"kind": self.format, **options})

    @model_validator(mode="after")
    def _options_fit(self) -> ReadConfig:
        self.reader()
        return self


class Expect(Config):
    """What is known of data that is not at hand, for `sightline plan`; it changes nothing in a run. Lengths count text only: pictures are counted by the model's tiler."""

    rows: int = Field(ge=1)
    """Rows after all operators."""
    text: float = Field(default=100.0, ge=2)
    """Mean tokens of a row's text, question and answer together."""
    answers: float = Field(default=40.0, ge=1)
    """Mean tokens of a row's answers."""
    spread: float = Field(default=0.7, ge=0, le=3)
    """Standard deviation of the logarithm of the text's length."""
    size: tuple[int, int] | None = Field(default=(640, 480), strict=False)
    """Width and height of a picture in px; null = text alone."""
    pictures: int = Field(default=1, ge=1)
    """Pictures of a row."""


class DataConfig(Config):
    """One data set: made, read, or taken from another; then operators in order."""

    make: Annotated[Config, MAKER, BeforeValidator(short)] | None = None
    """Make the data in a published layout first."""
    read: Annotated[list[ReadConfig], BeforeValidator(_listed)] = Field(default_factory=list)
    """Data sets to read; several are joined on the same picture."""
    source: str | None = None
    """Instead of reading: the rows of this data set."""
    then: list[Annotated[Config, OPERATOR, BeforeValidator(short)]] = Field(default_factory=list)
    """Operators, in order."""
    on_problem: str = Field(default="refuse", pattern="^(refuse|quarantine)$")
    """What happens to rows that cannot be read: refuse the whole set, or set them aside, counted and listed."""
    expect: Expect | None = None
    """For `sightline plan` where the data is not at hand: how many rows, and how long."""

    @model_validator(mode="after")
    def _one_origin(self) -> DataConfig:
        if bool(self.read) == bool(self.source):
            raise ValueError("give either `read` (with `make` or a path) or `source`")
        if self.make and not self.read:
            raise ValueError("what is made must be read: give `read` with a format")
        if not self.make and any(step.path is None for step in self.read):
            raise ValueError("`read` needs a path where nothing is made")
        return self


def asked_stages(data: DataConfig) -> list[str]:
    """Stages whose models its operators ask."""
    return [name for name in _asked(data) if not is_outside(name)]


def asked_outside(data: DataConfig) -> list[str]:
    """Folders and endpoints that its operators ask."""
    return [name for name in _asked(data) if is_outside(name)]


def _asked(data: DataConfig) -> list[str]:
    return list(dict.fromkeys(operator.answered_by for operator in data.then if isinstance(operator, Asking)))


def _spoken(name: str, model: ModelConfig) -> ChatFormat:
    """A stage's own format in the words of the model's: one that ends answers in plain text takes first and end token from the model's format."""
    chosen, own = CHAT_FORMATS[name], model.chat_format()
    if not chosen.stop:
        return chosen
    first = next((token for token in own.controls if own.begin.startswith(token)), "")
    return chosen.model_copy(update={"begin": first, "end": own.end, "controls": tuple(dict.fromkeys(token for token in (first, own.end) if token))})


class EvaluateConfig(Config):
    """One evaluation of one stage's model."""

    benchmark: Annotated[Config, BENCHMARK, BeforeValidator(short)]
    """What is asked, and how it is scored."""
    stage: str | None = None
    """The stage or soup whose model answers; default is the last stage."""
    controls: bool = True
    """Also answer without pictures and with shuffled pictures."""
    gate: float | None = Field(default=None, ge=0, le=1)
    """What its headline score should reach, 0..1: the report says passed or failed. For scores on the way, such as answers from text before pictures are met."""
    thumbnails: str | None = None
    """Data set on which a linear probe on 32 x 32 thumbnails is trained, printed beside the score."""
    precision: str = Field(default="bfloat16", pattern="^(bfloat16|float32)$")
    """Compute type of answering."""
    judge: str | None = None
    """Who judges answers where the benchmark asks for it: `http://HOST:PORT/v1#MODEL`, or the folder of a run or a model. Its verdicts are kept and never asked twice."""
    judge_key_file: str | None = None
    """File with the key that the judge's endpoint wants."""


class Recipe(Config):
    """A whole run: models, data, stages, evaluation."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=64)
    """Name of the run."""
    seed: int = Field(default=0, ge=0)
    """Everything random follows from it."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads for training; default is one per core."""
    model: ModelConfig | None = None
    """The model; short for one entry of `models`."""
    models: dict[str, ModelConfig | str] = Field(default_factory=dict)
    """Several models by name; the name of another one says: built like that."""
    data: dict[str, DataConfig] = Field(default_factory=dict)
    """Data sets by name."""
    stages: list[StageConfig] = Field(default_factory=list)
    """Training stages, in order."""
    soups: dict[str, SoupConfig] = Field(default_factory=dict)
    """Means of the weights of several models, by name."""
    evaluate: dict[str, EvaluateConfig] = Field(default_factory=dict)
    """Evaluations by name; the first one is the headline of the report."""
    vary: dict[str, VaryConfig] = Field(default_factory=dict)
    """Tables of variants by name: the recipe is run once for each row, and what rows have in common is made once."""
    select: SelectConfig | None = None
    """Data sets of a stage that are chosen by training with each of them."""
    writers: list[Annotated[WriterConfig, WRITER, BeforeValidator(_named)]] = Field(default_factory=list)
    """Where the numbers of a run go besides its own files: `tensorboard`, `wandb`, `trackio`. They change no result, and a changed one trains nothing again."""
    held_out: tuple[str, ...] = Field(default=(), strict=False)
    """Data that no stage may learn from, by name or as a pattern (`vqa-*`): sets and groups of tasks that are kept for judging."""

    def all_models(self) -> dict[str, ModelConfig]:
        """Every model by name; a single one is called `model`."""
        said: dict[str, ModelConfig | str] = {"model": self.model, **self.models} if self.model else dict(self.models)
        found = {name: said.get(one) if isinstance(one, str) else one for name, one in said.items()}
        return {name: one for name, one in found.items() if isinstance(one, ModelConfig)}  # a name that names nothing is refused by `_faults`

    def model_of(self, stage: StageConfig) -> str:
        """Name of the model that a stage trains."""
        return stage.model or next(iter(self.all_models()))

    def config_of(self, stage: StageConfig) -> ModelConfig:
        """The model of a stage with what the stage changes: its chat format, its tiler."""
        config = self.all_models()[self.model_of(stage)]
        changes = {"chat": _spoken(stage.chat, config) if stage.chat else None, "tiler": stage.tiler}
        return config.model_copy(update={name: value for name, value in changes.items() if value is not None})

    def number_of(self, stage: str) -> int:
        """Place of a stage in the recipe, from 0."""
        return next(number for number, one in enumerate(self.stages) if one.name == stage)

    def pool_of(self, soup: str) -> list[StageConfig]:
        """Stages that are trained for a soup, STAGE-SET: as the pool's stage, with one more data set each."""
        pool = self.soups[soup].pool
        if pool is None:
            return []
        stage = self.stages[self.number_of(pool.stage)]
        return [stage.model_copy(update={"name": f"{stage.name}-{data}", "data": {**stage.data, data: weight}}) for data, weight in pool.add.items()]

    def ingredients_of(self, soup: str) -> list[str]:
        """Names of what a soup is made of: as listed, then its pool."""
        return [*self.soups[soup].ingredients, *(stage.name for stage in self.pool_of(soup))]

    def reported_of(self, soup: str) -> list[str]:
        """Evaluations of a soup's closing table: those it names, else those that ask it."""
        return list(self.soups[soup].report_on) or [name for name, one in self.evaluate.items() if one.stage == soup]

    def soup_after(self, soup: str) -> int:
        """Place of the stage after which a soup is made: the last of those it is made of, through other soups too, and of those that their data wait for."""
        awaited = self.awaited()
        names = set(stages_under(self, soup))
        for one in soups_under(self, soup):
            pool = self.soups[one].pool
            names |= {stage for data in (*(pool.add if pool else ()), *self.soup_data(one)) for stage in awaited.get(data, ())}
        return max((number for number, stage in enumerate(self.stages) if stage.name in names), default=0)

    def soup_data(self, soup: str) -> list[str]:
        """Data sets of the evaluations that a soup asks."""
        told = [self.evaluate[name].benchmark for name in (*self.soups[soup].select_on, *self.reported_of(soup))]
        return [data for data in dict.fromkeys(getattr(one, "data", None) for one in told) if data is not None]

    def controls(self, model: str) -> tuple[str, ...]:
        """Control tokens that the tokenizer of a model must hold: those of the model, and of the formats that its stages choose."""
        said = [self.all_models()[model], *(self.config_of(stage) for stage in self.stages if self.model_of(stage) == model)]
        return tuple(dict.fromkeys(token for config in said for token in config.controls()))

    def awaited(self) -> dict[str, list[str]]:
        """Data -> stages that must be done before it, in the order of the recipe: those that its operators ask, and those of the data it is taken from."""
        found: dict[str, list[str]] = {}
        for name in self.data:
            at: str | None = name
            stages: list[str] = []
            for _ in self.data:  # a circle of sources is refused elsewhere
                if at is None or at not in self.data:
                    break
                stages += asked_stages(self.data[at])
                at = self.data[at].source
            found[name] = [stage.name for stage in self.stages if stage.name in stages]
        return found

    @model_validator(mode="after")
    def _whole(self) -> Recipe:
        faults = list(self._faults())
        if faults:
            raise located(faults)
        return self

    def _faults(self) -> Iterator[str]:
        models, data, stages = self.all_models(), set(self.data), [stage.name for stage in self.stages]
        for name in self.models.keys() - models.keys():
            yield f"models.{name}: no model {self.models[name]!r} with parts of its own; there is {', '.join(models)}"
        for name in (*models, *data, *self.soups, *self.evaluate):
            if not _NAME.fullmatch(name):
                yield f"name {name!r} is not allowed; names are up to 64 lower-case letters, digits and hyphens"
        if self.stages and not models:
            yield "stages need a model"
        if self.evaluate and not self.stages:
            yield "evaluate: there is no stage whose model could answer"
        if len(set(stages)) < len(stages):
            yield f"stages: names must differ, found {', '.join(stages)}"
        for name, one in self.data.items():
            if one.source is not None and one.source not in data:
                yield f"data.{name}.source: no data {one.source!r}; there is {', '.join(sorted(data))}"
        for name, model in models.items():
            where = "model" if name == "model" and self.model else f"models.{name}"
            for key, said in (("tokenizer", model.tokenizer), ("side_tokenizer", model.side_tokenizer)):
                yield from (f"{where}.{key}.train_on: no data {missing!r}" for missing in (said.train_on if said else ()) if missing not in data)
        for stage in self.stages:
            yield from (
                f"stages.{stage.name}.data.{missing}: no data {missing!r}; there is {', '.join(sorted(data))}" for missing in stage.data if missing not in data
            )
            yield from (
                f"stages.{stage.name}.data.{name}: held out by {pattern!r}; evaluate on it, or take it out of `held_out`"
                for name in stage.data
                for pattern in self.held_out
                if fnmatchcase(name, pattern)
            )
            if stage.model is not None and stage.model not in models:
                yield f"stages.{stage.name}.model: no model {stage.model!r}; there is {', '.join(models)}"
            if stage.model is None and len(models) > 1:
                yield f"stages.{stage.name}: name a model, one of {', '.join(models)}"
            elif stage.chat is not None and (stage.model or next(iter(models), None)) in models:
                yield from self._other_format(stage)
        for name, one in self.evaluate.items():
            wanted: dict[str, Any] = {"benchmark": getattr(one.benchmark, "data", None), "thumbnails": one.thumbnails}
            yield from (
                f"evaluate.{name}.{key}: no data {missing!r}; there is {', '.join(sorted(data))}"
                for key, missing in wanted.items()
                if missing is not None and missing not in data
            )
            if getattr(one.benchmark, "judged", False) and one.judge is None:
                yield f"evaluate.{name}.judge: a model that judges its answers, http://HOST:PORT/v1#MODEL or a folder"
            if one.thumbnails is not None and one.benchmark.kind not in ("questions", "captions"):  # pyright: ignore[reportAttributeAccessIssue]
                yield f"evaluate.{name}.thumbnails: only beside `questions` and `captions` made from data"
            if one.stage is not None and one.stage not in (*stages, *self.soups):
                yield f"evaluate.{name}.stage: no stage {one.stage!r}; there is {', '.join((*stages, *self.soups))}"
        yield from (f"held_out: no data is called {pattern!r}" for pattern in self.held_out if not any(fnmatchcase(name, pattern) for name in data))
        kinds = [one.name for one in self.writers]
        if len(set(kinds)) < len(kinds):
            yield f"writers: each kind once, found {', '.join(kinds)}"
        yield from self._cycles()
        yield from self._too_early()
        yield from soup_faults(self)
        yield from vary_faults(self)

    def _other_format(self, stage: StageConfig) -> Iterator[str]:
        """A stage's own chat format must be known, and end answers as the model's does."""
        own = self.all_models()[self.model_of(stage)].chat_format()
        if stage.chat not in CHAT_FORMATS:
            yield f"stages.{stage.name}.chat: no format {stage.chat!r}; there is {', '.join(CHAT_FORMATS)}"
        elif not CHAT_FORMATS[stage.chat].stop and (end := CHAT_FORMATS[stage.chat].end) != own.end:
            yield f"stages.{stage.name}.chat: {stage.chat} ends answers with {end}, the model's {own.name} with {own.end}: one tokenizer has one end token"

    def _too_early(self) -> Iterator[str]:
        """Operators that ask a stage which does not exist, or one that comes no earlier than a stage that learns from what it says."""
        order = [stage.name for stage in self.stages]
        for name, data in self.data.items():
            for number, operator in enumerate(data.then):
                if isinstance(operator, Asking) and not is_outside(operator.answered_by) and operator.answered_by not in order:
                    there = f"there is {', '.join(order)}" if order else "there are no stages"
                    yield f"data.{name}.then.{number}.with: no stage {operator.answered_by!r}; {there}; a folder is written with a `/`, an endpoint as http://.."
        awaited = self.awaited()
        for number, stage in enumerate(self.stages):
            model = self.all_models().get(stage.model or next(iter(self.all_models()), ""))
            used = [*stage.data, *(model.tokenizer.train_on if model else ())]
            for data in dict.fromkeys(used):
                late = [other for other in awaited.get(data, ()) if order.index(other) >= number]
                if late:
                    yield f"stages.{stage.name}.data: {data} is made after stage {late[0]}, which comes no earlier"

    def _cycles(self) -> Iterator[str]:
        for name in self.data:
            seen, at = [name], self.data[name].source
            while at is not None and at in self.data:
                if at in seen:
                    yield f"data.{name}.source: goes round in a circle: {' -> '.join([*seen, at])}"
                    break
                seen.append(at)
                at = self.data[at].source
