"""Stage and evaluation nodes of a run: where model, data, training and judging are wired together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sightline.data.mixing import mixture_text, plan_mixture, size_of
from sightline.data.mixture import Mixture, Share
from sightline.data.operators import AnswererOf
from sightline.evaluate.answering import LocalAnswerer, load_here
from sightline.evaluate.answers import AnswerFile, Remembering, answer_all
from sightline.evaluate.asking import shuffled_pictures, without_pictures
from sightline.evaluate.comparing import ModelAnswerer
from sightline.evaluate.golden import write_golden
from sightline.evaluate.prefixes import Counts
from sightline.evaluate.run_facts import ScoreTable
from sightline.lineage import Lineage, artifact, sha256_json, sha256_tree, write_json
from sightline.model import directory
from sightline.model.batch import to_device
from sightline.model.lines import conversations
from sightline.model.processor import Processor
from sightline.model.vlm import Model
from sightline.named_answerers import EndpointLimits, named_answerer, remembered
from sightline.progress import Progress, say
from sightline.recipe import EvaluateConfig
from sightline.run_probe import baselines
from sightline.run_watch import watch_of
from sightline.samples.exchange import Answer, Decoding, Request
from sightline.samples.sample import Sample
from sightline.train.adapters import merge_checked
from sightline.train.checkpoints import Checkpoints
from sightline.train.feature_cache import FeatureCache, build_cache
from sightline.train.feeding import Feed
from sightline.train.loop import Outcome, train
from sightline.train.objectives import captions
from sightline.train.processes import local_device
from sightline.train.sharding import become, spread, whole_tensors
from sightline.train.stage import Prepared, StageConfig, prepare, table_text
from sightline.train.switches import throw
from sightline.train.world import first_alone

if TYPE_CHECKING:
    from sightline.run import Run

GOLDEN = 4
"""Golden requests of each sort that a model directory carries."""
_NAMED = 6
"""Tensors that nothing reads which are named on the terminal; all are in the events."""
GOLDEN_TOKENS = 24
"""Longest golden answer."""


def stage_folder(run: Run, number: int, stage: StageConfig) -> Path:
    """RUN/stages/NN-NAME/model."""
    return run.out / "stages" / f"{number + 1:02d}-{stage.name}" / "model"


def _stage_index(run: Run, name: str) -> int:
    return next(number for number, stage in enumerate(run.recipe.stages) if stage.name == name)


def _origins(run: Run, number: int, stage: StageConfig) -> tuple[Path | None, dict[str, Path]]:
    """The model directory that a stage continues, and folders of parts that come from elsewhere."""
    name = run.recipe.model_of(stage)
    earlier = [k for k in range(number) if run.recipe.model_of(run.recipe.stages[k]) == name]
    base = stage_folder(run, earlier[-1], run.recipe.stages[earlier[-1]]) if earlier else None
    names = [other.name for other in run.recipe.stages[:number]]
    parts = {}
    for part, origin in stage.init.items():
        parts[part] = named_folder(run, origin) if origin in (*names, *run.recipe.soups) else directory.model_folder(Path(origin))
    return base, parts


def named_folder(run: Run, name: str) -> Path:
    """Model directory of a stage or a soup."""
    if name in run.recipe.soups:
        return run.out / "soups" / name / "model"
    number = _stage_index(run, name)
    return stage_folder(run, number, run.recipe.stages[number])


def stage_answerers(run: Run, data: str) -> AnswererOf:
    """Who answers the operators of a data set: models of finished stages, folders and endpoints, each loaded once, whose answers are kept in RUN/answers and never asked twice."""
    folders = {stage.name: stage_folder(run, number, stage) for number, stage in enumerate(run.recipe.stages) if f"stages/{stage.name}" in run.ids}

    def file_of(name: str, precision: str) -> Path:
        said = name if name in folders else sha256_json(name)[:12]
        return run.out / "answers" / f"{data}-{said}{'' if precision == 'float32' else f'-{precision}'}.jsonl"

    return remembered(file_of, folders)


def start_model(run: Run, number: int, stage: StageConfig) -> tuple[Model, Processor, Path | None]:
    """The model as the stage finds it: fresh parts seeded by the run, then weights of the previous stage and of `init`."""
    name = run.recipe.model_of(stage)
    tokenizer, side = run.tokenizer(name), run.side_tokenizer(name)
    config = run.recipe.config_of(stage).resolve(tokenizer.size, side.size if side else None, tokenizer.control, side.control if side else None)
    base, parts = _origins(run, number, stage)
    torch.manual_seed(int(np.random.SeedSequence([run.recipe.seed, number]).generate_state(1)[0]))
    model = Model(directory.without_checkpoints(config) if base else config)
    if base is not None:
        directory.fill(model, directory.read_tensors(base), str(base))
    for part, folder in parts.items():
        directory.fill(model, directory.tensors_of(folder), str(folder), part)
    if model.language_model is not None:
        model.language_model.prove_logits()
    return model.to(local_device()), Processor(config, tokenizer, side), base


def _origin_id(folder: Path) -> str:
    """Id of a model from elsewhere: its lineage's, or the content of a published checkpoint."""
    return Lineage.read(folder).id if (folder / "lineage.json").is_file() else sha256_tree(folder)


