"""Low-rank adapters: which linear layers of a part take them, how they go in, and how they become weights again.

A target names linear layers by their path: inside the part (`model.model.layers.0.mlp.up_proj`), from its blocks (`blocks.0.mlp.up_proj`), or by the end of either (`up_proj`).
`*` stands for any text, dots included; `blocks.4-11.` for blocks 4 to 11, from 0; the path of a module from the part on, or of blocks, for all linear layers in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from sightline.errors import Problem, Refused, nearest
from sightline.kinds import Config
from sightline.train.quantized import absent_backend, dequantize, quantize

MERGED = {"float32": 1e-4, "bfloat16": 0.05}
"""Largest mean |difference| of outputs (log-probabilities; coordinates of unit vectors) between adapters beside the weights and in them, by compute type."""
_NUMBERED = re.compile(r"(^|\.)\d+(-\d+)?(\.|$)")
_RANGE = re.compile(r"blocks\.(\d+)-(\d+)(?:\.(.*))?")


class Lora(Config):
    """Low-rank adapters (Hu et al. 2021) through peft; merged into the weights at the end of the stage, kept beside them in `adapter/`."""

    rank: int = Field(default=16, ge=1)
    """r."""
    alpha: float = Field(default=32, gt=0)
    """Scale is alpha / rank."""
    rank_stabilized: bool = False
    """Scale is alpha / sqrt(rank) (Kalajdzievski 2023, theorem 3.2): adapters of high rank then learn as fast as those of low rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """On the adapter's input."""
    dora: bool = False
    """Direction and length of each output are adapted apart (Liu et al. 2024, equation 5): a trained magnitude for every row of a weight; slower."""
    targets: tuple[str, ...] = ()
    """Paths of linear layers inside the part: whole, their ends, with `*`, or with a range of blocks (`blocks.4-11.*.q_proj`); empty = every linear layer but the language-model head."""
    ranks: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Other ranks: target -> r. The longest target that names a layer counts."""
    alphas: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Other alphas, likewise."""
    quantize: Literal["nf4", "int8"] | None = None
    """The part's frozen linear layers are held in 4 bit (QLoRA, Dettmers et al. 2023, section 3) or 8 bit while the stage runs; saved in full precision, as they were rounded. nf4 needs bitsandbytes."""

    def twin(self) -> Lora:
        """The same scale at rank 2, for a toy: it has other blocks, and needs no rounding."""
        general = tuple(target for target in self.targets if not _NUMBERED.search(target))
        scale = self.alpha / (self.rank**0.5 if self.rank_stabilized else self.rank)
        alpha = scale * (2**0.5 if self.rank_stabilized else 2)
        return self.model_copy(update={"rank": 2, "alpha": alpha, "targets": general, "ranks": {}, "alphas": {}, "quantize": None})

    def said(self) -> str:
        """Its line in the freeze table."""
        scale = " / sqrt(r)" if self.rank_stabilized else ""
        return f"{'dora' if self.dora else 'lora'} r={self.rank} alpha={self.alpha:g}{scale}" + (f" on {self.quantize}" if self.quantize else "")


def scales(module: nn.Module, lora: Lora) -> dict[str, float]:
    """Path of every linear layer of a part that takes adapters -> the scale of its own: alpha / r, or alpha / sqrt(r)."""
    linear = _linear_paths(module)
    ranks, alphas = (_said(linear, said) for said in (lora.ranks, lora.alphas))
    return {name: float(alphas.get(name, lora.alpha)) / (ranks.get(name, lora.rank) ** (0.5 if lora.rank_stabilized else 1)) for name in linear}


def insert_lora(place: str, module: nn.Module, lora: Lora, blocks: Iterable[nn.Module] | None = None) -> list[Problem]:
    """Put peft LoRA layers into a part in place, only into these blocks where given; returns a problem for each target that no linear layer of the part has.

    With `quantize`, every linear layer of the part but the head is rounded; a problem where the package for it is not there.
    """
    linear = _linear_paths(module, blocks)
    targeted = {name: paths for name, paths in linear.items() if not lora.targets or any(_matches(pattern, paths) for pattern in lora.targets)}
    among = {"targets": linear, "ranks": targeted, "alphas": targeted}
    problems = [
        _unmatched(f"{place}.lora.{where}", pattern, layers)
        for where, layers in among.items()
        for pattern in getattr(lora, where)
        if not any(_matches(pattern, paths) for paths in layers.values())
    ]
    if not linear and not lora.targets:
        problems.append(_unmatched(f"{place}.lora.targets", "every linear layer", linear))
    problems += absent_backend(f"{place}.lora.quantize") if lora.quantize == "nf4" else []
    if targeted and not problems:
        frozen = [module.get_submodule(name) for name in _linear_paths(module)]
        _inject(module, lora, targeted)
        if lora.quantize:
            quantize(module, frozen, lora.quantize)
    return problems


