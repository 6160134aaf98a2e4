"""`sightline run`: the graph of a recipe, executed into a run directory; what is already done and unchanged is skipped.

A node's fingerprint = sha256(its config, the ids of its inputs, the node's version), known before work: it decides skipping. Its artifact is whole or absent, and carries an
id = hash of fingerprint and content, known after. Nodes: make -> data -> tokenizer -> stage -> soup -> evaluate -> report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline import __version__, recipe_source
from sightline.data.steps import make_layout, read_and_apply
from sightline.errors import Problem, Refused
from sightline.lineage import Lineage, artifact, sha256_json, sha256_tree, software, sweep, write_json, write_text
from sightline.model.assembly import ModelConfig, TokenizerConfig
from sightline.model.tokens import TextTokenizer, train_tokenizer
from sightline.named_answerers import answerer_id
from sightline.progress import say, silence
from sightline.recipe import Recipe, asked_outside, asked_stages, load
from sightline.recipe_source import Loaded
from sightline.run_checks import refuse_early, tokenizer_folder
from sightline.run_events import Events, Unheard
from sightline.samples.sample import Text
from sightline.samples.store import Store
from sightline.shared_artifacts import SharedArtifacts
from sightline.train.processes import join
from sightline.train.world import ALONE, World, first_alone

if TYPE_CHECKING:
    from sightline.evaluate.run_facts import ScoreTable

NODE_VERSION = 2
"""Raised when a node would make something else from the same inputs: old results are then made again."""


@dataclass(kw_only=True)
class Node:
    """One line of graph.json."""

    name: str
    fingerprint: str
    inputs: list[str]
    artifact: str
    state: str
    """done, skipped, failed or stopped."""
    id: str = ""
    seconds: float = 0.0


@dataclass(kw_only=True)
class RunResult:
    """What a run did, for people and as JSON."""

    recipe: str
    out: Path
    nodes: list[Node]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Evaluation -> metric -> the model's value."""
    controls: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Evaluation -> control -> metric -> its value."""
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "recipe": self.recipe,
            "out": str(self.out),
            "report": str(self.out / "report.html"),
            "seconds": round(self.seconds, 1),
            "nodes": [asdict(node) for node in self.nodes],
            "scores": self.scores,
            "controls": self.controls,
        }

    def __str__(self) -> str:
        from sightline.run_report import summary

        return summary(self)


class Run:
    """State of one execution: the recipe, the folder, the ids of what was made so far. `shared`: where runs of one study keep what they have in common."""

    def __init__(self, recipe: Recipe, out: Path, world: World = ALONE, shared: SharedArtifacts | None = None) -> None:
        self.recipe, self.out, self.world, self.shared = recipe, out, world, shared
        self.events = Events(out / "events.jsonl") if world.rank == 0 else Unheard()
        self.nodes: list[Node] = []
        self.ids: dict[str, str] = {}
        self._stores: dict[str, Store] = {}
        self._tokenizers: dict[str, TextTokenizer] = {}

    def fingerprint(self, config: Any, inputs: Sequence[str]) -> str:
        """Known before the work is done."""
        return sha256_json([config, [self.ids[name] for name in inputs], NODE_VERSION])

    def node(
        self, name: str, config: Any, inputs: Sequence[str], folder: Path, work: Callable[[str], None], identify: Callable[[], str], together: bool = False
    ) -> None:
        """Do a node's work unless its artifact has the same fingerprint; `work(fingerprint)` writes the artifact, `identify()` gives the id of its content.

        Of several processes the first works and the others wait, unless they work `together`.
        """
        fingerprint = self.fingerprint(config, inputs)
        shared = self.shared if self.world.rank == 0 else None
        with shared.held(fingerprint) if shared else nullcontext():
            done = self.world.told(_is_made(folder, fingerprint, shared))
            node = Node(
                name=name, fingerprint=fingerprint, inputs=list(inputs), artifact=str(folder.relative_to(self.out)), state="skipped" if done else "done"
            )
            start = time.monotonic()
            if not done:
                self.events.write({"event": "start", "node": name})
                with self._failing(node):
                    if together or self.world.rank == 0:
                        work(fingerprint)
                    self.world.wait()
                node.seconds = time.monotonic() - start
                self.events.write({"event": "done", "node": name, "seconds": round(node.seconds, 2)})
            if shared:
                shared.adopt(name, fingerprint, folder, self.events.read)
            if self.shared:
                self.world.wait()
            node.id = self.ids[name] = identify()
        self._list(node)

    @contextmanager
    def _failing(self, node: Node) -> Any:
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            node.state = "stopped" if stopped else "failed"
            self._list(node)
            if stopped:
                self.events.write({"event": "stopped", "node": node.name, "by": f"{type(error).__name__} {error}".strip()})
                raise
            problems = [problem.record() for problem in error.problems] if isinstance(error, Refused) else [{"found": f"{type(error).__name__}: {error}"}]
            self.events.write({"event": "failed", "node": node.name, "problems": problems})
            raise

    def _list(self, node: Node) -> None:
        self.nodes.append(node)
        if self.world.rank == 0:
            write_json(self.out / "graph.json", [asdict(one) for one in self.nodes])

    # data

    def data(self, name: str) -> None:
        """Make, read, or take over a data set, then apply its operators; what it is made from comes first."""
        config = self.recipe.data[name]
        if f"data/{name}" in self.ids:
            return
        inputs = []
        if config.source is not None:
            self.data(config.source)
            inputs = [f"data/{config.source}"]
        made = self._made(name)
        if made is not None:
            inputs = [f"made/{name}"]
        inputs += [f"stages/{stage}" for stage in asked_stages(config)]
        folder = self.out / "data" / name
        paths = [(step.reader(), Path(step.path) if step.path is not None else made) for step in config.read]
        outside = [sha256_tree(path) for (_, path), step in zip(paths, config.read) if path is not None and step.path is not None and path.exists()]
        outside += [answerer_id(model) for model in asked_outside(config)]

        def work(fingerprint: str) -> None:
            source = self.store(config.source) if config.source is not None else None
            from sightline.run_stages import stage_answerers

            report = read_and_apply(
                paths,
                source,
                config.then,
                folder,
                on_problem=config.on_problem,
                seed=self.recipe.seed,
                config=fingerprint,
                answerers=stage_answerers(self, name),
            )
            self.events.write({"event": "data", "data": name, **report})

        said = [config.model_dump(mode="json", exclude={"make", "expect"}), outside, self.recipe.seed if config.then else 0]
        self.node(f"data/{name}", said, inputs, folder, work, lambda: Store.open(folder).id)

    def _made(self, name: str) -> Path | None:
        config = self.recipe.data[name].make
        if config is None:
            return None
        folder = self.out / "made" / name

        def work(fingerprint: str) -> None:
            make_layout(config, folder)
            Lineage(id=fingerprint, kind="made", config=fingerprint, seed=getattr(config, "seed", 0)).write(folder)

        self.node(f"made/{name}", config.model_dump(mode="json"), [], folder, work, lambda: Lineage.read(folder).id)
        return folder

    def store(self, name: str) -> Store:
        """The store of a data set that is done."""
        if name not in self._stores:
            self._stores[name] = Store.open(self.out / "data" / name)
        return self._stores[name]

    # tokenizers

    def tokenizer(self, model: str) -> TextTokenizer:
        """The tokenizer of a model: trained on the texts of its data, or read from where the recipe says."""
        if model not in self._tokenizers:
            config = self.recipe.all_models()[model]
            self._tokenizers[model] = self._tokenizer(model, config, config.tokenizer, tokenizer_folder(config), self.recipe.controls(model))
        return self._tokenizers[model]

    def side_tokenizer(self, model: str) -> TextTokenizer | None:
        """The tokenizer of a model's side texts, where it has one of its own."""
        name, config = f"{model}-side", self.recipe.all_models()[model]
        if name not in self._tokenizers and config.side_tokenizer is not None:
            folder = Path(config.side_tokenizer.path) if config.side_tokenizer.path else None
            self._tokenizers[name] = self._tokenizer(name, config, config.side_tokenizer, folder, config.side_controls())
        return self._tokenizers.get(name)

    def _tokenizer(self, name: str, config: ModelConfig, said: TokenizerConfig, given: Path | None, controls: tuple[str, ...]) -> TextTokenizer:
        chat = config.chat_format()
        end = None if name.endswith("-side") else chat.end
        if not said.train_on:
            assert given is not None, "refused before any work"
            self.ids[f"tokenizer/{name}"] = sha256_tree(given / "tokenizer.json")
            return TextTokenizer.load(given, end, controls, config.reads_padding)
        folder = self.out / "tokenizer" / name
        inputs = [f"data/{data}" for data in said.train_on]

        def work(fingerprint: str) -> None:
            texts = (text for data in said.train_on for text in _texts(self.store(data)))
            with artifact(folder) as temporary:
                tokenizer = train_tokenizer(texts, said.size, chat, controls)
                tokenizer.save(temporary)
                Lineage(id=tokenizer.hash, kind="tokenizer", config=fingerprint).write(temporary)

        asked = [said.model_dump(mode="json"), chat.model_dump(mode="json"), controls]
        self.node(f"tokenizer/{name}", asked, inputs, folder, work, lambda: Lineage.read(folder).id)
        return TextTokenizer.load(folder, end, controls)


