"""Soups of a run and of the command line: candidates are mixed, asked and scored; what was chosen becomes a model directory with a table beside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.errors import Refused
from sightline.evaluate.answering import LocalAnswerer, load_here
from sightline.evaluate.answers import AnswerFile, answer_all
from sightline.evaluate.golden import golden_prompts, write_golden
from sightline.evaluate.metrics import Value
from sightline.lineage import Lineage, artifact, sha256_json, write_json, write_text
from sightline.named_answerers import answerer_id
from sightline.progress import Progress, say
from sightline.run_stages import GOLDEN_TOKENS, judge_of, named_folder, stage_folder, train_stage
from sightline.samples.exchange import Answerer, Decoding, Request
from sightline.soup_recipe import SoupConfig, soups_under
from sightline.soup_search import (
    ALL,
    STAMP,
    AskedRows,
    Blend,
    Bowl,
    Found,
    Measured,
    SoupTable,
    average,
    gains_of,
    greedy,
    interval_of,
    maximum,
    measured_in,
    measured_of,
    shared,
    table_lines,
)
from sightline.train.soup import Ingredient, mix, open_ingredient

if TYPE_CHECKING:
    from sightline.recipe import EvaluateConfig, Recipe
    from sightline.run import Run


_FORMAT = 2
"""Of the files that keep scores; raised when they hold something else."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What candidates are asked, and who judges them."""

    name: str
    benchmark: Any
    requests: Sequence[Request]
    asked: AskedRows
    answers: Path
    """Where answers are kept; the evaluation of the finished soup may share it."""
    id: str
    """What is asked and how it is scored, by content."""
    precision: str = "bfloat16"
    judge: Answerer | None = None

    def measure(self, answerer: LocalAnswerer, label: str) -> Measured:
        """Ask and score one model; what is in the file of answers is not asked again."""
        progress = Progress(f"{label} on {self.name}", len(self.requests), "answers")
        keys = [answerer.key(request) for request in self.requests]
        scores = self.benchmark.score(answer_all(list(self.requests), answerer, keys, AnswerFile(self.answers), progress), self.judge)
        progress.close()
        return measured_in(scores, self.benchmark.headline[0], self.requests)


def evaluation_of(name: str, benchmark: Any, told: Any, answers: Path, precision: str = "bfloat16", judge: Answerer | None = None) -> Evaluation:
    """An evaluation whose benchmark is built. `told`: what tells it from others, as JSON."""
    requests = list(benchmark.requests())
    rows: dict[str, str] = {}
    pictures: dict[str, str] = {}
    for request in requests:
        sample = request.sample
        own = sample.id.partition("#")[0]
        said = [sample.text(number) for number in range(len(sample.turns))]
        rows |= {f"{sample.origin.source}:{own}": own, sha256_json([said, [picture.hash for picture in sample.pictures]]): own}
        pictures |= {picture.hash: own for picture in sample.pictures}
    asked = AskedRows(name=name, rows=rows, pictures=pictures)
    return Evaluation(
        name=name, benchmark=benchmark, requests=requests, asked=asked, answers=answers, id=sha256_json([told, precision]), precision=precision, judge=judge
    )


