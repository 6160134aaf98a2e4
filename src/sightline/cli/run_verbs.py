"""`sightline run` and `sightline plan`."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sightline.cli.output import write_json


def run(parser: ArgumentParser) -> None:
    """Arguments of `run`."""
    _recipe_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/RECIPE); a run that was stopped goes on where it was")
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="who computes the rows of a study: this process, one after the other, or a Ray cluster (RAY_ADDRESS)",
    )
    parser.set_defaults(action=_run)


def plan(parser: ArgumentParser) -> None:
    """Arguments of `plan`."""
    _recipe_arguments(parser)
    parser.add_argument("--model-only", action="store_true", help="without touching the data: the model, its parts and its token counts")
    parser.add_argument(
        "--hardware", default="cpu", metavar="COUNTxNAME", help="what it is planned for: 8xA40, H100, H200, A100-80, A100-40, 4090; default cpu, this machine"
    )
    parser.add_argument(
        "--sharding",
        choices=["none", "fsdp"],
        help="whether weights and optimizer of the language model are spread over several devices; default: what the stage says",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the run, where rows are measured if its data is there (default: runs/RECIPE)")
    parser.set_defaults(action=_plan)


def _recipe_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="a file, or the name of a shipped recipe")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="dotted overrides, such as stages.align.batch=64")
    parser.add_argument("--twin", action="store_true", help="its toy version: made data, small random parts, few steps; seconds on a CPU, nothing to download")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _run(arguments: Namespace) -> int:
    from sightline.run import run

    out = arguments.out or Path("runs") / (Path(arguments.recipe).stem + ("-twin" if arguments.twin else ""))
    if arguments.twin:
        from sightline.train.processes import join
        from sightline.train.world import first_alone
        from sightline.twin import write_twin

        toy = first_alone(join(), lambda: write_twin(arguments.recipe, arguments.overrides, out))
        result = run(toy, out=out, engine=arguments.engine)
    else:
        result = run(arguments.recipe, out=out, overrides=arguments.overrides, engine=arguments.engine)
    if not int(os.environ.get("RANK", "0")):  # of several processes the first speaks
        _tell(result, arguments.json)
    return 0


def _plan(arguments: Namespace) -> int:
    from sightline.plan import plan

    if arguments.twin and not arguments.model_only:
        return _try_twin(arguments)
    asked: dict[str, Any] = {"model_only": arguments.model_only}
    if not arguments.model_only:
        asked |= {"machine": arguments.hardware, "sharding": arguments.sharding, "run": arguments.out or Path("runs") / Path(arguments.recipe).stem}
    if arguments.twin:
        from sightline.twin import write_twin

        with TemporaryDirectory() as folder:
            result = plan(write_twin(arguments.recipe, arguments.overrides, Path(folder)), **asked)
    else:
        result = plan(arguments.recipe, overrides=arguments.overrides, **asked)
    _tell(result, arguments.json)
    return 0


def _try_twin(arguments: Namespace) -> int:
    """Every stage of the toy version is run once, through saving, loading and answering, in a folder that is thrown away."""
    from sightline.run import run
    from sightline.twin import write_twin

    with TemporaryDirectory() as folder:
        result = run(write_twin(arguments.recipe, arguments.overrides, Path(folder)), out=Path(folder) / "run")
        _tell(result, arguments.json)
    return 0


def _tell(result: Any, as_json: bool) -> None:
    if as_json:
        write_json(result.record())
    else:
        print(result)