def _is_made(folder: Path, fingerprint: str, shared: SharedArtifacts | None) -> bool:
    """Whether the artifact of a fingerprint is there: in its folder, or among those of other runs, and then the folder is a link to it."""
    if (folder / "lineage.json").is_file() and Lineage.read(folder).config == fingerprint:
        return True
    if shared is None:
        return False
    shared.clear(folder)
    return shared.fetch(fingerprint, folder)


def _texts(store: Store) -> list[str]:
    found = []
    for row in store.kept:
        for turn in store[int(row)].turns:
            for items in (turn.items, *turn.alternatives):
                found.append("".join(item.text for item in items if isinstance(item, Text)))
    return found


def run(recipe: str | Path, out: Path, overrides: Sequence[str] = (), until: str | None = None, engine: str = "local") -> RunResult:
    """Execute a recipe into `out`. Run again, it skips what is done; a changed node is done again with all that follows from it, nothing before.

    A recipe with `vary` or `select` is run as a study: run_variants.py. `until`: stop after this stage; `engine`: who computes the rows of a study, local or ray.
    Raises Refused before any work when the recipe is wrong, or when it needs something that is not there.
    """
    loaded = load(recipe, overrides)
    if loaded.recipe.vary or loaded.recipe.select is not None:
        from sightline.run_variants import run_study

        return run_study(recipe, overrides, out, engine, until)
    if engine != "local":
        raise Refused(
            Problem(code="run/one-row", place="engine", found=f"{engine} for one run", allowed="a recipe with `vary` or `select`", fix="leave it out")
        )
    return execute(loaded, out, until)[0]