@dataclass(kw_only=True)
class Kitchen:
    """Ingredients by name, a folder for candidates and scores, and the evaluations. Every mean is scored once: its scores are kept under the content of its ingredients."""

    ingredients: Mapping[str, Ingredient]
    folder: Path
    selection: Sequence[Evaluation] = ()
    report: Sequence[Evaluation] = ()
    before: Sequence[Evaluation] = ()
    """What ingredients were chosen by already."""
    ids: dict[str, str] = field(default_factory=dict)
    """Content ids of the ingredients' weights."""

    def __post_init__(self) -> None:
        self.ids = {name: one.weights for name, one in self.ingredients.items()}

    def id_of(self, blend: Blend) -> str:
        """Content id of a mean: equal for equal weights of equal models, whatever they are called."""
        return sha256_json({path: sorted([self.ids[name], weight / sum(own.values())] for name, weight in own.items()) for path, own in blend.items()})

    def write(self, blend: Blend, out: Path) -> str:
        """Write a mean into an existing folder; returns its weights id. Ingredients are taken in the order of their content, the base first."""
        named = {name for own in blend.values() for name in own}
        first = set(blend.get(ALL, {})) if len(blend) > 1 else set()
        order = sorted(named, key=lambda name: (name not in first, self.ids[name], name))
        shares = {path: [own.get(name, 0.0) for name in order] for path, own in blend.items()}
        return mix([self.ingredients[name] for name in order], out, shares).weights

    @contextmanager
    def model(self, blend: Blend) -> Iterator[Path]:
        """A folder with a mean, for a while; a single model is where it is."""
        names = list(blend.get(ALL, {}))
        if len(blend) == 1 and len(names) == 1 and self.ingredients[names[0]].adapter is None:
            yield self.ingredients[names[0]].folder
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".tmp-candidate-") as folder:
            self.write(blend, Path(folder))
            yield Path(folder)

    def scores(self, blend: Blend, evaluations: Sequence[Evaluation]) -> list[Measured]:
        """Scores of a mean in these evaluations, from `scores/` where they are there."""
        files = {one.name: self.folder / "scores" / f"{sha256_json([self.id_of(blend), one.id, _FORMAT])[:32]}.json" for one in evaluations}
        if not all(file.is_file() for file in files.values()):
            label = " + ".join(dict.fromkeys(name for own in blend.values() for name in own))
            with self.model(blend) as folder:
                model, processor, weights = load_here(folder)
            for one in evaluations:
                if not files[one.name].is_file():
                    measured = one.measure(LocalAnswerer(model, processor, weights, one.precision), label)
                    write_json(files[one.name], {"models": label, "weights": weights, "evaluation": one.name, **measured.record()})
        return [measured_of(json.loads(files[one.name].read_text(encoding="utf-8"))) for one in evaluations]

    def values(self, blend: Blend) -> dict[str, Value]:
        """Evaluation -> value for the table: those selected on, their mean where there are several, and those reported."""
        chosen = self.scores(blend, self.selection)
        found = {told.name: one.value for told, one in zip(self.selection, chosen)}
        if len(chosen) > 1:
            found["mean of selection"] = interval_of([one.share for one in chosen])
        return found | {told: one.value for told, one in self.reported(blend).items()}

    def reported(self, blend: Blend) -> dict[str, Measured]:
        """Evaluation that is reported -> what a mean reached in it."""
        return {told.name: one for told, one in zip(self.report, self.scores(blend, self.report))}

    def scales(self, blend: Blend) -> dict[str, float]:
        """Evaluations whose metric is no share -> its largest value."""
        asked = [*self.selection, *self.report]
        return {told.name: one.scale for told, one in zip(asked, self.scores(blend, asked)) if one.scale != 1}


def search(config: SoupConfig, names: Sequence[str], kitchen: Kitchen) -> Found:
    """What the method chooses of the named ingredients."""
    bowl = Bowl(parts=config.parts, base=config.base)
    score = lambda blend: kitchen.scores(blend, kitchen.selection)  # noqa: E731
    if config.method == "average":
        return average(names, bowl, config.weights)
    if config.method == "maximum":
        return maximum(names, bowl, score)
    return greedy(names, bowl, score, config.accept, config.by_part)


