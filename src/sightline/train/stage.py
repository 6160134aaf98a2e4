"""Stages as data, and what a stage trains: the freeze table, parameter groups."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from torch import nn

from sightline.data.mixing import MixConfig
from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Config
from sightline.model.tiler_table import TILER
from sightline.model.tiling import Tiler
from sightline.model.vlm import Model
from sightline.train.adapters import Lora, insert_lora
from sightline.train.noise import disturb
from sightline.train.objective_table import ObjectiveField
from sightline.train.quantized import rounded_numbers


class PartTraining(Config):
    """How one part is trained."""

    learning_rate: float = Field(gt=0)
    """Peak rate of this part."""
    last: int | None = Field(default=None, ge=1)
    """Only the last k blocks of the part; with `lora`, adapters in them only."""
    lora: Lora | None = None
    """Train adapters instead of the weights."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Rate of each block as a share of the next one's (Bao et al. 2022, section 3.2): d^(L+1-l) for block l of L, d^(L+1) for what stands before the blocks, 1 after them."""


class CheckpointPlan(Config):
    """When a running stage is saved, and how many checkpoints stay. None of it changes a number; SIGTERM and SIGINT save in any case."""

    seconds: float | None = Field(default=600.0, gt=0)
    """Save when so much time has passed since the last one; null = never by time."""
    steps: int | None = Field(default=None, ge=1)
    """Save after so many optimizer steps."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that stay. All go when the stage's model is saved."""


class ProbePlan(Config):
    """Rows of the stage's data that the model answers again and again while it trains. None of it changes a number of the training."""

    steps: int = Field(ge=1)
    """Ask with the first record of the loss after every so many optimizer steps, at the first step and at the last."""
    rows: int = Field(default=8, ge=1, le=256)
    """How many rows, drawn from all data of the stage in turn; the same ones every time."""
    max_tokens: int = Field(default=64, ge=1)
    """Longest answer."""


class StageConfig(Config):
    """One training stage. A part that is not named under `train` is frozen."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)
    """Its name; later stages start from it by this name."""
    model: str | None = None
    """Which of `models:` it trains; not needed with one model."""
    objective: ObjectiveField
    """What is learnt: a kind, or its name alone."""
    data: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Data by name and weight: times that each row is visited per epoch; with `mix`, what its share is multiplied by."""
    mix: MixConfig | None = None
    """Shares by the size of the sets, bounds on shares, and the length of an epoch in rows or tokens."""
    train: dict[str, PartTraining] = Field(min_length=1)
    """Trained parts by path; the longest matching path wins."""
    init: dict[str, str] = Field(default_factory=dict)
    """Where parts start: part path -> name of an earlier stage, a run folder or a model folder. Default: the previous stage of the same model."""
    batch: int = Field(ge=1)
    """Rows per optimizer step."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Rows per forward; default is the whole batch."""
    tokens: int | None = Field(default=None, ge=1)
    """Instead of micro_batch: most tokens per forward. Rows are dealt so that forwards are about equal, the largest first; bounds the memory, changes no result."""
    pack: bool | None = None
    """Samples share one bin without padding and without seeing each other; default: where that is faster. Changes no result."""
    recompute: bool = False
    """Activations inside blocks are computed again in backward instead of being kept: about a third more time, far less memory."""
    compile: bool = False
    """Blocks run through torch.compile: the first steps take minutes, later ones less."""
    tf32: bool = False
    """float32 products in tf32 on NVIDIA GPUs: 10 bits of mantissa."""
    chat: str | None = None
    """Chat format of this stage where it is not the model's, such as `caption`; it must end answers with the same token."""
    tiler: Annotated[Tiler, TILER] | None = None
    """How pictures are cut in this stage where it is not as in the model, such as at a smaller size."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Instead of steps: passes over the data."""
    warmup: float = Field(default=0.03, ge=0, le=1)
    """Share of the steps in which the rate rises linearly."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Shape of the rate after warm-up."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Last rate as a share of the peak."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of tensors with two or more dimensions."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW."""
    neftune: float | None = Field(default=None, gt=0)
    """Noise on the embedded text of training samples (Jain et al. 2023, section 2): uniform within alpha / sqrt(L * D) for a sample of L tokens of width D."""
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; weights and optimizer stay float32."""
    augment: Literal["none", "dihedral"] = "none"
    """dihedral: one of the eight orientations of the crops per visit; for texts without direction words."""
    cache_features: bool = True
    """Encode pictures once when the encoder is frozen and nothing is augmented."""
    every: int = Field(default=10, ge=1)
    """Steps between records of the loss."""
    probe: ProbePlan | None = None
    """Rows that the model answers while it trains, for people to read; null = none."""
    average: float | None = Field(default=None, gt=0, lt=1)
    """Decay of an exponential moving average of the weights, such as 0.999, which the stage saves in their place; null = the last weights."""
    sharding: Literal["fsdp", "none"] = "fsdp"
    """On several processes: the language model's weights, gradients and optimizer spread over them, or all of it on each. Changes results by rounding only."""
    checkpoints: CheckpointPlan = CheckpointPlan()
    """When the running stage is saved, so that a stopped run goes on where it was."""

    @model_validator(mode="after")
    def _lengths(self) -> StageConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs")
        if self.tokens is not None and self.micro_batch is not None:
            raise ValueError("give either tokens or micro_batch")
        if self.mix and (unknown := self.mix.unknown(self.data)):
            raise ValueError(
                f"mix names {', '.join(unknown)}; the stage has the data {', '.join(self.data)} and the groups {', '.join(self.mix.groups) or '(none)'}"
            )
        return self

    def total_steps(self, rows: int) -> int:
        """Optimizer steps for an epoch of `rows` visits."""
        return self.steps if self.steps is not None else max(1, math.ceil((self.epochs or 1.0) * rows / self.batch))

    def rate(self, step: int, total: int) -> float:
        """Factor of the peak rate at optimizer step 0..total-1: linear warm-up to 1 over `warmup * total` steps, then the schedule."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return (step + 1) / warm
        if self.schedule == "constant":
            return 1.0
        done = (step - warm) / max(1, total - warm)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One line of the table part / parameters / how trained / learning rate."""

    part: str
    parameters: int
    trained: int
    how: str
    learning_rate: float | None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A model made ready for a stage."""

    table: list[TableRow]
    groups: list[dict[str, Any]]
    """Parameter groups for AdamW with `peak`, the part's learning rate."""
    trained: dict[str, nn.Parameter]
    adapters: dict[str, Lora]
    digests: dict[str, str] | None = None
    """Of what a checkpoint leaves out, by part; None = not computed yet."""