def train_stage(run: Run, number: int, stage: StageConfig) -> None:
    """One stage node: train, save a model directory with golden requests."""
    folder = stage_folder(run, number, stage)
    name = run.recipe.model_of(stage)
    run.tokenizer(name)
    inputs = [f"data/{data}" for data in stage.data] + [f"tokenizer/{name}"]
    inputs += [f"tokenizer/{name}-side"] if run.side_tokenizer(name) else []
    inputs += [
        f"stages/{run.recipe.stages[k].name}"
        for k in range(number)
        if run.recipe.model_of(run.recipe.stages[k]) == name or run.recipe.stages[k].name in stage.init.values()
    ]
    inputs += [f"soups/{soup}" for soup in dict.fromkeys(stage.init.values()) if soup in run.recipe.soups]
    ours = {other.name for other in run.recipe.stages} | run.recipe.soups.keys()
    outside = {part: _origin_id(directory.model_folder(Path(origin))) for part, origin in stage.init.items() if origin not in ours}
    # when a stage is saved, how it is spread, and what it is asked on the way, changes none of its numbers
    unsaid = {"checkpoints", "probe", "sharding"}
    said = [stage.model_dump(mode="json", exclude=unsaid), run.recipe.config_of(stage).model_dump(mode="json"), [run.recipe.seed, number], outside]

    def work(fingerprint: str) -> None:
        torch.set_num_threads(run.recipe.threads or torch.get_num_threads())
        model, processor, base = start_model(run, number, stage)
        prepared = prepare(model, stage)
        throw(model, stage)
        say(f"stage {stage.name}\n{table_text(prepared.table)}")
        run.events.write({"event": "table", "stage": stage.name, "table": [asdict(row) for row in prepared.table]})
        outcome, trained = _train(
            run, number, stage, model, processor, prepared, Checkpoints(folder.parent / "checkpoints", fingerprint, stage, run.events.write, say)
        )
        if outcome.unread:
            named, more = outcome.unread[:_NAMED], len(outcome.unread) - _NAMED
            say(
                "\n".join(
                    [*(f"  nothing reads {tensor}: it stayed as it was" for tensor in named), *([f"  nor {more} more (events.jsonl)"] if more > 0 else [])]
                )
            )
        run.events.write(
            {"event": "trained", "stage": stage.name, "steps": outcome.steps, "rows": outcome.rows, "seconds": outcome.seconds, "unread": outcome.unread}
        )
        if run.world.rank == 0:
            if trained:  # in shards: the model is put together again from what it started with
                del model
                model, processor, base = start_model(run, number, stage)
                prepared = prepare(model, stage)
                become(model, trained)
            _save(run, stage, model, processor, prepared, base, folder, fingerprint, [run.ids[i] for i in inputs])

    run.node(f"stages/{stage.name}", said, inputs, folder, work, lambda: Lineage.read(folder).id, together=True)
    for made in ("checkpoints", "faults") if run.world.rank == 0 else ():
        shutil.rmtree(folder.parent / made, ignore_errors=True)