def cook(name: str, config: SoupConfig, names: Sequence[str], kitchen: Kitchen, out: Path, fingerprint: str, parents: Mapping[str, str]) -> SoupTable:
    """Search, table and model directory: `out` with soup.json, and table.json and table.md beside it. `parents`: ingredient -> id of its lineage.

    Raises Refused where what is selected on is also reported, unless the recipe allows it: then every table and the lineage say so.
    """
    overlap = shared([one.asked for one in (*kitchen.selection, *kitchen.before)], [one.asked for one in kitchen.report], f"soups.{name}.select_on")
    if overlap and not config.allow_test_selection:
        raise Refused(overlap)
    stamp = STAMP if overlap else ""
    found = search(config, names, kitchen)
    table = _table(name, config, names, kitchen, found, stamp)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.parent / "table.json", table.record())
    write_text(out.parent / "table.md", table.markdown())
    with artifact(out) as temporary:
        weights = kitchen.write(found.blend, temporary)
        listed = [
            {"name": one, "weights": kitchen.ids[one], "lineage": parents.get(one, ""), "score": found.singles.get(one), "chosen": one in found.chosen}
            for one in found.order
        ]
        record = {"name": name, "method": config.method, "accept": config.accept, "ingredients": listed, "weights": weights, "stamp": stamp}
        write_json(temporary / "soup.json", {**record, "selected_on": table.selected_on, "reported_on": table.reported_on, "search": found.record()})
        _golden(temporary, next(kitchen.ingredients[one].folder for one in found.chosen))
        Lineage(
            id=sha256_json([fingerprint, weights or kitchen.id_of(found.blend)]),
            kind="model",
            config=fingerprint,
            inputs=[{"id": parents.get(one, kitchen.ids[one]), "kind": "ingredient"} for one in found.chosen],
            maker={"soup": config.method, "ingredients": ", ".join(found.chosen), **({"stamp": stamp} if stamp else {})},
        ).write(temporary)
    return table


def _table(name: str, config: SoupConfig, names: Sequence[str], kitchen: Kitchen, found: Found, stamp: str) -> SoupTable:
    """All singles, the best of them on what is selected on, their average, and what was found: one line each. Nothing is scored twice."""
    bowl = Bowl(parts=config.parts, base=config.base)
    table = SoupTable(
        name=name,
        selected_on=tuple(one.name for one in kitchen.selection),
        reported_on=tuple(one.name for one in kitchen.report),
        lines=(),
        stamp=stamp,
        found=found,
    )
    if not kitchen.selection and not kitchen.report:
        return table
    blends = {"average": average(names, bowl, config.weights).blend}
    if kitchen.selection:
        blends = {"maximum": maximum(names, bowl, lambda blend: kitchen.scores(blend, kitchen.selection)).blend, **blends}
    blends |= {found.method: found.blend}
    singles = {one: kitchen.values(bowl.equal([one])) for one in names}
    soups = {method: (_members(blend), kitchen.values(blend)) for method, blend in blends.items()}
    gains = gains_of({method: kitchen.reported(blend) for method, blend in blends.items()})
    return replace(table, lines=table_lines(singles, soups), scales=kitchen.scales(found.blend), gains=gains)


def _members(blend: Blend) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for path, own in blend.items() for name in own if path or len(blend) == 1))


def _golden(folder: Path, ingredient: Path) -> None:
    """The golden requests of an ingredient, answered by the soup."""
    if not (ingredient / "golden" / "requests.jsonl").is_file():
        return
    model, processor, weights = load_here(folder)
    prompts, pairs = golden_prompts(ingredient)
    told = []
    for sample in prompts:
        [answer] = LocalAnswerer(model, processor, weights).answer([Request(sample=sample, decoding=Decoding(max_tokens=GOLDEN_TOKENS))])
        told.append((sample, answer))
    write_golden(folder, model, processor, told, pairs)


# of a recipe


