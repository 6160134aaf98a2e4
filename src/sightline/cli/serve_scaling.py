"""`sightline serve` beyond one process: arguments of `--engine ray` and of `--canary`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from sightline.serve.ray_serving import Scaling
    from sightline.serve.settings import CanarySettings

_OF_RAY: dict[str, Any] = {
    "ray_address": None,
    "min_replicas": 1,
    "max_replicas": 4,
    "target_ongoing_requests": None,
    "max_ongoing_requests": None,
    "upscale_delay_s": 30.0,
    "downscale_delay_s": 600.0,
    "num_cpus": 1.0,
    "num_gpus": 0.0,
}
"""Arguments that only `--engine ray` takes, and what they are where they are not said."""
_OF_CANARY: dict[str, Any] = {"canary_share": 0.05, "canary_log": None, "canary_texts": False, "canary_key_file": None}


def add_scaling(parser: ArgumentParser) -> None:
    """Arguments of several replicas, by Ray's names."""
    group = parser.add_argument_group("replicas on a Ray cluster (--engine ray)")
    group.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this process (default), or replicas on a Ray cluster; the answers are the same"
    )
    group.add_argument("--ray-address", metavar="ADDRESS", help="a running cluster (`auto`, HOST:PORT); without it one is started here")
    group.add_argument("--min-replicas", type=int, metavar="N", help="replicas at least (default: 1)")
    group.add_argument("--max-replicas", type=int, metavar="N", help="replicas at most (default: 4)")
    group.add_argument(
        "--target-ongoing-requests",
        type=float,
        metavar="N",
        help="requests, waiting ones too, for each replica; above it there will be more (default: --max-num-seqs)",
    )
    group.add_argument(
        "--max-ongoing-requests",
        type=int,
        metavar="N",
        help="requests that a replica has at a time; others wait for any replica (default: twice --max-num-seqs)",
    )
    group.add_argument("--upscale-delay-s", type=float, metavar="S", help="seconds of load before there are more (default: 30)")
    group.add_argument("--downscale-delay-s", type=float, metavar="S", help="seconds without it before there are fewer (default: 600)")
    group.add_argument("--num-cpus", type=float, metavar="N", help="CPUs of a replica (default: 1)")
    group.add_argument("--num-gpus", type=float, metavar="N", help="GPUs of a replica (default: 0)")


def add_canary(parser: ArgumentParser) -> None:
    """Arguments of shadowed traffic."""
    group = parser.add_argument_group("a share of the traffic is also asked of another server (--canary)")
    group.add_argument("--canary", metavar="URL", help="http://HOST:PORT/v1#MODEL: asked in the background; answers never wait for it")
    group.add_argument("--canary-share", type=float, metavar="SHARE", help="share of the chats (default: 0.05)")
    group.add_argument("--canary-log", metavar="FILE", help="a line for each comparison: hashes and times")
    group.add_argument("--canary-texts", action="store_true", help="keep requests and answers in --canary-log: what people ask, pictures included")
    group.add_argument("--canary-key-file", metavar="FILE", help="key of that server")


def scaling_of(arguments: Namespace) -> Scaling | None:
    """How replicas come and go; None without `--engine ray`. Raises Refused for arguments that do not fit."""
    if arguments.engine != "ray":
        _refuse_stray(arguments, _OF_RAY, "--engine ray")
        return None
    from sightline.serve.ray_serving import Scaling

    said = _said(arguments, _OF_RAY)
    said["target_ongoing_requests"] = said["target_ongoing_requests"] or float(arguments.max_num_seqs)
    said["max_ongoing_requests"] = said["max_ongoing_requests"] or 2 * arguments.max_num_seqs
    wrong = [f"--{name.replace('_', '-')} {said[name]}" for name in ("min_replicas", "max_ongoing_requests") if said[name] < 1]
    wrong += [f"--{name.replace('_', '-')} {said[name]}" for name in ("upscale_delay_s", "downscale_delay_s", "num_gpus") if said[name] < 0]
    wrong += [f"--{name.replace('_', '-')} {said[name]}" for name in ("target_ongoing_requests", "num_cpus") if said[name] <= 0]
    if said["max_replicas"] < said["min_replicas"]:
        wrong.append(f"--max-replicas {said['max_replicas']} below --min-replicas {said['min_replicas']}")
    if not arguments.port:
        wrong.append("--port 0")
    if wrong:
        raise Refused(Problem(code="usage/scaling", place="serve", found=", ".join(wrong), allowed="see sightline serve --help", fix="correct them"))
    return Scaling(**{name: value for name, value in said.items() if name != "ray_address"})


def canary_of(arguments: Namespace) -> CanarySettings | None:
    """Who else is asked; None without `--canary`. Raises Refused for arguments that do not fit."""
    if arguments.canary is None:
        _refuse_stray(arguments, _OF_CANARY, "--canary URL")
        return None
    from pathlib import Path

    from sightline.serve.chat_client import chat_server
    from sightline.serve.settings import CanarySettings

    server, said = chat_server(arguments.canary, "--canary"), _said(arguments, _OF_CANARY)
    if not 0 < said["canary_share"] <= 1:
        raise Refused(Problem(code="usage/canary", place="--canary-share", found=str(said["canary_share"]), allowed="above 0, up to 1", fix="correct it"))
    if said["canary_texts"] and said["canary_log"] is None:
        raise Refused(Problem(code="usage/canary", place="--canary-texts", found="no --canary-log", allowed="--canary-log FILE", fix="say where to keep them"))
    key = Path(said["canary_key_file"]).read_text(encoding="utf-8").strip() if said["canary_key_file"] else ""
    log = Path(said["canary_log"]).resolve() if said["canary_log"] else None
    return CanarySettings(url=server.url, model=server.model, key=key, share=said["canary_share"], log=log, texts=said["canary_texts"])


def _said(arguments: Namespace, defaults: dict[str, Any]) -> dict[str, Any]:
    found = {name: getattr(arguments, name) for name in defaults}
    return {name: defaults[name] if value is None else value for name, value in found.items()}


def _refuse_stray(arguments: Namespace, names: dict[str, Any], owner: str) -> None:
    stray = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]
    if stray:
        raise Refused(Problem(code="usage/serve", place="serve", found=f"{', '.join(stray)} without {owner}", allowed=owner, fix="add it, or leave them out"))
