"""Writers: the numbers of a run, handed on to TensorBoard, W&B or trackio as they come. A recipe names them under `writers`; they change nothing that a run makes.

A writer follows the events. What it raises, a network that is down say, turns it off and is told once; the run goes on, and events.jsonl has everything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from sightline.errors import Problem, Refused
from sightline.kinds import Config, Family
from sightline.recipe_source import Loaded
from sightline.run_events import Event, Events
from sightline.run_history import number_of

WRITER = Family("writer")
_PLAIN = ("loss", "norm", "rate", "samples_per_second", "tokens_per_second", "answers_per_second", "mfu", "memory_gib")
"""Numbers of a step that stand by themselves."""


class Writer(Protocol):
    """Where numbers go. Both methods may raise whatever they meet."""

    def write(self, stage: str, step: int, overall: int, numbers: Mapping[str, float]) -> None:
        """Numbers by name, measured at `step` of `stage`, or, where `stage` is empty, of the whole run, such as scores. `overall`: the steps of all stages before counted in."""
        ...

    def close(self) -> None:
        """Nothing more will come."""
        ...


class WriterConfig(Config):
    """Base of the kinds of writers."""

    needs: ClassVar[str]
    """The package that it hands its numbers to; also the name of the extra that installs it."""

    @property
    def name(self) -> str:
        """Its kind."""
        return self.kind  # pyright: ignore[reportAttributeAccessIssue]

    def build(self, out: Path, settings: Mapping[str, Any]) -> Writer:
        """The writer of the run in folder `out`. `settings`: the resolved recipe as JSON."""
        raise NotImplementedError


@WRITER.add
class TensorBoard(WriterConfig):
    """Event files under RUN/tensorboard, one folder for each stage: `tensorboard --logdir RUN/tensorboard`."""

    kind: Literal["tensorboard"] = "tensorboard"
    needs: ClassVar[str] = "tensorboard"

    def build(self, out: Path, settings: Mapping[str, Any]) -> Writer:
        """Event files that begin with the first number."""
        return _TensorBoardWriter(out / "tensorboard")


class _TensorBoardWriter:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stages: dict[str, Any] = {}

    def write(self, stage: str, step: int, overall: int, numbers: Mapping[str, float]) -> None:
        if stage not in self._stages:
            from torch.utils.tensorboard import SummaryWriter

            # a stage that is resumed or trained anew: TensorBoard drops what earlier files say of this step and later ones
            self._stages[stage] = SummaryWriter(str(self.folder / (stage or "run")), purge_step=step)
        for name, value in numbers.items():
            self._stages[stage].add_scalar(name, value, step)

    def close(self) -> None:
        for writer in self._stages.values():
            writer.close()


@WRITER.add
class Wandb(WriterConfig):
    """A run on Weights & Biases, or a file to be uploaded later. Stages share its axis of steps, each begins where the one before it ends."""

    kind: Literal["wandb"] = "wandb"
    needs: ClassVar[str] = "wandb"
    project: str = "sightline"
    """Project that the run belongs to."""
    entity: str | None = None
    """User or team; null = the default of the account."""
    mode: Literal["online", "offline"] = "online"
    """offline: keep everything under RUN/wandb, for `wandb sync`."""

    def build(self, out: Path, settings: Mapping[str, Any]) -> Writer:
        """Begins the run: each `sightline run` is one, those of the same folder are one group."""
        module: Any = import_module("wandb")
        module.init(
            project=self.project, entity=self.entity, name=settings["name"], group=out.resolve().name, dir=str(out), mode=self.mode, config=dict(settings)
        )
        return _LogWriter(module)


@WRITER.add
class Trackio(WriterConfig):
    """A run in trackio's local store: `trackio show`. Stages share its axis of steps, each begins where the one before it ends."""

    kind: Literal["trackio"] = "trackio"
    needs: ClassVar[str] = "trackio"
    project: str = "sightline"
    """Project that the run belongs to."""
    space: str | None = Field(default=None, min_length=1)
    """A Space on the Hugging Face hub to log to; null = this machine."""

    def build(self, out: Path, settings: Mapping[str, Any]) -> Writer:
        """Begins the run: each `sightline run` is one, those of the same folder are one group."""
        module: Any = import_module("trackio")
        # no name: one that the project has already would not be a run of its own
        module.init(project=self.project, group=out.resolve().name, space_id=self.space, config=dict(settings))
        return _LogWriter(module)