def _train(
    run: Run, number: int, stage: StageConfig, model: Model, processor: Processor, prepared: Prepared, checkpoints: Checkpoints
) -> tuple[Outcome, dict[str, torch.Tensor]]:
    """What the stage did, and, where the model was spread over processes, all that it trained."""
    objective = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
    mixture = _mixture(run, stage, processor)
    objective.prepare((share.store[int(row)] for share in mixture.shares for row in share.store.kept), processor)
    seed = int(np.random.SeedSequence([run.recipe.seed, number, 1]).generate_state(1)[0])
    features = first_alone(run.world, lambda: _features(run, stage, model, processor, mixture))
    feed = Feed(mixture, processor, objective, stage, seed, features, run.world)
    run.events.write({"event": "training", "stage": stage.name, "steps": feed.steps})
    if feed.apart:
        say(f"stage {stage.name}: samples are not packed: {feed.apart}")
    own = checkpoints.folder.parent
    watch = watch_of(stage, model, processor, prepared, objective, mixture, run.events.write, seed=seed, folder=own, run=run.out, world=run.world)
    if stage.sharding == "fsdp":
        prepared = spread(model, prepared, objective.needs, stage.precision, run.world)
    outcome = train(model, prepared, objective, feed, stage, watch, f"stage {stage.name}", run.world, checkpoints=checkpoints, fault_folder=own / "faults")
    return outcome, whole_tensors(model, prepared)


def _mixture(run: Run, stage: StageConfig, processor: Processor) -> Mixture:
    """Rows of an epoch: each as often as its weight says, or as the shares of `mix` come to, which are shown and recorded."""
    stores = {name: run.store(name) for name in stage.data}
    if stage.mix is None:
        return Mixture([Share(name=name, store=stores[name], weight=weight) for name, weight in stage.data.items()])
    planned = plan_mixture(
        [size_of(name, store, stage.mix, lambda sample: len(processor.encode(sample).ids)) for name, store in stores.items()], stage.mix, stage.data
    )
    say(f"stage {stage.name}: data\n{mixture_text(planned)}")
    run.events.write({"event": "mixture", "stage": stage.name, "data": [asdict(one) for one in planned]})
    return Mixture([Share(name=one.name, store=stores[one.name], weight=one.times, cap=one.visits) for one in planned])


def _features(run: Run, stage: StageConfig, model: Model, processor: Processor, mixture: Mixture) -> FeatureCache | None:
    """Cached features where they change nothing: the encoder is frozen, nothing is augmented, the connector is what reads them, and some row shows a picture."""
    if not stage.cache_features or stage.augment != "none" or not model.encoders or model.connector is None or "write" not in stage.objective.build().needs:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    if model.config.prompted_encoders or any(path == "encoders" or path.startswith("encoders.") for path in stage.train):
        return None
    samples = [(share.store.path, share.store[int(row)]) for share in mixture.shares for row in share.store.kept]
    pictures = [(picture, folder, len(sample.pictures)) for folder, sample in samples for picture in sample.pictures]
    if not pictures:
        return None
    ids = directory.part_ids(model)
    weights = sha256_json([ids[encoder.path] for encoder in model.config.encoders])
    return build_cache(run.out / "features", model, weights, processor, pictures, stage.precision, f"features of {stage.name}")


