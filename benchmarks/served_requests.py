"""A server of a tiny model under thousands of requests: most of them right, some given up by their clients, some hostile. Nothing fails, and the server's memory stays what it was."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
from hostile_pictures import Outcome
from PIL import Image
from workload_a import DECODER, SEEN, TOWER, WORDS

CLIENTS = 8
CANCELLED = HOSTILE = 0.05
PICTURES = 64
PATIENCE = 300.0
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer", "minimum": 0, "maximum": 99}, "kinds": {"type": "array", "items": {"enum": ["plane", "bridge"]}}},
    "required": ["count", "kinds"],
}


@dataclass
class Load:
    """What became of all requests."""

    counts: Counter[str] = field(default_factory=Counter)
    early: float = 0.0
    """MiB of the server when a tenth of the requests was answered."""
    late: float = 0.0
    """MiB at the end."""


def write_tiny(folder: Path) -> Path:
    """The directory of a tiny model with random weights and a region codec."""
    import torch

    from sightline.model import directory
    from sightline.model.assembly import ModelConfig
    from sightline.model.processor import Processor
    from sightline.model.tokens import train_tokenizer
    from sightline.model.vlm import Model

    tower = TOWER | {"image_size": 32, "patch_size": 8, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    decoder = DECODER | {
        "vocab_size": 700,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    said = {
        "encoders": [{"config": tower, "layer": -2}],
        "tiler": {"kind": "whole", "size": 32},
        "connector": {"kind": "mlp"},
        "language_model": {"config": decoder, "attention": "sdpa"},
        "chat": "vicuna",
        "codec": {"kind": "xyhwt"},
    }
    config = ModelConfig.model_validate_json(json.dumps(said))
    tokenizer = train_tokenizer([SEEN, config.chat_format().default_system or ""], 600, config.chat_format())
    torch.manual_seed(0)
    config = config.resolve(tokenizer.size, control=tokenizer.control)
    folder.mkdir()
    directory.save(folder, Model(config), Processor(config, tokenizer))
    return folder


@contextmanager
def serving(program: Sequence[str], folder: Path) -> Iterator[tuple[int, int]]:
    """A server process: its port and its process id. It must end well when it is asked to."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    words = [*program, "serve", str(folder), "--port", str(port), "--no-verify", "--max-num-seqs", str(CLIENTS), "--prefix-cache-mb", "2"]
    process = Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        ends = time.monotonic() + PATIENCE
        while status(port, "/ready") != 200:
            assert process.poll() is None and time.monotonic() < ends, "the server did not start"
            time.sleep(0.2)
        yield port, process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, "the server did not end well"
    finally:
        process.kill()
        process.wait()


def status(port: int, path: str) -> int:
    """Of a GET; 0 where nobody answers."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def memory(process: int) -> float:
    """MiB that a process holds now."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _pictures(rng: np.random.Generator) -> list[str]:
    found = []
    for _ in range(PICTURES):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(stream, "PNG")
        found.append(f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}")
    return found


