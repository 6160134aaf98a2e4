"""Many clients at once, beside one request at a time of the same server and beside `transformers serve` with the same weights. The last line is one JSON object.

Workload A in bfloat16; 16 clients, each of which asks again as soon as it is answered; prompts of 32 to 256 tokens about pictures of 224 px that each come four times; 64 tokens of answer. The clients are this process,
every server is another one. Requests are streamed: a first token is one that a client has. Both servers get the same number of threads.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from workload_a import WORDS, write_model

CLIENTS, ANSWER, EACH = 16, 64, 4
SIDE = 224
BARS = {"ratio": 2.0, "vs_transformers_serve": 2.0}
LATE = 3.0
"""p95 of the time to the first token over that of a lone request, at most."""
PATIENCE = 900.0


@dataclass(frozen=True)
class Told:
    """One answer as a client saw it."""

    seconds: float
    first: float
    tokens: int


def bodies(count: int, model: str, seed: int) -> list[bytes]:
    """Requests, in an order in which those about one picture are apart."""
    rng = np.random.default_rng(seed)
    urls = []
    for _ in range(-(-count // EACH)):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(stream, "JPEG")
        urls.append(f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}")
    found = []
    for number in range(count):
        text = " ".join(rng.choice(WORDS, int(rng.integers(32, 257))))
        parts = [{"type": "image_url", "image_url": {"url": urls[number % len(urls)]}}, {"type": "text", "text": text}]
        said = {"model": model, "messages": [{"role": "user", "content": parts}], "max_tokens": ANSWER, "temperature": 0.0, "stream": True}
        found.append(json.dumps(said).encode())
    return found


def ask(port: int, body: bytes) -> Told:
    """One streamed request; raises where it is not answered."""
    began = time.monotonic()
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    reply = connection.getresponse()
    if reply.status != 200:
        raise RuntimeError(f"{reply.status}: {reply.read()[:500]!r}")
    first, tokens = 0.0, 0
    for line in reply:
        if not line.startswith(b"data: {"):
            continue
        value = json.loads(line[6:])
        if "error" in value:
            raise RuntimeError(str(value["error"]))
        if any(choice["delta"].get("content") for choice in value.get("choices", ())):
            first = first or time.monotonic() - began
            tokens += 1
    connection.close()
    return Told(time.monotonic() - began, first, tokens)


def load(port: int, asked: Sequence[bytes], clients: int) -> tuple[float, list[Told]]:
    """Answers a second and what each client saw, of so many clients at once."""
    todo, found, failures, lock = list(reversed(asked)), [], [], threading.Lock()

    def client() -> None:
        while True:
            with lock:
                if not todo or failures:
                    return
                body = todo.pop()
            try:
                told = ask(port, body)
            except Exception as error:
                failures.append(error)
                return
            with lock:
                found.append(told)

    began = time.monotonic()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return len(found) / (time.monotonic() - began), found


@contextmanager
def server(words: Sequence[str], port: int, threads: int) -> Iterator[None]:
    """A server process that is ready."""
    told = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=told)
        ends = time.monotonic() + PATIENCE
        try:
            while True:
                try:
                    connection = HTTPConnection("127.0.0.1", port, timeout=5)
                    connection.request("GET", "/health")
                    if connection.getresponse().status == 200:
                        break
                except OSError:
                    pass
                if process.poll() is not None or time.monotonic() > ends:
                    log.seek(0)
                    raise RuntimeError(f"{words[0]}: {log.read()[-2000:].decode(errors='replace')}")
                time.sleep(0.5)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    return float(np.percentile(values, 100 * share))


def compare(folder: Path, requests: int, rounds: int, threads: int, blocks: int | None, peer: bool) -> dict[str, Any]:
    """Sides in turn; ratios are medians over rounds."""
    ours, theirs = write_model(folder, blocks, side=SIDE)
    found: dict[str, list[Any]] = {"many": [], "lone": [], "peer": [], "first": [], "lone_first": [], "tokens": []}
    for number in range(rounds):
        port = free_port()
        with server([sys.executable, "-m", "sightline", "serve", str(ours), "--port", str(port), "--dtype", "bfloat16", "--no-verify"], port, threads):
            load(port, bodies(2, "ours", 1000 + number), 1)
            rate, told = load(port, bodies(requests, "ours", 2 * number), CLIENTS)
            lone, alone = load(port, bodies(max(8, requests // 4), "ours", 2 * number + 1), 1)
        found["many"].append(rate)
        found["lone"].append(lone)
        found["tokens"].append(sum(one.tokens for one in told))
        found["first"].append(percentile([one.first for one in told], 0.95))
        found["lone_first"].append(percentile([one.first for one in alone], 0.5))
        if peer:
            port = free_port()
            command = [str(Path(sys.executable).with_name("transformers")), "serve", str(theirs), "--port", str(port), "--dtype", "bfloat16", "--device", "cpu"]
            with server(command, port, threads):
                load(port, bodies(2, str(theirs), 1000 + number), 1)
                found["peer"].append(load(port, bodies(max(CLIENTS, requests // 4), str(theirs), 2 * number), CLIENTS)[0])
        print(json.dumps({name: values[-1] for name, values in found.items() if values}), file=sys.stderr, flush=True)
    middle = {name: statistics.median(values) for name, values in found.items() if values}
    return {
        "ratio": middle["many"] / middle["lone"],
        "vs_transformers_serve": middle["many"] / middle["peer"] if peer else None,
        "requests_per_second": middle["many"],
        "lone_requests_per_second": middle["lone"],
        "peer_requests_per_second": middle.get("peer"),
        "ttft_p95": middle["first"],
        "ttft_lone": middle["lone_first"],
        "ttft_ratio": middle["first"] / middle["lone_first"],
        "tokens": middle["tokens"],
        "rounds": rounds,
        "bars": BARS | {"ttft_ratio": LATE},
        "machine": f"{platform.processor() or platform.machine()}, {threads} threads",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run all, print the last line; 0 = the bars of throughput are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of each server")
    parser.add_argument("--blocks", type=int, help="of tower and decoder each, where not all")
    parser.add_argument("--no-peer", action="store_true", help="leave transformers serve out")
    told = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(Path(scratch), told.requests, told.rounds, told.threads, told.blocks, not told.no_peer)
    print(json.dumps(found))
    return int(any(found[name] is not None and found[name] < bar for name, bar in BARS.items()))


if __name__ == "__main__":
    sys.exit(main())
