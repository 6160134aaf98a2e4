"""`sightline export`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.output import write_json, write_table
from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from sightline.model.assembly import ModelConfig


FINDINGS = 1


def export(parser: ArgumentParser) -> None:
    """Arguments of `export`."""
    parser.add_argument("model", metavar="MODEL", help="a run, whose last model is written, or a model directory; with --check also a recipe")
    parser.add_argument("out", metavar="OUT", type=Path, nargs="?", help="the folder to write")
    parser.add_argument(
        "--to",
        metavar="TARGET",
        help="a published system, `remote-code` for code of our own, or `onnx` for the picture towers alone; --check names them all; default is the first that fits",
    )
    parser.add_argument("--check", action="store_true", help="write nothing: say which targets and engines take the model, and why others do not")
    parser.add_argument("--adapters", action="store_true", help="the adapters of the last stage alone, for peft and vLLM")
    parser.add_argument(
        "--base", metavar="MODEL", type=Path, help="with --adapters: the model that they stand beside; default is this one with its adapters taken out"
    )
    parser.add_argument("--with-base", action="store_true", help="with --adapters: write that model too, into OUT/base")
    parser.add_argument("--quantize", choices=("int8", "int4"), help="write the model with its language model rounded, for Sightline, and say what that costs")
    parser.add_argument("--json", action="store_true", help="what was written or found as JSON")
    parser.set_defaults(action=_export)


def _export(arguments: Namespace) -> int:
    if arguments.check:
        return _check(arguments)
    if arguments.out is None:
        raise Refused(
            Problem(code="usage/arguments", place="sightline export", found="no OUT", allowed="a folder to write, or --check", fix="sightline export MODEL OUT")
        )
    if not arguments.adapters and (arguments.base or arguments.with_base):
        raise Refused(
            Problem(code="usage/arguments", place="sightline export", found="--base or --with-base alone", allowed="beside --adapters", fix="add --adapters")
        )
    from sightline.model.directory import model_folder

    folder = model_folder(Path(arguments.model))
    if arguments.quantize:
        return _quantize(folder, arguments)
    if arguments.adapters:
        from sightline.export.adapter_export import export_adapters

        found = export_adapters(folder, arguments.out, arguments.to, model_folder(arguments.base) if arguments.base else None, arguments.with_base)
    else:
        from sightline.export.exporters import export as export_model

        found = export_model(folder, arguments.out, arguments.to)
    if arguments.json:
        write_json(found.record())
        return 0
    proof = found.proof
    write_table(
        [("target", "out", "left out", "largest difference"), (found.target, str(found.out), f"{len(found.left_out)} tensors", f"{proof.difference:.2g}")]
    )
    print(f"\nproved with {', '.join(f'{name} {version}' for name, version in proof.software.items())}, through the {proof.through}")
    write_table([("golden answer", "there"), *proof.golden])
    return 0


def _quantize(folder: Path, arguments: Namespace) -> int:
    if arguments.to or arguments.adapters:
        found, fix = "--quantize beside --to or --adapters", "drop one of them: rounded weights are read by Sightline alone"
        raise Refused(Problem(code="usage/arguments", place="sightline export", found=found, allowed="one of them", fix=fix))
    from sightline.export.quantized_export import quantize

    rounded = quantize(folder, arguments.out, arguments.quantize)
    if arguments.json:
        write_json(rounded.record())
    else:
        print(rounded)
    return 0


def _check(arguments: Namespace) -> int:
    from sightline.export.engines import engines
    from sightline.export.exporters import exporter, fits, said

    if arguments.to:
        exporter(arguments.to)  # refuses a target that is not there
    record: dict[str, Any] = {}
    for name, config in _configs(arguments.model).items():
        found = fits(config)
        told = engines(config, found)
        if arguments.to and arguments.to not in found:
            found[arguments.to] = exporter(arguments.to).check(config)
        targets = {target: [problem.record() for problem in problems] for target, problems in found.items()}
        record[name] = {**told.record(), "targets": targets}
        if not arguments.json:
            asked = {arguments.to: found[arguments.to]} if arguments.to else found
            write_table([(name, "", ""), *((f"  {target}", "no" if problems else "yes", said(problems)) for target, problems in asked.items())])
            write_table([(f"engines, of {told.target}" if told.target else "engines", "", ""), *((f"  {engine}", *rest) for engine, *rest in told.rows())])
    if arguments.json:
        write_json(record)
    taken = [not one["targets"][arguments.to] if arguments.to else one["target"] is not None for one in record.values()]
    return 0 if all(taken) else FINDINGS


def _configs(model: str) -> dict[str, ModelConfig]:
    """Resolved Configs by name: of a model directory, or of every model of a recipe."""
    path = Path(model)
    if path.is_dir():
        from sightline.model import directory

        folder = directory.model_folder(path)
        return {str(folder): directory.read_config(folder)}
    from sightline.plan import resolved
    from sightline.recipe import load

    recipe = load(model).recipe
    return {name: resolved(recipe, name, config) for name, config in recipe.all_models().items()}