def prepare(model: Model, stage: StageConfig) -> Prepared:
    """Freeze all, open what the stage trains, insert adapters. Refused lists every path, block count and adapter target that matches nothing."""
    parts = model.parts()
    problems = [
        Problem(
            code="train/no-such-part",
            place=f"stages.{stage.name}.train",
            found=path,
            allowed=", ".join([*parts, "encoders"]) + ", or a path inside one of them",
            fix=nearest(path, list(parts)) or "name a part of the model",
        )
        for path in stage.train
        if not any(_within(part, path) or (_within(path, part) and _inner(part, parts[part], path)) for part in parts)
    ]
    model.requires_grad_(False)
    model.eval()
    problems += disturb(model, stage.neftune, "write" in stage.objective.build().needs, f"stages.{stage.name}.neftune")  # pyright: ignore[reportAttributeAccessIssue]
    table, groups, trained, adapters = [], [], {}, {}
    for path, module in parts.items():
        matching = [key for key in stage.train if _within(path, key)]
        plan = stage.train[max(matching, key=len)] if matching else None
        chosen, how = _open(path, module, plan, stage.name, problems) if plan else ({}, "frozen")
        if plan and plan.lora:
            adapters[path] = plan.lora
        own = {f"{path}.{name}": parameter for name, parameter in chosen.items()}
        inside = _open_inside(path, module, stage, problems)
        for taken in inside.values():
            own = {name: parameter for name, parameter in own.items() if name not in taken}
        if plan or inside:
            _train_mode(module)
        total = sum(parameter.numel() for parameter in module.parameters()) + rounded_numbers(module)
        for key, said, tensors, how_ in ((path, plan, own, how), *((key, stage.train[key], tensors, "all of it") for key, tensors in inside.items())):
            trained.update(tensors)
            groups += _layered(module, tensors, said, stage.weight_decay) if said else []
            count = sum(parameter.numel() for parameter in tensors.values())
            table.append(
                TableRow(part=key, parameters=total if key == path else count, trained=count, how=how_, learning_rate=said.learning_rate if said else None)
            )
    if problems:
        raise Refused(problems)
    return Prepared(table=table, groups=groups, trained=trained, adapters=adapters)


def _within(path: str, outer: str) -> bool:
    """Whether a path is another one or lies inside it."""
    return path == outer or path.startswith(outer + ".")


def _inner(part: str, module: nn.Module, key: str) -> dict[str, nn.Parameter]:
    """Tensors of a part by full name that lie at or under a path inside it."""
    return {f"{part}.{name}": parameter for name, parameter in module.named_parameters() if _within(f"{part}.{name}", key)}


def _open_inside(path: str, module: nn.Module, stage: StageConfig, problems: list[Problem]) -> dict[str, dict[str, nn.Parameter]]:
    """Path inside a part -> the tensors that it trains by full name; each tensor goes with its longest path."""
    spare = {f"{path}.{name}" for name in getattr(module, "spare", ())}
    found: dict[str, dict[str, nn.Parameter]] = {}
    taken: set[str] = set()
    for key in sorted((key for key in stage.train if _within(key, path) and key != path), key=len, reverse=True):
        plan = stage.train[key]
        if plan.lora or plan.last is not None:
            problems.append(
                Problem(
                    code="train/whole-parts-only",
                    place=f"stages.{stage.name}.train.{key}",
                    found="lora" if plan.lora else f"last: {plan.last}",
                    allowed=f"a learning_rate: adapters and block counts belong to a whole part ({path})",
                    fix=f"say it of {path}",
                )
            )
        own = {name: parameter for name, parameter in _inner(path, module, key).items() if name not in taken and name not in spare}
        for parameter in own.values():
            parameter.requires_grad_(True)
        taken |= own.keys()
        if own:
            found[key] = own
    return found