def _save(
    run: Run, stage: StageConfig, model: Model, processor: Processor, prepared: Prepared, base: Path | None, folder: Path, fingerprint: str, inputs: list[str]
) -> None:
    model.eval()
    merged = _merge(run, stage, model, processor, prepared) if prepared.adapters else {}
    with artifact(folder) as temporary:
        for path, tensors in merged.items():
            (temporary / "adapter").mkdir(exist_ok=True)
            from safetensors.torch import save_file

            save_file(tensors, temporary / "adapter" / f"{path}.safetensors")
            write_json(temporary / "adapter" / f"{path}.json", prepared.adapters[path].model_dump(mode="json"))
        weights = directory.save(temporary, model, processor, base)
        _write_golden(run, stage, temporary, model, processor, weights)
        rows = sha256_json(sorted(run.ids[f"data/{name}"] for name in stage.data))
        Lineage(
            id=sha256_json([fingerprint, weights]),
            kind="model",
            config=fingerprint,
            inputs=[{"id": i, "kind": "input"} for i in inputs],
            rows=rows,
            seed=run.recipe.seed,
        ).write(temporary)


def _merge(run: Run, stage: StageConfig, model: Model, processor: Processor, prepared: Prepared) -> dict[str, dict[str, torch.Tensor]]:
    """Adapters become weights; their tensors by part. Refused where the model then says something else about the first rows of the stage."""
    store = run.store(next(iter(stage.data)))
    objective = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
    device = next(model.parameters()).device
    encoded = [objective.encode(store[int(row)], processor, np.random.default_rng(0)) for row in store.kept[:GOLDEN]]
    batch = to_device(processor.collate([[one] for one in encoded]), device)

    def said(precision: str) -> torch.Tensor:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            output = model(batch, ask="write" if "write" in objective.needs else "embed")
        told = (output.logp, output.pictures, output.texts)
        return torch.cat([one.float().flatten() for one in told if one is not None])

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # float32 is compared here; the next stage says what it wants
    outputs = {precision: partial(said, precision) for precision in dict.fromkeys(("float32", stage.precision))}
    tensors, apart = merge_checked(model.parts(), prepared.adapters, outputs, f"stages.{stage.name}")
    quantized = {path: lora.quantize for path, lora in prepared.adapters.items() if lora.quantize}
    run.events.write({"event": "merged", "stage": stage.name, "parts": sorted(tensors), "rows": len(encoded), "differences": apart, "quantized": quantized})
    for path, kind in quantized.items():
        say(f"stage {stage.name}: {path} is saved in full precision: its weights as {kind} rounded them, and the adapters")
    return tensors


def _write_golden(run: Run, stage: StageConfig, folder: Path, model: Model, processor: Processor, weights: str) -> None:
    """Golden requests from the first rows that the stage trained on: their first question, and picture and caption for a dual tower."""
    name = next(iter(stage.data))
    store = run.store(name)
    rows = [store[int(row)] for row in store.kept[:GOLDEN]]
    told: list[tuple[Sample, Answer]] = []
    pairs: list[tuple[Sample, str]] = []
    for sample in rows:
        turns = conversations(sample)[0]
        if "write" in model.abilities and turns and turns[-1].role == "assistant" and (model.encoders or not sample.pictures):
            prompt = replace(sample, id=f"{name}:{sample.id}", turns=turns[:-1], annotations=(), attributes={})
            [answer] = LocalAnswerer(model, processor, weights).answer([Request(sample=prompt, decoding=Decoding(max_tokens=GOLDEN_TOKENS))])
            told.append((prompt, answer))
        if "embed" in model.abilities and len(sample.pictures) == 1:
            pairs.append((sample, captions(sample)[0] if captions(sample) else name))
    write_golden(folder, model, processor, told, pairs)


