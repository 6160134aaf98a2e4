"""What is counted while serving, by the names that vLLM's dashboards know (`sightline:` in place of `vllm:`)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds of the buckets of times, s."""


class Meters:
    """Counts and times of one server; each has a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        told = {"registry": registry, "namespace": "sightline"}
        self.running = Gauge("num_requests_running", "Answers being written and prompts being read", **told)
        self.waiting = Gauge("num_requests_waiting", "Requests that wait", **told)
        self.prompts = Counter("prompt_tokens", "Tokens of prompts", **told)
        self.known = Counter("prefix_cache_hits", "Tokens of prompts that were known from earlier ones", **told)
        self.generated = Counter("generation_tokens", "Tokens written", **told)
        self.first = Histogram("time_to_first_token_seconds", "From the request to its first token", buckets=SECONDS, **told)
        self.step = Histogram("inter_token_latency_seconds", "One step of all lines", buckets=SECONDS, **told)
        self.whole = Histogram("e2e_request_latency_seconds", "From the request to the end of an answer", buckets=SECONDS, **told)
        self.queued = Histogram("request_queue_time_seconds", "From the request to the beginning of work on it", buckets=SECONDS, **told)
        self.success = Counter("request_success", "Answers by how they ended", ["finished_reason"], **told)
        self.rejected = Counter("admission_rejections", "Requests not taken, by status", ["status"], **told)
        self.given_up = Counter("requests_given_up", "Requests whose client left or whose time was over", **told)
        self.failed = Counter("engine_failures", "Steps that raised", **told)
        self.recent = 1.0
        """Seconds that an answer took lately."""

    def prompt(self, tokens: int, known: int) -> None:
        """A prompt is begun, of which so many tokens are known."""
        self.prompts.inc(tokens)
        self.known.inc(known)

    def finished(self, how: str, seconds: float) -> None:
        """An answer is whole."""
        self.success.labels(how).inc()
        self.whole.observe(seconds)
        self.recent += 0.1 * (seconds - self.recent)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