def _linear_paths(module: nn.Module, blocks: Iterable[nn.Module] | None = None) -> dict[str, tuple[str, ...]]:
    """Linear layers that may be adapted -> their paths: from the part, and from its blocks. Not the language-model head, nor what no consumer reads."""
    head = getattr(getattr(module, "model", None), "get_output_embeddings", lambda: None)()
    spare = set(getattr(module, "spare", ()))
    numbers = {id(block): number for number, block in enumerate(getattr(module, "blocks", []))}
    within = None if blocks is None else {id(block) for block in blocks}
    homes = {name: inner for name, inner in module.named_modules() if id(inner) in numbers}
    found = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear) or layer is head or f"{name}.weight" in spare:
            continue
        home = next((home for home in homes if name == home or name.startswith(f"{home}.")), None)
        if within is not None and (home is None or id(homes[home]) not in within):
            continue
        found[name] = (name,) if home is None else (name, f"blocks.{numbers[id(homes[home])]}{name[len(home) :]}")
    return found


def _matches(pattern: str, paths: Sequence[str]) -> bool:
    """Whether a target names a layer with these paths."""
    if ranged := _RANGE.fullmatch(pattern):
        first, last, inner = int(ranged[1]), int(ranged[2]), ranged[3] or "*"
        counted = [path.split(".", 2) for path in paths if path.startswith("blocks.")]
        return any(first <= int(number) <= last and _fits(inner, "".join(rest)) for _, number, *rest in counted)
    return any(_fits(pattern, path) for path in paths)


def _fits(pattern: str, path: str) -> bool:
    return any(fnmatchcase(path, one) for one in (pattern, f"*.{pattern}", f"{pattern}.*"))


def _unmatched(place: str, found: str, linear: Mapping[str, Sequence[str]]) -> Problem:
    ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
    known = [*ends, *(path for paths in linear.values() for path in reversed(paths))]
    return Problem(
        code="train/lora-matches-nothing",
        place=place,
        found=found,
        allowed=", ".join(ends) or "nothing: this part has no linear layer",
        fix=nearest(found, known) or "name linear layers of this part",
    )


def _inject(module: nn.Module, lora: Lora, targets: Mapping[str, Sequence[str]]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    def other(said: Mapping[str, Any]) -> dict[str, Any]:
        return {f"^{re.escape(name)}": value for name, value in _said(targets, said).items()}

    # one expression and not a list, whose entries would also match paths that end alike
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=lora.dropout,
        use_dora=lora.dora,
        use_rslora=lora.rank_stabilized,
        rank_pattern=other(lora.ranks),
        alpha_pattern=other(lora.alphas),
        target_modules="|".join(map(re.escape, targets)),
    )
    inject_adapter_in_model(config, module)


def _said(layers: Mapping[str, Sequence[str]], said: Mapping[str, Any]) -> dict[str, Any]:
    """Path of a layer -> what the longest target that names it says."""
    longest = sorted(said, key=len, reverse=True)
    named = {name: next((said[pattern] for pattern in longest if _matches(pattern, paths)), None) for name, paths in layers.items()}
    return {name: value for name, value in named.items() if value is not None}


def merge_lora(module: nn.Module) -> dict[str, Tensor]:
    """Add the adapters to the weights (W += scale * BA in float32; rounded ones in full precision again), take them out, and return their tensors in peft's key layout."""
    from peft.tuners.lora import LoraLayer

    tensors = {name.replace(".default.", "."): p.detach().clone() for name, p in module.named_parameters() if "lora_" in name}
    dequantize(module)
    for name, layer in [(n, m) for n, m in module.named_modules() if isinstance(m, LoraLayer)]:
        layer.merge()
        owner = module.get_submodule(name.rsplit(".", 1)[0]) if "." in name else module
        setattr(owner, name.rsplit(".", 1)[-1], layer.get_base_layer())
    return tensors


@torch.no_grad()
def merge_checked(
    parts: Mapping[str, nn.Module], adapters: Iterable[str], outputs: Mapping[str, Callable[[], Tensor]], place: str
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float]]:
    """Merge the adapters of these parts; their tensors by part, and the mean |difference| of what the model says before and after, by compute type.

    `outputs`: compute type -> how the model is asked, the same each time. Refused where the merged model says something else.
    """
    before = {precision: ask().float() for precision, ask in outputs.items()}
    tensors = {path: merge_lora(parts[path]) for path in adapters}
    apart = {precision: (ask().float() - before[precision]).abs() for precision, ask in outputs.items()}
    means = {precision: own.mean().item() if own.numel() else 0.0 for precision, own in apart.items()}
    problems = [
        Problem(
            code="train/merge-differs",
            place=place,
            found=f"outputs of the merged weights differ by {means[precision]:.3g} in {precision} (mean; {own.max().item():.3g} at most)",
            allowed=f"at most {MERGED[precision]:g}: {', '.join(tensors)} with adapters beside the weights and in them say the same",
            fix="report this, with the recipe; without adapters nothing is merged",
        )
        for precision, own in apart.items()
        if not means[precision] <= MERGED[precision]
    ]
    if problems:
        raise Refused(problems)
    return tensors, means
