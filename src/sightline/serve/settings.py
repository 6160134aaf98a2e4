"""What a server is told besides its model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sightline.serve.serving_engine import EngineLimits


@dataclass(frozen=True, kw_only=True)
class MediaLimits:
    """What pictures may come, and from where."""

    allowed_media_domains: tuple[str, ...] = ()
    """Hosts whose pictures may be fetched by http(s); without any, pictures come inside the request alone."""
    images_per_prompt: int = 8
    """Pictures of a request, frames of films included."""
    max_image_pixels: int = 33_000_000
    """Width times height of one picture, looked at before it is decoded."""
    max_media_bytes: int = 16 << 20
    """Bytes of one picture."""
    fetch_timeout: float = 5.0
    """Seconds for one picture, redirects and slow hosts included."""
    allow_private: bool = False
    """Also fetch from private, loopback and link-local addresses: for tests."""


@dataclass(frozen=True, kw_only=True)
class CanarySettings:
    """Another server, which is asked a share of what is asked here."""

    url: str
    """Base of its API: http://HOST:PORT/v1."""
    model: str
    """Its name there."""
    key: str = field(default="", repr=False)
    """Sent to it as a bearer token; clients' keys are not."""
    share: float = 0.05
    """Of the chats that are answered, 0..1."""
    log: Path | None = None
    """File that gets a line for each comparison."""
    texts: bool = False
    """Whether the log holds requests and answers; else hashes, under a key that ends with the process."""
    concurrency: int = 4
    """Requests to it at a time."""
    most_waiting: int = 32
    """Comparisons that may wait; more are dropped and counted."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How requests are let in."""

    served_model_name: tuple[str, ...]
    """Names by which the model is asked; the first is told."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """One of them must come as a bearer token; without any, everybody may ask."""
    max_body_bytes: int = 20 << 20
    """Bytes of a request, counted as they come."""
    body_timeout: float = 30.0
    """Seconds in which a request must have come."""
    request_timeout: float = 300.0
    """Seconds in which its answer must be whole."""
    drain_timeout: float = 30.0
    """Seconds in which answers are finished after SIGTERM."""
    max_tokens: int = 512
    """Longest answer where the request does not say."""
    decoders: int = 2
    """Pictures decoded at the same time."""
    fetchers: int = 16
    """Requests whose pictures are fetched from other hosts at the same time: those wait, and hold nobody else up."""
    engine: EngineLimits = field(default_factory=EngineLimits)
    media: MediaLimits = field(default_factory=MediaLimits)
    canary: CanarySettings | None = None
    """Absent: nobody else is asked."""
