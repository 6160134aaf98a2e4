"""`sightline serve`: a run behind an OpenAI-compatible API."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from sightline.cli.serve_scaling import add_canary, add_scaling, canary_of, scaling_of
from sightline.errors import Problem, Refused
from sightline.serve.dialects import ENGINES, FORMS, Dialect

if TYPE_CHECKING:
    from sightline.serve.named_regions import Masks
    from sightline.serve.settings import ServerSettings
    from sightline.serve.upstream_client import Upstream

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
    parser.add_argument("--refiner", type=Path, metavar="DIR", help="run of `refine train` or a published segmenter: regions of answers get masks")
    parser.add_argument("--upstream", metavar="URL", help="stand in front of another engine (http://HOST:PORT/v1): RUN gives tokenizer, codec and tilers alone")
    parser.add_argument("--upstream-model", metavar="NAME", help="name of the model there (default: the first of --served-model-name)")
    parser.add_argument("--upstream-key-env", metavar="VARIABLE", help="environment variable with the key that the engine wants")
    parser.add_argument("--upstream-engine", choices=ENGINES, default="openai", help="whose fields beyond the standard it takes (default: openai, none)")
    parser.add_argument("--upstream-grammar", choices=FORMS, default="none", help="form in which it takes the grammar of regions (default: none)")
    parser.add_argument("--upstream-timeout", type=float, default=120.0, metavar="S", help="seconds without a byte from the engine (default: 120)")
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

        _refuse_with_replicas(arguments)
        ray_serving.serve(arguments.run, settings, scaling, arguments.host, arguments.port, check=not arguments.no_verify, address=arguments.ray_address)
        return 0
    if arguments.upstream is None:
        served = server.load(arguments.run, settings, check=not arguments.no_verify, masks=_masks(arguments.refiner))
        told = f"weights {served.weights[:12]}"
    else:
        upstream, dialect = _upstream(arguments, settings)
        served = server.load_in_front(arguments.run, settings, upstream, dialect, _masks(arguments.refiner))
        told = f"in front of {upstream.model} at {upstream.url}"
    name = served.settings.served_model_name[0]
    say(f"serving {name} ({told}) at http://{arguments.host}:{arguments.port}/ (the API under /v1); stop it with Ctrl-C")
    server.serve(served, arguments.host, arguments.port)
    return 0


def _refuse_with_replicas(arguments: Namespace) -> None:
    """Replicas hold the model and nothing else."""
    stray = [f"--{name}" for name in ("upstream", "refiner") if getattr(arguments, name) is not None]
    if stray:
        found, fix = f"{' and '.join(stray)} with --engine ray", "put a server with --upstream in front of the replicas: it takes --refiner too"
        raise Refused(Problem(code="usage/serve", place="serve", found=found, allowed="--engine local", fix=fix))


def _upstream(arguments: Namespace, settings: ServerSettings) -> tuple[Upstream, Dialect]:
    """Where the engine is, and how it is spoken to. Refused: a variable without a key."""
    from sightline.serve.upstream_client import Upstream

    variable = arguments.upstream_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and (not key or not key.isascii() or not key.isprintable()):
        raise Refused(
            Problem(
                code="usage/no-key", place="--upstream-key-env", found=f"no key in {variable}", allowed="a variable with a key", fix=f"export {variable}=.."
            )
        )
    model = arguments.upstream_model or settings.served_model_name[0]
    return Upstream(url=arguments.upstream, model=model, key=key, silence=arguments.upstream_timeout), Dialect(
        engine=arguments.upstream_engine, grammar=arguments.upstream_grammar
    )


def _masks(folder: Path | None) -> Masks | None:
    """What gives regions masks, where a refiner is named."""
    if folder is None:
        return None
    from sightline.refine.refiner_directory import open_refiner
    from sightline.serve.named_regions import Masks

    return Masks(open_refiner(folder))


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
