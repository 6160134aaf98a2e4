"""`sightline checkpoint read` and `sightline checkpoint write`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from sightline.cli.output import write_json, write_problems, write_table


def read(parser: ArgumentParser) -> None:
    """Arguments of `checkpoint read`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a published checkpoint; nothing of it is run")
    parser.add_argument("out", metavar="OUT", type=Path, help="the model directory to write")
    parser.add_argument("--json", action="store_true", help="what was read as JSON")
    parser.set_defaults(action=_read)


def write(parser: ArgumentParser) -> None:
    """Arguments of `checkpoint write`."""
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model directory or a run, whose last model is written")
    parser.add_argument("out", metavar="OUT", type=Path, help="the folder to write")
    parser.add_argument("--format", metavar="NAME", help="the published form; default is the one that the model was read from")
    parser.add_argument("--json", action="store_true", help="what was left out as JSON")
    parser.set_defaults(action=_write)


def _read(arguments: Namespace) -> int:
    from sightline.checkpoint_import import import_checkpoint

    native = import_checkpoint(arguments.folder, arguments.out)
    if arguments.json:
        write_json({"out": str(arguments.out), "format": native.format.name, "problems": [problem.record() for problem in native.problems]})
        return 0
    numbers = sum(tensor.numel() for tensor in native.tensors.values())
    write_table([("format", "tensors", "numbers", "model"), (native.format.name, str(len(native.tensors)), f"{numbers:,}", str(arguments.out))])
    if native.problems:
        write_problems(native.problems, as_json=False)
    return 0


def _write(arguments: Namespace) -> int:
    from sightline.model.directory import model_folder
    from sightline.model.native.native_directory import export

    left_out = export(model_folder(arguments.model), arguments.out, arguments.format)
    if arguments.json:
        write_json({"out": str(arguments.out), "left_out": left_out})
    else:
        write_table([("written", "left out"), (str(arguments.out), ", ".join(left_out) or "nothing")])
    return 0
