"""`sightline verify`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from sightline.cli.output import write_json, write_problems, write_table

FINDINGS = 1


def verify(parser: ArgumentParser) -> None:
    """Arguments of `verify`."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a model directory, a run, or a published checkpoint; nothing of it is run")
    parser.add_argument("--record-hashes", action="store_true", help="write sightline.hashes.json beside the files, for later checks")
    parser.add_argument("--json", action="store_true", help="checks and findings as one JSON object")
    parser.set_defaults(action=_verify)


def _verify(arguments: Namespace) -> int:
    from sightline.verification import record_hashes, verify

    result = verify(arguments.folder)
    if arguments.record_hashes and result.ok:
        record_hashes(arguments.folder)
    if arguments.json:
        write_json(result.record())
    else:
        write_table([("check", "state", ""), *((check.name, check.state, check.said) for check in result.checks)])
        if result.problems:
            write_problems(result.problems, as_json=False)
    return 0 if result.ok else FINDINGS
