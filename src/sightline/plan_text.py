"""A plan for people: tables of one screen's width."""

from __future__ import annotations

from collections.abc import Sequence

from sightline.plan_serving import ServingPlan
from sightline.plan_soups import SoupPlan
from sightline.plan_stages import StageMemory, StagePlan
from sightline.plan_time import Hardware, hours, size
from sightline.train.stage import table_text

_BAR = 30


def stage_text(stage: StagePlan, machine: Hardware) -> str:
    """Everything of one stage."""
    time = stage.time
    lines = [f"\nstage {stage.name} ({stage.objective}, {stage.model}) on {machine.said}", table_text(stage.table), *_data(stage)]
    lines += _memory(stage.memory, machine) if stage.memory else []
    parts = ", ".join(
        f"{path} {share / time.flops:.0%}" for path, share in sorted(time.by_part.items(), key=lambda pair: -pair[1]) if share >= 0.005 * time.flops
    )
    lines.append(f"  work    {time.steps:,} steps, {time.rows:,} rows, {time.tokens / 1e6:,.3g} M tokens, {time.flops:.3g} FLOP ({parts})")
    lines.append(f"  time    {hours(time.hours)} at {machine.utilisation:.0%} of {machine.devices} x {machine.flops / 1e12:.4g} TFLOP/s")
    lines.append("  disk    " + ", ".join(f"{kind} {size(count)}" for kind, count in time.disk.items() if count))
    return "\n".join(lines)


def _data(stage: StagePlan) -> list[str]:
    lines = [f"  {'data':<22}{'rows':>11}  tokens a row, of them answers, encoder tokens"]
    lines += [
        f"  {one['name']:<22}{one['rows']:>11,}  {one['tokens']:,.0f}, {one['answers']:,.0f}, {one['patches']:,.0f}"
        + (f"  measured on {one['sampled']:,} rows" if one["how"] == "measured" else f"  {one['how']}")
        for one in stage.data
    ]
    highest = max(share for _, _, share in stage.histogram)
    return [*lines, *(f"  {low:>7}..{high:<7}{share:>7.1%} {'#' * round(_BAR * share / highest)}" for low, high, share in stage.histogram)]


def _memory(memory: StageMemory, machine: Hardware) -> list[str]:
    kinds = ", ".join(f"{kind} {size(count)}" for kind, count in memory.device.items() if count and kind != "total")
    spread = f"sharded over {machine.devices} (fsdp)" if memory.sharding == "fsdp" else "not sharded"
    lines = [
        f"  worst micro-batch on a device: {memory.rows} rows of up to {memory.tokens:,} tokens, {memory.patches:,} encoder tokens",
        f"  {'memory by part':<28}{'weights':>10}{'gradients':>11}{'optimizer':>11}{'activations':>13}",
    ]
    lines += [
        f"  {path:<28}"
        + "".join(
            f"{size(own[kind]) if own[kind] else '-':>{width}}" for kind, width in (("weights", 10), ("gradients", 11), ("optimizer", 11), ("activations", 13))
        )
        for path, own in memory.parts.items()
    ]
    verdict = "fits" if memory.fits else "does NOT fit"
    again = "fits" if memory.fits_recomputed else "does NOT fit"
    lines.append(f"  a device, {spread}: {kinds}")
    lines.append(f"  peak    {size(memory.device['total'])} of {size(machine.memory)}: {verdict}; micro_batch up to {memory.largest}")
    lines.append(f"          {size(memory.recomputed)} with activation checkpointing: {again}; micro_batch up to {memory.largest_recomputed}")
    return lines


def serving_text(name: str, plan: ServingPlan) -> str:
    """What serving a model takes."""
    lines = [
        f"\nserving {name} on {plan.hardware}: {size(plan.cache_per_token)} of cache a token, {size(plan.cache_per_token * plan.request)} for a request of {plan.request:,} tokens,"
        f" {size(plan.cache_per_token * plan.longest)} for the longest ({plan.longest:,})",
        f"  {'precision':<12}{'weights':>10}{'devices':>9}{'requests at a time':>20}",
    ]
    return "\n".join(lines + [f"  {row.precision:<12}{size(row.weights):>10}{row.devices or 'none':>9}{row.concurrent:>20,}" for row in plan.rows])


def soup_text(soup: SoupPlan, machine: Hardware) -> str:
    """A soup and the stages of its pool."""
    lines = [stage_text(stage, machine) for stage in soup.pool]
    lines += [f"\nsoup {soup.name} ({soup.method} of {len(soup.ingredients)}: {', '.join(soup.ingredients)})"]
    lines.append(f"  time    {hours(soup.hours)} to score up to {soup.scored} models on {soup.requests:,} rows")
    lines.append("  disk    " + ", ".join(f"{kind} {size(count)}" for kind, count in soup.disk.items()))
    return "\n".join(lines)


def summary(stages: Sequence[StagePlan], soups: Sequence[SoupPlan] = ()) -> str:
    """All stages and soups together."""
    every = [*stages, *(stage for soup in soups for stage in soup.pool)]
    disk = sum(sum(stage.time.disk.values()) for stage in every) + sum(sum(soup.disk.values()) for soup in soups)
    spent = sum(stage.time.hours for stage in every) + sum(soup.hours for soup in soups)
    return f"\nin all {hours(spent)}, {sum(stage.time.flops for stage in every):.3g} FLOP, {size(disk)} of disk"
