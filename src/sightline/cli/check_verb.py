"""`sightline data check`."""

from __future__ import annotations

import os
import shutil
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.output import write_json
from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from sightline.data.check.check_config import CheckConfig
    from sightline.data.check.gathering import Measure


def check(parser: ArgumentParser) -> None:
    """Arguments of `data check`."""
    parser.add_argument("sources", metavar="SRC", nargs="*", type=Path, help="stores, files or folders in published formats: what is to be trained on")
    parser.add_argument("--generic", metavar="SRC", nargs="+", action="extend", default=[], type=Path, help="sources that are generic, not of the domain")
    parser.add_argument(
        "--against", metavar="BENCHMARK", nargs="+", action="extend", default=[], type=Path, help="benchmarks that must not be among the sources"
    )
    parser.add_argument("--recipe", metavar="RECIPE", help="measure tokens as this recipe's model gets them")
    parser.add_argument("--model", metavar="NAME", help="the model of the recipe, where it has several; without a recipe the folder of a finished model")
    parser.add_argument("--rules", metavar="RULE", nargs="+", action="extend", default=[], help="apply these rules only; --rules list prints all")
    parser.add_argument(
        "--set", metavar="FIELD=VALUE", nargs="+", action="extend", default=[], dest="fields", help="thresholds, such as near=6 or severity.odd-text=refuse"
    )
    parser.add_argument("--page", metavar="FILE", type=Path, help="write an HTML page with pictures")
    parser.add_argument(
        "--quarantine",
        metavar="OUT",
        type=Path,
        help="write a store in which rows that grave findings name are quarantined (or those of the rules in --set quarantine=[..])",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: the cores of this machine)")
    parser.add_argument("--engine", default="local", metavar="NAME", help="local (default) or ray")
    parser.add_argument(
        "--work", metavar="FOLDER", type=Path, help="where a killed check finds what it had done (default: a folder of your own among the temporary files)"
    )
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.set_defaults(action=_check)


def _check(arguments: Namespace) -> int:
    from sightline.data.check.check_page import write_page
    from sightline.data.check.checking import check, quarantine
    from sightline.data.check.rules import RULES
    from sightline.data.engine import engine_of
    from sightline.lineage import sha256_json

    if arguments.rules == ["list"]:
        rows = {code: {"severity": rule.severity, "what": rule.what, "fix": rule.fix} for code, rule in RULES.items()}
        write_json(rows) if arguments.json else print("\n".join(f"{code:28}{row['severity']:8}{row['what']}" for code, row in rows.items()))
        return 0
    if not arguments.sources:
        raise Refused(Problem(code="usage/arguments", place="sightline data check", found="no SRC", allowed="at least one", fix="sightline data check --help"))
    measure, most = _measure(arguments)
    config = config_of(arguments.fields, arguments.rules, most)
    paths = {name: [str(path.resolve()) for path in getattr(arguments, name)] for name in ("sources", "generic", "against")}
    work = (arguments.work or _own_folder()) / sha256_json(paths)[:16]
    work.mkdir(parents=True, exist_ok=True)
    engine = engine_of(arguments.engine, arguments.workers)
    checked = check(arguments.sources, config, generic=arguments.generic, against=arguments.against, measure=measure, engine=engine, work=work)
    if arguments.page:
        write_page(checked, arguments.page)
    stored = quarantine(checked, arguments.quarantine).counts() if arguments.quarantine else None
    if arguments.json:
        write_json(checked.record() | ({} if stored is None else {"quarantined": {"store": str(arguments.quarantine), **stored}}))
    else:
        print(checked)
        if stored is not None:
            print(f"\n{arguments.quarantine}: " + ", ".join(f"{count} {name}" for name, count in stored.items()))
        if arguments.page:
            print(f"\nlook at {arguments.page}")
    shutil.rmtree(work)
    return 0 if checked.passed else 1


def _measure(arguments: Namespace) -> tuple[Measure | None, int | None]:
    if arguments.recipe is None and arguments.model is None:
        return None, None
    from sightline.check_measure import TokenMeasure

    measure = TokenMeasure(arguments.recipe, arguments.model)
    return measure, measure.most


def _own_folder() -> Path:
    """A folder that only this user can write: what is found there is trusted."""
    folder = Path(tempfile.gettempdir()) / f"sightline-check-{os.getuid() if hasattr(os, 'getuid') else 'parts'}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise Refused(
            Problem(code="usage/work-folder", place=str(folder), found="a folder of somebody else", allowed="a folder of your own", fix="pass --work FOLDER")
        )
    return folder


def config_of(fields: list[str], rules: list[str], most: int | None) -> CheckConfig:
    """The thresholds of a command line: `FIELD=VALUE`, and `severity.RULE=VALUE` for one rule. Refused with every field that is unknown or has no such value."""
    import yaml
    from pydantic import ValidationError

    from sightline.data.check.check_config import CheckConfig

    given: dict[str, Any] = {"rules": rules} | ({} if most is None else {"max_tokens": most})
    for word in fields:
        name, _, value = word.partition("=")
        outer, _, inner = name.partition(".")
        if inner:
            given.setdefault(outer, {})[inner] = value
        else:
            given[name] = yaml.safe_load(value)
    try:
        return CheckConfig.model_validate(given)
    except ValidationError as error:
        raise Refused(
            Problem(
                code="usage/threshold",
                place=f"--set {'.'.join(map(str, each['loc']))}",
                found=repr(each["input"]),
                allowed=each["msg"] if each["type"] != "extra_forbidden" else ", ".join(CheckConfig.model_fields),
            )
            for each in error.errors()
        ) from None