class _LogWriter:
    """For modules with `log(numbers, step=)` and `finish()`, whose steps never go back."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def write(self, stage: str, step: int, overall: int, numbers: Mapping[str, float]) -> None:
        self.module.log({f"{stage}/{name}" if stage else name: value for name, value in numbers.items()}, step=overall)

    def close(self) -> None:
        self.module.finish()


class Writers:
    """The writers of a run, which follow its events from when they are made until `close`.

    Raises Refused where one cannot begin: nothing has been done yet.
    """

    def __init__(self, configs: Sequence[WriterConfig], out: Path, settings: Mapping[str, Any], events: Events, say: Callable[[str], None]) -> None:
        self.events, self.say = events, say
        self._lengths: dict[str, int] = dict.fromkeys((stage["name"] for stage in settings.get("stages", ())), 0)
        """Steps of each stage, in the order of the recipe, as far as they are known."""
        self._overall = 0
        for event in events.read():
            self._learn(event)
        self._written = {config.name: 0 for config in configs}
        self._missed = dict(self._written)
        self._on: dict[str, Writer] = {}
        for config in configs:
            try:
                self._on[config.name] = config.build(out, settings)
            except Exception as error:  # whatever a library of others raises: no account, no network
                self.close()
                found = f"{config.name} could not begin: {type(error).__name__}: {error}"
                raise Refused(
                    Problem(code="run/writer", place="writers", found=found, allowed="a writer that begins", fix="log in, or do without: writers=[]")
                ) from error
        events.followers.append(self)

    def __call__(self, event: Event) -> None:
        """Hand the numbers of one event to every writer."""
        self._learn(event)
        stage, step = event.get("stage", ""), event.get("step")
        numbers = dict(numbers_of(event))
        if not numbers:
            return
        if step is not None:
            self._overall = self._before(stage) + step
        for name in self._written:
            if name not in self._on:
                self._missed[name] += 1
                continue
            try:
                self._on[name].write(stage, self._overall if step is None else step, self._overall, numbers)
                self._written[name] += 1
            except Exception as error:  # whatever a library of others raises must not end a training
                self._missed[name] += 1
                self._turn_off(name, error)

    def close(self) -> None:
        """End every writer, and record what each was handed."""
        for name, writer in list(self._on.items()):
            try:
                writer.close()
            except Exception as error:  # the run is over: what the library did not hand on is in events.jsonl
                self._turn_off(name, error)
        for name, written in self._written.items():
            missed = self._missed[name]
            self.events.write({"event": "writer-ended", "writer": name, "written": written, "missed": missed})
            if missed:
                self.say(f"writer {name}: {written} events written, {missed} missed; events.jsonl has all of them")
        self._on = {}

    def _turn_off(self, name: str, error: Exception) -> None:
        del self._on[name]
        why = f"{type(error).__name__}: {error}"
        self.say(f"writer {name} is turned off, the run goes on: {why}")
        self.events.write({"event": "writer-failed", "writer": name, "written": self._written[name], "why": why})

    def _learn(self, event: Event) -> None:
        """How long a stage is."""
        if event["event"] in ("training", "trained") and event["stage"] in self._lengths:
            self._lengths[event["stage"]] = event["steps"]

    def _before(self, stage: str) -> int:
        """Steps of the stages before one."""
        names = list(self._lengths)
        return sum(self._lengths[name] for name in names[: names.index(stage)]) if stage in names else 0


def numbers_of(event: Event) -> Iterator[tuple[str, float]]:
    """The finite numbers of a step, of probe answers or of scores, by name: `loss`, `loss/TERM`, `source/NAME`, `kind/NAME`, `norm/PART`, `rate/PART`, `score/EVALUATION/METRIC`."""
    if event["event"] == "scores":
        yield from _finite(f"score/{event['evaluation']}", event["metrics"])
    elif event["event"] == "probe":
        yield from _finite("", {"repetition": event.get("repetition")})
    elif event["event"] == "step":
        yield from _finite("", {name: event.get(name) for name in _PLAIN})
        for name, group in (("terms", "loss"), ("norms", "norm"), ("rates", "rate")):
            yield from _finite(group, event.get(name) or {})
        for name, group in (("by_source", "source"), ("by_kind", "kind")):
            yield from _finite(group, {key: mean for key, (mean, count) in (event.get(name) or {}).items() if count})


def _finite(group: str, said: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in said.items():
        if (number := number_of(value)) is not None:
            yield f"{group}/{name}" if group else name, number


def absent_writers(loaded: Loaded[Any]) -> Iterator[Problem]:
    """Writers whose package is not installed."""
    for number, config in enumerate(loaded.recipe.writers):
        if not _installed(config.needs):
            yield Problem(
                code="run/no-writer",
                place=loaded.place(f"writers.{number}"),
                found=f"{config.name}: the package {config.needs} is not installed",
                allowed=f"an installed {config.needs}, the extra [{config.needs}] of sightline",
                fix=f"{sys.executable} -m pip install {config.needs}",
            )


def _installed(name: str) -> bool:
    """Whether a package can be imported; a mere folder of that name, such as one that an offline run left behind, is none."""
    if name in sys.modules:
        return True
    spec = find_spec(name)
    return spec is not None and spec.origin is not None
