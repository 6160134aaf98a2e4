"""`sightline serve --engine ray` on a local cluster: a load step up and down without a failed request, streams, full queues, and the end."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from compositions import composition
from servers import data_url, png, running, shown
from test_gathered_meters import samples
from test_serve_verb import free_port, get
from tiny_models import TEXTS, built

from sightline.cli.main import main
from sightline.cli.serve_scaling import canary_of, scaling_of
from sightline.cli.serve_verb import serve
from sightline.evaluate.golden import write_golden
from sightline.lineage import Lineage
from sightline.model import directory
from sightline.model.processor import Processor
from sightline.model.tokens import train_tokenizer
from sightline.model.vlm import Model
from sightline.serve.ray_serving import Replica, Scaling
from sightline.serve.settings import CanarySettings

PATIENCE = 180.0
SCALING = ["--min-replicas", "1", "--max-replicas", "3", "--target-ongoing-requests", "2", "--max-ongoing-requests", "4", "--max-num-queued-reqs", "12"]
SCALING += ["--upscale-delay-s", "1", "--downscale-delay-s", "3", "--num-cpus", "0.5", "--drain-timeout", "60"]


@pytest.fixture(scope="module")
def flat() -> tuple[Model, Processor]:
    config = composition("flat")
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    return built(config.resolve(400, control=tokenizer.control), tokenizer)


@pytest.fixture(scope="module")
def folder(flat: tuple[Model, Processor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "tiny"
    out.mkdir()
    directory.save(out, *flat)
    return out


def command(folder: Path, port: int, *more: str) -> list[str]:
    return [sys.executable, "-m", "sightline", "serve", str(folder), "--engine", "ray", "--port", str(port), *SCALING, *more]


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command(folder, port, "--no-verify", *more), stdout=said, stderr=said, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"})
        ends = time.monotonic() + PATIENCE
        try:
            while get(port, "/ready") != 200:
                said.seek(0)
                assert process.poll() is None and time.monotonic() < ends, said.read().decode()
                time.sleep(0.2)
            yield process, port
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(PATIENCE)


def ask(port: int, **more: Any) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    body = json.dumps({"model": "tiny", "messages": shown(data_url(png(1)))} | more)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        names = {name.lower() for name, _ in reply.getheaders()}
        return reply.status, {name: ", ".join(reply.headers.get_all(name, ())) for name in names}, reply.read()
    finally:
        connection.close()


def metrics(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    connection.close()
    return body


def replicas(port: int) -> int:
    return int(samples(metrics(port), "sightline_replicas")[""])


@dataclass
class Load:
    """So many clients that ask again and again; every second one reads a stream."""

    port: int
    clients: int
    tokens: int = 200
    statuses: list[int] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self.threads = [threading.Thread(target=self._ask, args=(number % 2 == 1,)) for number in range(self.clients)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(PATIENCE)

    def _ask(self, streamed: bool) -> None:
        while not self.ending.is_set():
            try:
                status, _, body = ask(self.port, max_tokens=self.tokens, stream=streamed)
                whole = b"data: [DONE]" in body and b'"error"' not in body if streamed else bool(json.loads(body)["choices"])
                self.statuses.append(status if whole else -1)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                print(f"failed: {type(error).__name__}: {error}")
                self.statuses.append(0)


def until(port: int, count: int) -> float:
    """Seconds until there are so many replicas."""
    began = time.monotonic()
    while replicas(port) != count:
        assert time.monotonic() - began < PATIENCE, f"{replicas(port)} replicas"
        time.sleep(0.2)
    return time.monotonic() - began


def failed(statuses: Sequence[int]) -> list[int]:
    return [status for status in statuses if status != 200]


@pytest.mark.slow
def test_replicas_come_and_go_with_the_load_and_no_request_fails(folder: Path, flat: tuple[Model, Processor]) -> None:
    with running(*flat) as alone:
        expected = alone.chat(shown(data_url(png(1))), max_tokens=40)[1]["choices"][0]
    began = time.monotonic()
    with serving(folder) as (process, port):
        print(f"\nready after {time.monotonic() - began:.1f} s with {replicas(port)} replica")
        status, headers, body = ask(port, max_tokens=40)
        assert status == 200 and json.loads(body)["choices"][0] == expected, "the same answer as that of a single server"
        assert headers["x-content-type-options"] == "nosniff" and "," not in headers["x-request-id"], "one name"
        assert json.loads(ask(port, max_tokens=0)[2])["error"]["code"] == "serve/body"
        assert get(port, "/v1/models") == get(port, "/openapi.json") == get(port, "/") == get(port, "/v1/card") == 200
        assert get(port, "/nothing") == 404

        with Load(port, 8) as load:
            second, third = until(port, 2) if replicas(port) < 2 else 0.0, until(port, 3)
            print(f"a second replica after {second:.1f} s of load, a third after {second + third:.1f} s")
            time.sleep(2)
        assert failed(load.statuses) == [], load.statuses
        told = samples(metrics(port), "sightline_generation_tokens_total")
        assert len(told) == 3 and sum(value > 0 for value in told.values()) >= 2, "counts of each replica, whoever answers"

        with Load(port, 1, tokens=60) as light:
            print(f"one replica again after {until(port, 1):.1f} s of little load; {len(load.statuses)} requests under load")
        assert failed(light.statuses) == [] and len(light.statuses) > 5

        flood: list[tuple[int, dict[str, str], bytes]] = []
        threads = [threading.Thread(target=lambda: flood.append(ask(port, max_tokens=200))) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        said = {status: sum(one[0] == status for one in flood) for status, *_ in flood}
        print(f"40 at once: {said}")
        assert set(said) == {200, 503} and all(int(headers["retry-after"]) >= 1 for status, headers, _ in flood if status == 503)

        last: list[int] = []
        threads = [threading.Thread(target=lambda: last.append(ask(port, max_tokens=300)[0])) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(PATIENCE)
        assert process.wait(PATIENCE) == 0 and last == [200] * 3, "what was taken is answered"
    print(f"all of it took {time.monotonic() - began:.0f} s")


@pytest.mark.slow
def test_a_model_that_does_not_answer_as_it_did_never_takes_a_request(flat: tuple[Model, Processor], tmp_path: Path) -> None:
    out = tmp_path / "spoiled"
    out.mkdir()
    directory.save(out, *flat)
    write_golden_request(out, *flat)
    done = subprocess.run(command(out, free_port()), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "evaluate/golden" in done.stderr, done.stderr


def write_golden_request(folder: Path, model: Model, processor: Processor) -> None:
    """A golden request whose answer the model never gave."""
    from scripted_words import question

    from sightline.samples.exchange import Answer

    said = Answer(key="", sample="x", weights="", text="yes", tokens=(1,), logps=(-0.5,))
    write_golden(folder, model, processor, [(question("Where?", png(1)), said)])
    Lineage(id="m" * 64, kind="model", config="c", inputs=[], seed=3).write(folder)


def test_a_replica_with_a_broken_engine_says_so() -> None:
    replica = Replica.__new__(Replica)
    replica.served = SimpleNamespace(engine=SimpleNamespace(broken=""))  # type: ignore[assignment]
    replica.check_health()
    replica.served.engine.broken = "out of memory"  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="out of memory"):
        replica.check_health()


def test_arguments_become_settings() -> None:
    parser = argparse.ArgumentParser()
    serve(parser)
    said = parser.parse_args(["run", "--engine", "ray", "--max-replicas", "3", "--max-num-seqs", "8", "--num-gpus", "0.5", "--canary", "http://host:1/v1#next"])
    assert scaling_of(said) == Scaling(max_replicas=3, target_ongoing_requests=8.0, max_ongoing_requests=16, num_gpus=0.5)
    assert canary_of(said) == CanarySettings(url="http://host:1/v1", model="next", share=0.05)
    assert scaling_of(parser.parse_args(["run"])) is None and canary_of(parser.parse_args(["run"])) is None


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--max-replicas", "2"], "usage/serve"),
        (["--canary-share", "0.1"], "usage/serve"),
        (["--engine", "ray", "--min-replicas", "3", "--max-replicas", "2"], "usage/scaling"),
        (["--engine", "ray", "--target-ongoing-requests", "-1"], "usage/scaling"),
        (["--engine", "ray", "--port", "0"], "usage/scaling"),
        (["--canary", "http://host/v1"], "serve/endpoint"),
        (["--canary", "http://host/v1#m", "--canary-share", "2"], "usage/canary"),
        (["--canary", "http://host/v1#m", "--canary-texts"], "usage/canary"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(words: list[str], code: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folder), *words]) in (1, 2)
    assert code in capsys.readouterr().err
