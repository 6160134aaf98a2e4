"""What a recipe needs of this machine, and of its own parts together: found before any work, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sightline.data.captioning import Asking, is_outside
from sightline.errors import Problem, Refused, nearest
from sightline.model import composite_weights, directory, hub_layout
from sightline.model.assembly import ModelConfig
from sightline.named_answerers import unknown_answerer
from sightline.recipe import Recipe
from sightline.recipe_source import Loaded
from sightline.run_writers import absent_writers
from sightline.soup_recipe import stages_under
from sightline.train.objectives import Contrastive
from sightline.train.quantized import absent_backend
from sightline.train.stage import StageConfig


def refuse_early(loaded: Loaded[Recipe]) -> None:
    """Refused with everything that would stop a run of this recipe later: absent data, weights and tokenizers, parts that do not exist, models that cannot do what is asked."""
    recipe = loaded.recipe
    found = [*absent_data(loaded), *absent_weights(loaded), *_absent_tokenizers(loaded), *absent_writers(loaded)]
    for stage in recipe.stages:
        found += [*_parts(loaded, stage), *_origins(loaded, stage), *_objective(loaded, stage), *_rounding(loaded, stage)]
    found += [*_answerers(loaded), *_soups(loaded), *_evaluations(loaded)]
    if found:
        raise Refused(replace(problem, severity="refuse") for problem in found)


def absent_data(loaded: Loaded[Recipe]) -> Iterator[Problem]:
    """Data to read that is not there, as warnings."""
    for name, one in loaded.recipe.data.items():
        for number, step in enumerate(one.read):
            if step.path is not None and not Path(step.path).exists():
                yield Problem(
                    code="run/absent-data",
                    place=loaded.place(f"data.{name}.read.{number}.path"),
                    found=f"data.{name}: {step.path} is not there",
                    allowed="an existing file or folder",
                    fix=f"data.{name}.read.path=PATH" if len(one.read) == 1 else f"data.{name}.read.{number}.path=PATH",
                    severity="warn",
                )


def absent_weights(loaded: Loaded[Recipe]) -> Iterator[Problem]:
    """Checkpoints that are not on this machine, as warnings: a model can be planned without them, not trained."""
    for name, config in loaded.recipe.all_models().items():
        parts: list[tuple[str, object]] = [(f"encoders.{number}", encoder) for number, encoder in enumerate(config.encoders)]
        parts += [(part, getattr(config, part)) for part in ("connector", "language_model", "text_encoder")]
        parts += [(f"heads.{name}", head) for name, head in config.heads.named().items()]
        parts += [(f"heads.{name}.encoder", getattr(head, "encoder", None)) for name, head in config.heads.named().items()]
        for part, said in parts:
            checkpoint = getattr(said, "checkpoint", None)
            if checkpoint is not None and composite_weights.find(checkpoint) is None:
                yield Problem(
                    code="run/absent-weights",
                    place=loaded.place(f"{_model_path(loaded.recipe, name)}.{part}.checkpoint"),
                    found=f"{checkpoint} is not on this machine",
                    allowed="a local folder or a cached hub name",
                    fix=f"download {checkpoint}",
                    severity="warn",
                )


def tokenizer_folder(config: ModelConfig) -> Path | None:
    """Where a tokenizer that is not trained by the run lies: its own path, or the language model's checkpoint; None = nowhere on this machine."""
    checkpoint = config.language_model.checkpoint if config.language_model else None
    folder = Path(config.tokenizer.path) if config.tokenizer.path else hub_layout.find(checkpoint) if checkpoint else None
    return folder if folder is not None and (folder / "tokenizer.json").is_file() else None


def _model_path(recipe: Recipe, name: str) -> str:
    return "model" if name == "model" and recipe.model else f"models.{name}"


