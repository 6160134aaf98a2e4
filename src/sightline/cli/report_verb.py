"""`sightline report`."""

from __future__ import annotations

import sys
import webbrowser
from argparse import ArgumentParser, Namespace
from pathlib import Path

from sightline.cli.failures_arguments import add_failures, report_failures, report_verdicts, wants_failures
from sightline.cli.output import write_json
from sightline.errors import Problem, Refused


def report(parser: ArgumentParser) -> None:
    """Arguments of `report`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run; its events.jsonl is read, RUN/live.html is written")
    parser.add_argument("--watch", action="store_true", help="draw the page again and again until the run ends; it refreshes itself in the browser")
    parser.add_argument("--every", type=int, metavar="SECONDS", help="with --watch: seconds between two drawings (default: 5)")
    parser.add_argument("--open", action="store_true", help="show the page in a browser")
    parser.add_argument("--json", action="store_true", help="print the facts of the page as JSON; with --watch when the run has ended")
    add_failures(parser)
    parser.set_defaults(action=_report)


def _report(arguments: Namespace) -> int:
    if wants_failures(arguments):
        return report_verdicts(arguments) if arguments.verdicts is not None else report_failures(arguments)
    from sightline.live_page import EVERY, LivePage, status

    every = EVERY if arguments.every is None else arguments.every
    if every < 1 or (arguments.every is not None and not arguments.watch):
        found = f"--every {every}" + ("" if arguments.watch else " without --watch")
        raise Refused(Problem(code="usage/every", place="report", found=found, allowed="--watch --every SECONDS, at least 1"))
    live = LivePage(arguments.run)
    found = live.draw(every if arguments.watch else None)
    if arguments.open and not webbrowser.open(live.path.resolve().as_uri()):
        print(f"no browser was found: open {live.path}", file=sys.stderr)
    if arguments.watch and found.state == "running":
        print(f"look at {live.path}; Ctrl-C ends the watching, not the run", file=sys.stderr)
        found = live.watch(every, lambda now: print(status(now), file=sys.stderr))
    if arguments.json:
        write_json(found.record())
    else:
        print(f"{status(found)}\nlook at {live.path}")
    return 0