def execute(loaded: Loaded[Recipe], out: Path, until: str | None = None, shared: SharedArtifacts | None = None) -> tuple[RunResult, Run]:
    """One run of a loaded recipe, and its state."""
    from sightline.run_report import write_run_report

    start = time.monotonic()
    world = join()
    if world.rank:
        silence()
    first_alone(world, lambda: refuse_early(loaded))
    out.mkdir(parents=True, exist_ok=True)
    for path in sweep(out) if world.rank == 0 else []:
        say(f"removed {path.name}, left by a stopped run")
    if shared is not None:
        first_alone(world, lambda: shared.join(out))
    state = Run(loaded.recipe, out, world, shared)
    if world.rank:
        scores = _carry_out(state, until)
    else:
        write_text(out / "recipe.yaml", recipe_source.dump(loaded.recipe))
        with _told(state, until):
            scores = _carry_out(state, until)
            write_run_report(state, scores)
            Lineage(
                id=sha256_json(state.ids),
                kind="run",
                config=sha256_json(loaded.recipe.model_dump(mode="json", exclude={"writers"})),
                inputs=[{"id": i, "kind": n} for n, i in state.ids.items()],
                seed=loaded.recipe.seed,
            ).write(out)
    world.wait()
    values = {
        name: {column: {key: value.value for key, value in one.metrics.items()} for column, one in table.columns().items()} for name, table in scores.items()
    }
    models = {name: columns.pop("model") for name, columns in values.items()}
    result = RunResult(recipe=loaded.recipe.name, out=out, nodes=state.nodes, scores=models, controls=values, seconds=time.monotonic() - start)
    return result, state