def _open(path: str, module: nn.Module, plan: PartTraining, stage: str, problems: list[Problem]) -> tuple[dict[str, nn.Parameter], str]:
    """The parameters that a part trains, and how; what does not fit joins `problems`. What no consumer reads is not trained, nor is what is fixed for ever."""
    spare: set[str] = set(getattr(module, "spare", ()))
    if plan.layer_decay != 1.0 and not getattr(module, "blocks", []):
        place, found = f"stages.{stage}.train.{path}.layer_decay", f"{plan.layer_decay:g}"
        problems.append(Problem(code="train/no-blocks", place=place, found=found, allowed="nothing: this part has no blocks", fix="leave layer_decay out"))
    blocks = _last_blocks(f"stages.{stage}.train.{path}", module, plan.last, spare, problems) if plan.last is not None else None
    if plan.lora:
        problems += insert_lora(f"stages.{stage}.train.{path}", module, plan.lora, blocks)
        chosen = {name: p for name, p in module.named_parameters() if "lora_" in name}
        how = plan.lora.said() + (f" last {plan.last} blocks" if plan.last is not None else "")
    elif blocks is not None:
        wanted = {id(p) for block in blocks for p in block.parameters()}
        chosen = {name: p for name, p in module.named_parameters() if id(p) in wanted}
        how = f"last {plan.last} blocks"
    else:
        chosen = dict(module.named_parameters())
        how = "all"
    chosen = {name: parameter for name, parameter in chosen.items() if name not in spare}
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen, how


def _last_blocks(place: str, module: nn.Module, last: int, spare: set[str], problems: list[Problem]) -> list[nn.Module]:
    """The last blocks of a part that something reads; one that has fewer joins `problems`."""
    ids = {id(p) for name, p in module.named_parameters() if name not in spare}
    blocks = [block for block in getattr(module, "blocks", []) if any(id(p) in ids for p in block.parameters())]
    if last > len(blocks):
        allowed = f"1..{len(blocks)}" if blocks else "nothing: this part has no blocks"
        problems.append(Problem(code="train/too-few-blocks", place=f"{place}.last", found=str(last), allowed=allowed, fix="lower `last`"))
    return blocks[-last:]


def layer_scales(module: nn.Module, decay: float) -> dict[int, float]:
    """Parameter (by id) -> share of the part's rate. Blocks that nothing reads count as deep as they stand."""
    blocks = list(getattr(module, "blocks", []))
    depth = {id(p): number for number, block in enumerate(blocks, 1) for p in block.parameters()}
    found, reached = {}, 0
    for parameter in module.parameters():
        reached = max(reached, depth.get(id(parameter), 0))
        layer = depth.get(id(parameter), len(blocks) + 1 if reached else 0)
        found[id(parameter)] = decay ** (len(blocks) + 1 - layer)
    return found


def _layered(module: nn.Module, tensors: dict[str, nn.Parameter], said: PartTraining, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups of a part: one pair for each rate."""
    if said.layer_decay == 1.0 or not getattr(module, "blocks", []):
        return _groups(tensors, said.learning_rate, weight_decay)
    scales = layer_scales(module, said.layer_decay)
    shares = sorted({scales[id(p)] for p in tensors.values()})
    found = []
    for share in shares:
        own = {name: p for name, p in tensors.items() if scales[id(p)] == share}
        found += _groups(own, said.learning_rate * share, weight_decay)
    return found


def _groups(parameters: dict[str, nn.Parameter], rate: float, decay: float) -> list[dict[str, Any]]:
    flat = [p for _, p in sorted(parameters.items()) if p.dim() < 2]
    wide = [p for _, p in sorted(parameters.items()) if p.dim() >= 2]
    return [{"params": ps, "peak": rate, "lr": rate, "weight_decay": wd} for ps, wd in ((wide, decay), (flat, 0.0)) if ps]


def _train_mode(module: nn.Module) -> None:
    """Training mode where something is trained: a block whose tensors are all frozen keeps its running statistics and drops nothing."""
    module.train()
    for inner in module.modules():
        tensors = list(inner.parameters())
        if tensors and not any(tensor.requires_grad for tensor in tensors):
            inner.eval()


def table_text(rows: Iterable[TableRow]) -> str:
    """The freeze table for people."""
    lines = [f"{'part':<24}{'parameters':>14}{'trained':>14}  {'how':<24}learning rate"]
    for row in rows:
        rate = f"{row.learning_rate:g}" if row.learning_rate else "-"
        lines.append(f"{row.part:<24}{row.parameters:>14,}{row.trained:>14,}  {row.how:<24}{rate}")
    return "\n".join(lines)
