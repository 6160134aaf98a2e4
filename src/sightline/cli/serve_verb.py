"""`sightline serve`: a run behind an OpenAI-compatible API."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.serve_scaling import add_canary, add_scaling, canary_of, scaling_of
from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from sightline.serve.settings import ServerSettings

PORT = 8000
LOCAL = frozenset(("127.0.0.1", "localhost", "::1"))


def serve(parser: ArgumentParser) -> None:
    """Arguments of `serve`, by vLLM's names where it has them."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run, of a model, or of a published checkpoint")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=PORT, help=f"port to listen at, 0 for any (default: {PORT})")
    parser.add_argument("--served-model-name", nargs="+", metavar="NAME", help="names by which the model is asked (default: the folder's)")
    parser.add_argument("--api-key", action="append", default=[], metavar="KEY", help="a key that requests must bring; may be repeated")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="a key a line, out of sight of other users of the machine")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of the computation (default: float32)")
    parser.add_argument("--max-model-len", type=int, metavar="N", help="tokens of a prompt and its answer (default: the model's)")
    parser.add_argument("--max-num-seqs", type=int, default=16, metavar="N", help="answers written together (default: 16)")
    parser.add_argument("--max-num-batched-tokens", type=int, default=512, metavar="N", help="tokens of a prompt read between two steps (default: 512)")
    parser.add_argument("--max-num-queued-reqs", type=int, default=256, metavar="N", help="requests that may wait; more get 503 (default: 256)")
    parser.add_argument("--max-queued-per-client", type=int, default=64, metavar="N", help="of one client; more get 429 (default: 64)")
    parser.add_argument("--no-enable-prefix-caching", action="store_true", help="read every prompt whole")
    parser.add_argument("--prefix-cache-mb", type=int, default=512, metavar="MB", help="memory for prompts that are known again (default: 512)")
    parser.add_argument("--allowed-media-domains", nargs="+", default=[], metavar="HOST", help="hosts whose pictures may be fetched (default: none)")
    parser.add_argument("--limit-images-per-prompt", type=int, default=8, metavar="N", help="pictures of a request (default: 8)")
    parser.add_argument("--max-body-mb", type=int, default=20, metavar="MB", help="size of a request (default: 20)")
    parser.add_argument("--request-timeout", type=float, default=300.0, metavar="S", help="seconds for an answer (default: 300)")
    parser.add_argument("--drain-timeout", type=float, default=30.0, metavar="S", help="seconds to finish answers after SIGTERM (default: 30)")
    parser.add_argument("--no-verify", action="store_true", help="do not check first that the model answers as it did when it was made")
    add_scaling(parser)
    add_canary(parser)
    parser.set_defaults(action=_serve)


def _serve(arguments: Namespace) -> int:
    keys = _keys(arguments)
    if arguments.host not in LOCAL and not keys:
        found, fix = f"--host {arguments.host} without a key", "add --api-key-file FILE, or listen at 127.0.0.1 behind a proxy that checks"
        raise Refused(Problem(code="usage/open-door", place="--host", found=found, allowed="a key, or this machine alone", fix=fix))
    _refuse_absent()
    from sightline.progress import say
    from sightline.serve import server

    settings, scaling = _settings(arguments, keys), scaling_of(arguments)
    if scaling is not None:
        from sightline.serve import ray_serving

        ray_serving.serve(arguments.run, settings, scaling, arguments.host, arguments.port, check=not arguments.no_verify, address=arguments.ray_address)
        return 0
    served = server.load(arguments.run, settings, check=not arguments.no_verify)
    name = served.settings.served_model_name[0]
    say(f"serving {name} (weights {served.weights[:12]}) at http://{arguments.host}:{arguments.port}/ (the API under /v1); stop it with Ctrl-C")
    server.serve(served, arguments.host, arguments.port)
    return 0


def _keys(arguments: Namespace) -> tuple[str, ...]:
    lines = arguments.api_key_file.read_text(encoding="utf-8").split("\n") if arguments.api_key_file else []
    return tuple(filter(None, (key.strip() for key in (*arguments.api_key, *lines))))


def _settings(arguments: Namespace, keys: tuple[str, ...]) -> ServerSettings:
    from sightline.serve.serving_engine import EngineLimits
    from sightline.serve.settings import MediaLimits, ServerSettings

    run = arguments.run.resolve()
    engine = EngineLimits(
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        max_model_len=arguments.max_model_len or 0,
        max_num_queued_reqs=arguments.max_num_queued_reqs,
        max_queued_per_client=arguments.max_queued_per_client,
        prefix_cache_bytes=0 if arguments.no_enable_prefix_caching else arguments.prefix_cache_mb << 20,
        precision=arguments.dtype,
    )
    return ServerSettings(
        served_model_name=tuple(arguments.served_model_name or [run.name]),
        api_keys=keys,
        max_body_bytes=arguments.max_body_mb << 20,
        request_timeout=arguments.request_timeout,
        drain_timeout=arguments.drain_timeout,
        engine=engine,
        media=MediaLimits(allowed_media_domains=tuple(arguments.allowed_media_domains), images_per_prompt=arguments.limit_images_per_prompt),
        canary=canary_of(arguments),
    )


def _refuse_absent() -> None:
    from importlib.util import find_spec

    absent = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if absent:
        found, fix = f"{', '.join(absent)} not installed", 'pip install "sightline[serve]"'
        raise Refused(Problem(code="serve/not-installed", place="serve", found=found, allowed="the extra `serve`", fix=fix))