def make_soup(run: Run, name: str) -> None:
    """One soup node; the soups it is made of, and the stages of its pool, come first, each a node of its own that shares all before it."""
    recipe, config = run.recipe, run.recipe.soups[name]
    if f"soups/{name}" in run.ids:
        return
    for one in soups_under(recipe, name)[:-1]:
        make_soup(run, one)
    for variant in recipe.pool_of(name):
        if f"stages/{variant.name}" not in run.ids:
            train_stage(run, recipe.number_of(config.pool.stage), variant)  # pyright: ignore[reportOptionalMemberAccess]
    names = recipe.ingredients_of(name)
    folders = {one: _folder_of(run, one) for one in [*names, *([config.base] if config.base else [])]}
    reported = recipe.reported_of(name)
    judged = [*config.select_on, *reported]
    data = [one for one in dict.fromkeys(getattr(recipe.evaluate[one].benchmark, "data", None) for one in judged) if one is not None]
    nodes = {one: node for one in folders for node in (f"stages/{one}", f"soups/{one}") if node in run.ids}
    inputs = [*nodes.values(), *(f"data/{one}" for one in data)]
    outside = {one: answerer_id(str(folder)) for one, folder in folders.items() if one not in nodes}
    evaluations = {one: _said(recipe.evaluate[one]) for one in judged}
    folder = named_folder(run, name)

    def work(fingerprint: str) -> None:
        asked = {one: evaluation_in(run, one) for one in (*judged, *_chosen_on(recipe, name))}
        kitchen = Kitchen(
            ingredients={
                one: open_ingredient(path, open_ingredient(folders[config.base]) if config.base and one != config.base else None)
                for one, path in folders.items()
            },
            folder=folder.parent,
            selection=[asked[one] for one in config.select_on],
            report=[asked[one] for one in reported],
            before=[asked[one] for one in _chosen_on(recipe, name) if one not in config.select_on],
        )
        parents = {one: run.ids[nodes[one]] if one in nodes else outside[one] for one in names}
        table = cook(name, config, names, kitchen, folder, fingerprint, parents)
        run.events.write({"event": "soup", "soup": name, **table.record()})
        say(f"soup {name}\n{table.markdown()}")

    run.node(f"soups/{name}", [config.model_dump(mode="json"), evaluations, outside], inputs, folder, work, lambda: Lineage.read(folder).id)


def _chosen_on(recipe: Recipe, name: str) -> list[str]:
    """Evaluations that a soup, or one that it is made of, was chosen by: none of them may be reported."""
    return list(dict.fromkeys(one for soup in soups_under(recipe, name) for one in recipe.soups[soup].select_on))


def evaluation_in(run: Run, name: str) -> Evaluation:
    """An evaluation of a run whose data is there."""
    config, folder = run.recipe.evaluate[name], run.out / "evaluate" / name
    data = getattr(config.benchmark, "data", None)
    samples = [run.store(data)[int(row)] for row in run.store(data).kept] if data is not None else []
    benchmark = config.benchmark.build(samples)  # pyright: ignore[reportAttributeAccessIssue]
    told = [_said(config), run.store(data).id if data is not None else ""]
    return evaluation_of(name, benchmark, told, folder / "answers.jsonl", config.precision, judge_of(config, folder))


def _said(config: EvaluateConfig) -> dict[str, Any]:
    """What decides the scores of an evaluation."""
    return config.model_dump(mode="json", exclude={"stage", "gate", "controls", "thumbnails"})


def _folder_of(run: Run, name: str) -> Path:
    """Folder of an ingredient: a stage's or a soup's model, one of a pool's, or a path."""
    recipe = run.recipe
    if name in recipe.soups or any(stage.name == name for stage in recipe.stages):
        return named_folder(run, name)
    for soup, config in recipe.soups.items():
        for variant in recipe.pool_of(soup):
            if variant.name == name and config.pool is not None:
                return stage_folder(run, recipe.number_of(config.pool.stage), variant)
    return Path(name)


def refuse_overlap(run: Run) -> None:
    """Refused, before a stage costs, where a soup would be chosen by what it reports; soups whose data come later are looked at when they are made."""
    problems = []
    for name, config in run.recipe.soups.items():
        reported = run.recipe.reported_of(name)
        chosen_on = _chosen_on(run.recipe, name)
        data = {getattr(run.recipe.evaluate[one].benchmark, "data", None) for one in (*chosen_on, *reported)} - {None}
        if chosen_on and not config.allow_test_selection and all(f"data/{one}" in run.ids for one in data):
            selected, told = ([evaluation_in(run, one).asked for one in some] for some in (chosen_on, reported))
            problems += shared(selected, told, f"soups.{name}.select_on")
    if problems:
        raise Refused(problems)