class Clients:
    """Asks one request after another, by its number: what is asked depends on nothing else."""

    def __init__(self, port: int, seed: int) -> None:
        self.port, self.seed = port, seed
        self.pictures = _pictures(np.random.default_rng(seed))
        bomb = base64.b64decode(self.pictures[0].partition(",")[2])
        bomb = bomb[:16] + (1 << 20).to_bytes(4, "big") * 2 + bomb[24:]
        url = lambda text: [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": text}}]}]  # noqa: E731
        self.hostile: list[tuple[str, Any, set[int]]] = [
            ("bomb", {"messages": url(f"data:image/png;base64,{base64.b64encode(bomb).decode()}")}, {400}),
            ("svg", {"messages": url("data:image/svg+xml;base64,PHN2Zy8+")}, {400}),
            ("cut picture", {"messages": url(self.pictures[1][:-40])}, {400}),
            ("base64", {"messages": url("data:image/png;base64,%%%")}, {400}),
            ("file", {"messages": url("file:///etc/passwd")}, {400}),
            ("private address", {"messages": url("http://169.254.169.254/latest")}, {400}),
            ("many pictures", {"messages": [{"role": "user", "content": [part for one in self.pictures[:40] for part in url(one)[0]["content"]]}]}, {400}),
            ("role", {"messages": [{"role": "tool", "content": "x"}]}, {400}),
            ("long", {"messages": [{"role": "user", "content": "bridge " * 50_000}]}, {400}),
            ("schema", {"messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}}, {400}),
            ("model", {"messages": [{"role": "user", "content": "x"}], "model": "nobody"}, {404}),
            ("brackets", b"[" * 200_000, {400}),
            ("no JSON", b"\xff\xfe\x00", {400}),
            ("large", b" " * (21 << 20), {413}),
        ]  # fmt: skip

    def ask(self, number: int) -> Outcome:
        """One request and what became of it."""
        rng = np.random.default_rng((self.seed, number))
        began, drawn = time.monotonic(), rng.random()
        try:
            name, fault = self._given_up(rng) if drawn < CANCELLED else self._hostile(rng) if drawn < CANCELLED + HOSTILE else self._right(rng)
        except (OSError, HTTPException) as error:
            name, fault = "connection", f"{type(error).__name__}: {error}"
        return Outcome(name=name, fault=fault, seconds=time.monotonic() - began)

    def _body(self, rng: np.random.Generator) -> dict[str, Any]:
        parts: list[dict[str, Any]] = [{"type": "text", "text": " ".join(rng.choice(WORDS, int(rng.integers(3, 60))))}]
        if rng.random() < 0.5:
            parts.insert(0, {"type": "image_url", "image_url": {"url": self.pictures[int(rng.integers(PICTURES))]}})
        return {"model": "tiny", "messages": [{"role": "user", "content": parts}], "max_tokens": int(rng.integers(4, 33)), "seed": int(rng.integers(1000))}

    def _sent(self, body: Any) -> tuple[HTTPConnection, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", "/v1/chat/completions", data, {"content-type": "application/json"})
        return connection, data

    def _right(self, rng: np.random.Generator) -> tuple[str, str]:
        body, kind = self._body(rng), str(rng.choice(["plain", "plain", "stream", "stream", "drawn", "json", "regions"]))
        if kind == "drawn":
            body |= {"temperature": 1.5, "n": 2, "logprobs": True, "top_logprobs": 2}
        if kind == "json":
            body |= {"max_tokens": 48, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
        if kind == "regions":
            picture = {"type": "image_url", "image_url": {"url": self.pictures[int(rng.integers(PICTURES))]}}
            body["messages"][0]["content"].append(picture)  # regions are of a picture
            body |= {"max_tokens": 48, "response_format": {"type": "regions"}}
        connection, _ = self._sent(body | {"stream": kind == "stream"})
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        if reply.status != 200:
            return kind, f"{reply.status}: {data[:200]!r}"
        if kind == "stream":
            return kind, "" if data.endswith(b"data: [DONE]\n\n") and b'"error"' not in data else f"a stream that broke: {data[-200:]!r}"
        message = json.loads(data)["choices"][0]["message"]
        if kind == "json" and not set(SCHEMA["properties"]) >= set(json.loads(message["content"])):  # type: ignore[arg-type]
            return kind, f"not by the schema: {message['content'][:200]}"
        if kind == "regions" and (not message["regions"] or "region_problems" in message):
            return kind, f"no regions: {message['content'][:200]}"
        return kind, ""

    def _given_up(self, rng: np.random.Generator) -> tuple[str, str]:
        """A client that leaves: at once, while it is read, or in the middle of its answer."""
        connection, _ = self._sent(self._body(rng) | {"max_tokens": 200, "stream": bool(rng.random() < 0.7)})
        assert connection.sock is not None
        moment = rng.random()
        if moment > 0.3:
            time.sleep(float(rng.random()) * 0.05)
        if moment > 0.6:
            connection.sock.settimeout(0.2)
            with suppress(TimeoutError):
                connection.sock.recv(100)
        connection.close()
        return "given up", ""

    def _hostile(self, rng: np.random.Generator) -> tuple[str, str]:
        name, body, allowed = self.hostile[int(rng.integers(len(self.hostile)))]
        connection, _ = self._sent({"model": "tiny", "max_tokens": 4} | body if isinstance(body, dict) else body)
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        told = reply.status in allowed and "error" in json.loads(data)
        return f"hostile {name}", "" if told else f"{reply.status}: {data[:200]!r}"


def check_all(program: Sequence[str], folder: Path, seed: int, requests: int, load: Load) -> Iterator[Outcome]:
    """What became of each request; `load` is filled on the way."""
    with serving(program, write_tiny(folder / "tiny")) as (port, process):
        clients = Clients(port, seed)
        for first, last in ((0, requests // 10), (requests // 10, requests)):
            for outcome in _all(clients.ask, range(first, last)):
                load.counts[outcome.name.split(" ")[0]] += 1
                yield outcome
            load.early, load.late = load.late or _settled(port, process), _settled(port, process)
        if status(port, "/health") != 200:
            yield Outcome(name="health", fault="the engine broke")


def _settled(port: int, process: int) -> float:
    """Memory once nothing is at hand any more."""
    ends = time.monotonic() + PATIENCE
    while time.monotonic() < ends:
        connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        if not sum(float(line.split()[1]) for line in lines if line.startswith(("sightline_num_requests_running ", "sightline_num_requests_waiting "))):
            break
        time.sleep(0.1)
    return memory(process)


def _all(ask: Callable[[int], Outcome], numbers: Sequence[int]) -> list[Outcome]:
    """All of them, by several clients."""
    todo, found, lock = list(reversed(numbers)), [], threading.Lock()

    def client() -> None:
        while True:
            with lock:
                if not todo:
                    return
                number = todo.pop()
            outcome = ask(number)
            with lock:
                found.append(outcome)

    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
