"""`sightline env`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from sightline.cli.output import write_json, write_table


def env(parser: ArgumentParser) -> None:
    """Arguments of `env`."""
    parser.add_argument("--json", action="store_true", help="the same facts as one JSON object")
    parser.set_defaults(action=_env)


def _env(arguments: Namespace) -> int:
    from sightline.environment import environment

    facts = environment()
    if arguments.json:
        write_json(facts)
    else:
        write_table((f"{group}.{name}", value) for group, values in facts.items() for name, value in values.items())
    return 0