def evaluate(run: Run, name: str) -> ScoreTable:
    """One evaluation node: answers of the model and of its controls, scores, and the floors beside them. Answers are kept by key and never asked twice."""
    config = run.recipe.evaluate[name]
    asked = config.stage or run.recipe.stages[-1].name
    folder = run.out / "evaluate" / name
    data = getattr(config.benchmark, "data", None)  # a benchmark without data reads files of its own
    inputs = [f"{'soups' if asked in run.recipe.soups else 'stages'}/{asked}", *(f"data/{name}" for name in (data, config.thumbnails) if name is not None)]
    samples = [run.store(data)[int(row)] for row in run.store(data).kept] if data is not None else []
    benchmark: Any = config.benchmark.build(samples)  # pyright: ignore[reportAttributeAccessIssue]
    table: list[ScoreTable] = []

    def score() -> ScoreTable:
        requests = list(benchmark.requests())
        sets, writes = {"model": requests}, "write" in benchmark.needs
        if config.controls:
            sets["shuffled pictures"] = shuffled_pictures(requests, run.recipe.seed)
            if writes:  # without its picture a vector is of nothing
                sets["no picture"] = without_pictures(requests)
        file = AnswerFile(folder / "answers.jsonl")
        model, processor, weights = load_here(named_folder(run, asked))
        answerer = (LocalAnswerer if writes else ModelAnswerer)(model, processor, weights, config.precision)
        judge = judge_of(config, folder)
        scores, known = {}, 0
        for label, questions in sets.items():
            progress = Progress(f"evaluate {name}: {label}", len(questions), "answers")
            keys = [answerer.key(request) for request in questions]
            known += len(keys) - sum(file.found(key) is None for key in dict.fromkeys(keys))
            scores[label] = benchmark.score(answer_all(questions, answerer, keys, file, progress), judge)
            progress.close()
        if isinstance(answerer, LocalAnswerer):
            sizes = {label: len(questions) for label, questions in sets.items()}
            run.events.write({"event": "answered", "evaluation": name, "requests": sizes, "known": known, **asdict(answerer.counts)})
            say(f"evaluate {name}: {answered_text(sizes, known, answerer.counts)}")
        floors = baselines(benchmark, samples, run.store(config.thumbnails) if config.thumbnails else None, run.recipe.seed)
        return ScoreTable(name=name, scores=scores.pop("model"), controls={**scores, **floors}, headline=benchmark.headline)

    def work(fingerprint: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        made = score()
        table.append(made)
        write_json(folder / "scores.json", {"model": made.scores.record(), "controls": {key: value.record() for key, value in made.controls.items()}})
        Lineage(
            id=sha256_json([fingerprint, json.loads((folder / "scores.json").read_text(encoding="utf-8"))]),
            kind="scores",
            config=fingerprint,
            seed=run.recipe.seed,
        ).write(folder)

    paths = [getattr(config.benchmark, name, None) for name in ("classes", "path", "pictures", "judge_prompt")]
    outside = [sha256_tree(Path(path)) for path in paths if path is not None]
    run.node(f"evaluate/{name}", [config.model_dump(mode="json"), outside, run.recipe.seed], inputs, folder, work, lambda: Lineage.read(folder).id)
    soup = named_folder(run, asked) / "soup.json"
    stamp = json.loads(soup.read_text(encoding="utf-8"))["stamp"] if soup.is_file() else ""
    return replace(table[0] if table else _read_table(folder, name, benchmark), note=stamp)


def answered_text(requests: Mapping[str, int], known: int, counts: Counts) -> str:
    """What was asked of whom, and what answering it took: nothing is left out without being counted."""
    asked = ", ".join(f"{count:,} ({label})" for label, count in requests.items())
    return f"requests: {asked}; {known:,} of them were answered before, or are the same as another; {counts.text()}"


def judge_of(config: EvaluateConfig, folder: Path) -> Remembering | None:
    """Who judges the answers of an evaluation; what it says is kept in verdicts.jsonl."""
    if config.judge is None:
        return None
    limits = EndpointLimits(key_file=Path(config.judge_key_file) if config.judge_key_file else None)
    return named_answerer(config.judge, answers=folder / "verdicts.jsonl", limits=limits)


def _read_table(folder: Path, name: str, benchmark: Any) -> ScoreTable:
    from sightline.evaluate.asking import scores_of

    record = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return ScoreTable(
        name=name,
        scores=scores_of(record["model"]),
        controls={key: scores_of(value) for key, value in record["controls"].items()},
        headline=benchmark.headline,
    )