def _carry_out(state: Run, until: str | None) -> dict[str, ScoreTable]:
    """Every node but the report; the tables of the evaluations."""
    from sightline.run_soups import make_soup, refuse_overlap
    from sightline.run_stages import evaluate, train_stage

    recipe = state.recipe
    needed, awaited = _needed_data(recipe, until), recipe.awaited()
    for name in needed:
        if not awaited[name]:
            state.data(name)
    refuse_overlap(state)
    for number, stage in enumerate(recipe.stages):
        train_stage(state, number, stage)
        for name in needed:
            if awaited[name] and all(f"stages/{one}" in state.ids for one in awaited[name]):
                state.data(name)
        if stage.name == until:
            break
        for name in recipe.soups:
            if recipe.soup_after(name) == number:
                make_soup(state, name)
    scores = {}
    for name, one in recipe.evaluate.items():
        if until is None or {f"stages/{one.stage or recipe.stages[-1].name}", f"soups/{one.stage}"} & state.ids.keys():
            scores[name] = evaluate(state, name)
            state.events.write({"event": "scores", "evaluation": name, "metrics": {key: value.value for key, value in scores[name].scores.metrics.items()}})
    return scores


@contextmanager
def _told(state: Run, until: str | None) -> Iterator[None]:
    """Tells those who watch a run how it begins and ends: its events, its writers, the line of progress, and a page where it fails."""
    from sightline.live_page import tell_page
    from sightline.run_writers import Writers

    recipe, start = state.recipe, time.monotonic()
    writers = Writers(recipe.writers, state.out, recipe.model_dump(mode="json"), state.events, say)
    names = [stage.name for stage in recipe.stages]
    planned = names if until is None else names[: names.index(until) + 1]
    state.events.write(
        {"event": "run", "recipe": recipe.name, "version": __version__, "software": software(), "stages": planned, "processes": state.world.size}
    )
    ended = "failed"
    try:
        yield
        ended = "done"
    except (KeyboardInterrupt, SystemExit):
        ended = "stopped"
        raise
    finally:
        writers.close()
        state.events.write({"event": "ended", "state": ended, "seconds": round(time.monotonic() - start, 2)})
        if ended == "failed":
            tell_page(state.out, say)


def _needed_data(recipe: Recipe, until: str | None) -> list[str]:
    """Data that something uses, in the order of the recipe; with `until`, only what stages up to it and their tokenizers use."""
    if until is None:
        return list(recipe.data)
    names: list[str] = []
    for number, stage in enumerate(recipe.stages):
        names += [*stage.data, *recipe.all_models()[recipe.model_of(stage)].tokenizer.train_on]
        if stage.name == until:
            break
        for name, soup in recipe.soups.items():
            if recipe.soup_after(name) == number:
                names += [*recipe.soup_data(name), *(soup.pool.add if soup.pool else ())]
    return [name for name in recipe.data if name in names]