def _absent_tokenizers(loaded: Loaded[Recipe]) -> Iterator[Problem]:
    for name, config in loaded.recipe.all_models().items():
        awaited = config.language_model is not None and config.language_model.checkpoint is not None and not config.tokenizer.path
        if not config.tokenizer.train_on and tokenizer_folder(config) is None and not (awaited and any(absent_weights(loaded))):
            path = _model_path(loaded.recipe, name)
            yield Problem(
                code="run/no-tokenizer",
                place=loaded.place(f"{path}.tokenizer"),
                found=f"no tokenizer.json in {config.tokenizer.path}"
                if config.tokenizer.path
                else f"{path}: no train_on, no path, no checkpoint with a tokenizer",
                allowed="one of them",
                fix=f"set {path}.tokenizer.train_on to names of data, or {path}.tokenizer.path",
            )
        side = config.side_tokenizer
        if side is not None and not side.train_on and not (side.path and (Path(side.path) / "tokenizer.json").is_file()):
            path = f"{_model_path(loaded.recipe, name)}.side_tokenizer"
            yield Problem(
                code="run/no-tokenizer",
                place=loaded.place(path),
                found=f"no tokenizer.json in {side.path}" if side.path else f"{path}: no train_on, no path",
                allowed="one of them",
                fix=f"set {path}.train_on to names of data, or {path}.path",
            )


def _parts(loaded: Loaded[Recipe], stage: StageConfig) -> Iterator[Problem]:
    """Paths under `train` and `init` that name no part of the stage's model."""
    known = part_paths(loaded.recipe.all_models()[loaded.recipe.model_of(stage)])
    for field in ("train", "init"):
        for path in getattr(stage, field):
            if not any(part == path or part.startswith(path + ".") or path.startswith(part + ".") for part in known):
                yield Problem(
                    code="run/no-such-part",
                    place=loaded.place(f"stages.{loaded.recipe.stages.index(stage)}.{field}.{path}"),
                    found=f"stages.{stage.name}.{field}: {path}",
                    allowed=", ".join([*known, *(["encoders"] if "encoders" in " ".join(known) else [])]),
                    fix=nearest(path, known) or "name a part of the model",
                )


def part_paths(config: ModelConfig) -> list[str]:
    """Paths of the parts that a model of this Config has."""
    connectors = getattr(config.connector, "connectors", None)
    joined = [f"connector.{name}" for name in connectors] if connectors else ["connector"] if config.connector else []
    own_text = config.text_encoder is not None and config.text_part is None
    there = {
        "combine": config.combine is not None,
        "layout": bool(config.layout.vectors),
        "prompts": config.prompts is not None,
        "regions": config.regions is not None,
        "fusion": config.fusion.kind != "sequence",
        "language_model": config.language_model is not None,
        "text_encoder": own_text,
    }
    heads = [f"heads.{name}" for name in config.heads.named()]
    return [*(encoder.path for encoder in config.encoders), *joined, *(path for path, is_there in there.items() if is_there), *heads]


def _origins(loaded: Loaded[Recipe], stage: StageConfig) -> Iterator[Problem]:
    """Origins under `init` that are neither an earlier stage nor a folder with a model."""
    number = loaded.recipe.stages.index(stage)
    earlier = [other.name for other in loaded.recipe.stages[:number]]
    for part, origin in stage.init.items():
        if origin in earlier or origin in loaded.recipe.soups:
            continue
        try:
            directory.model_folder(Path(origin))
        except Refused:
            later = any(origin == other.name for other in loaded.recipe.stages)
            yield Problem(
                code="run/no-origin",
                place=loaded.place(f"stages.{number}.init.{part}"),
                found=f"stages.{stage.name}.init.{part}: {origin}" + (" does not come before it" if later else ""),
                allowed=", ".join(["an earlier stage" + (f" ({', '.join(earlier)})" if earlier else ""), "the folder of a run or of a model"]),
                fix=nearest(origin, earlier) or "name a stage or a folder",
            )


def _objective(loaded: Loaded[Recipe], stage: StageConfig) -> Iterator[Problem]:
    """Objectives that the stage's model cannot learn, or that cannot be cut into micro-batches."""
    config = loaded.recipe.all_models()[loaded.recipe.model_of(stage)]
    objective = stage.objective.build()  # pyright: ignore[reportAttributeAccessIssue]
    path = f"stages.{loaded.recipe.stages.index(stage)}"
    lacking = [need for need in objective.needs if need not in config.abilities]
    if lacking:
        yield Problem(
            code="run/cannot",
            place=loaded.place(f"{path}.objective"),
            found=f"stages.{stage.name}: the model can {', '.join(config.abilities) or 'nothing'}",
            allowed=f"a model that can {', '.join(lacking)}",
            fix="add the part that gives it: language_model (write), text_encoder (embed), heads.mask (mask)",
        )
    if not objective.splits and stage.micro_batch not in (None, stage.batch):
        yield Problem(
            code="run/cannot-split",
            place=loaded.place(f"{path}.micro_batch"),
            found=f"stages.{stage.name}.micro_batch: {stage.micro_batch}",
            allowed=f"{stage.batch}: this loss compares all rows of the batch",
            fix="remove micro_batch",
        )
    if isinstance(stage.objective, Contrastive) and stage.objective.tags and config.text_encoder and not getattr(config.text_encoder, "tags", False):
        yield Problem(
            code="run/no-tags",
            place=loaded.place(f"{path}.objective.tags"),
            found=f"stages.{stage.name}: a tag term, and a text_encoder without tags",
            allowed="text_encoder.tags: true",
            fix=f"{_model_path(loaded.recipe, loaded.recipe.model_of(stage))}.text_encoder.tags=true",
        )


def _rounding(loaded: Loaded[Recipe], stage: StageConfig) -> Iterator[Problem]:
    """Parts to be held in 4 bit where the package for it is not installed."""
    for path, said in stage.train.items():
        if said.lora is not None and said.lora.quantize == "nf4":
            yield from absent_backend(loaded.place(f"stages.{loaded.recipe.stages.index(stage)}.train.{path}.lora.quantize"))


def _answerers(loaded: Loaded[Recipe]) -> Iterator[Problem]:
    """Folders and endpoints that a data step asks and that nobody can ask."""
    for name, one in loaded.recipe.data.items():
        for number, operator in enumerate(one.then):
            if isinstance(operator, Asking) and is_outside(operator.answered_by) and (problem := unknown_answerer(operator.answered_by, {})):
                yield replace(problem, place=loaded.place(f"data.{name}.then.{number}"), found=f"data.{name}: {problem.found}")


def _soups(loaded: Loaded[Recipe]) -> Iterator[Problem]:
    """Ingredients from elsewhere that are not there, and parts that the model of a soup has not."""
    recipe = loaded.recipe
    for name, soup in recipe.soups.items():
        for one in filter(is_outside, (*soup.ingredients, *([soup.base] if soup.base else []))):
            if (problem := unknown_answerer(one, {})) is not None:
                yield replace(problem, code="run/no-origin", place=loaded.place(f"soups.{name}"), found=f"soups.{name}: {problem.found}")
        inside = [stage for stage in recipe.stages if stage.name in stages_under(recipe, name)]
        known = part_paths(recipe.config_of(inside[0])) if inside else []
        for path in soup.parts if known else ():
            if not any(part == path or part.startswith(path + ".") or path.startswith(part + ".") for part in known):
                yield Problem(
                    code="run/no-such-part",
                    place=loaded.place(f"soups.{name}.parts"),
                    found=f"soups.{name}.parts: {path}",
                    allowed=", ".join(known),
                    fix=nearest(path, known) or "name a part of the model",
                )


def _evaluations(loaded: Loaded[Recipe]) -> Iterator[Problem]:
    """Evaluations of a stage whose model cannot answer, of files that are not there, by judges that are none."""
    recipe = loaded.recipe
    by_name = {stage.name: stage for stage in recipe.stages}
    for name, one in recipe.evaluate.items():
        path = getattr(one.benchmark, "path", None)
        if path is not None and not Path(path).exists():
            place, found = loaded.place(f"evaluate.{name}.benchmark.path"), f"evaluate.{name}: {path} is not there"
            allowed = f"the published files: {getattr(one.benchmark, 'files', 'a file or folder')}"
            yield Problem(code="run/absent-data", place=place, found=found, allowed=allowed, fix=f"evaluate.{name}.benchmark.path=PATH")
        if one.judge is not None and (problem := unknown_answerer(one.judge, {})) is not None:
            yield replace(problem, place=loaded.place(f"evaluate.{name}.judge"))
        made_of = stages_under(recipe, one.stage) if one.stage in recipe.soups else [one.stage or recipe.stages[-1].name]
        stage = next((by_name[name] for name in made_of if name in by_name), None)
        if stage is None:  # a soup of models from elsewhere
            continue
        config = recipe.all_models()[recipe.model_of(stage)]
        needs = getattr(one.benchmark, "needs", ("write",))
        if any(need not in config.abilities for need in needs):
            yield Problem(
                code="run/cannot",
                place=loaded.place(f"evaluate.{name}.stage"),
                found=f"evaluate.{name}: the model of stage {stage.name} can {', '.join(config.abilities)}",
                allowed="a model with a language model" if needs == ("write",) else f"a model that can {', '.join(needs)}: one with a text encoder",
                fix="name another stage",
            )
