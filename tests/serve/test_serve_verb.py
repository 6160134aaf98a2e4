"""`sightline serve` as a process: what it refuses, what the documentation says, and how it ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from compositions import composition
from scripted_words import question, tiny, write_run
from servers import limited, png
from tiny_models import TEXTS, built

from sightline.cli.main import main
from sightline.errors import Refused
from sightline.evaluate.answering import LocalAnswerer, load_checked
from sightline.evaluate.golden import write_golden
from sightline.model import directory
from sightline.model.tokens import train_tokenizer
from sightline.samples.exchange import Decoding, Request
from sightline.serve.server import load

PATIENCE = 180.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = composition("flat")
    tokenizer = train_tokenizer(TEXTS, 340, config.chat_format(), config.controls())
    out = tmp_path_factory.mktemp("served") / "tiny"
    out.mkdir()
    directory.save(out, *built(config.resolve(400, control=tokenizer.control), tokenizer))
    return out


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def get(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@contextmanager
def serving(folder: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port = free_port()
    words = [sys.executable, "-m", "sightline", "serve", str(folder), "--port", str(port), "--no-verify", *more]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    ends = time.monotonic() + PATIENCE
    try:
        while get(port, "/ready") != 200:
            assert process.poll() is None and time.monotonic() < ends, process.stderr and process.stderr.read()
            time.sleep(0.2)
        yield process, port
    finally:
        process.kill()
        process.wait()


def ask(port: int, tokens: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": tokens})
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def taken(port: int) -> float:
    """Requests that the engine has at hand."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return sum(float(line.split()[1]) for line in lines if line.startswith(("sightline_num_requests_running ", "sightline_num_requests_waiting ")))


def test_at_sigterm_what_was_taken_is_answered_and_nothing_more_is_taken(folder: Path) -> None:
    with serving(folder, "--max-num-seqs", "2", "--drain-timeout", "120") as (process, port):
        statuses: list[int] = []
        threads = [threading.Thread(target=lambda: statuses.append(ask(port, 150))) for _ in range(6)]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + PATIENCE
        while taken(port) < 6 and time.monotonic() < ends:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        late = []
        while process.poll() is None and any(thread.is_alive() for thread in threads):
            try:
                late.append(ask(port, 2))
            except OSError:
                break
            time.sleep(0.05)
        for thread in threads:
            thread.join(PATIENCE)
        assert process.wait(PATIENCE) == 0
    assert statuses == [200] * 6, "taken before the signal"
    assert set(late) <= {503}


@pytest.mark.slow
def test_under_load_a_server_ends_within_its_time(folder: Path) -> None:
    """16 clients that ask again and again, half of them streams: what was let in is answered whole, all else is told 503 or finds the door shut, and the process is gone in time."""
    with serving(folder, "--max-num-seqs", "4", "--drain-timeout", "120") as (process, port):
        ended, lock = threading.Event(), threading.Lock()
        found: list[tuple[float, float, int, bool]] = []

        def client(number: int) -> None:
            while not ended.is_set():
                began = time.monotonic()
                try:
                    status, whole = told(port, 20 + number, stream=number % 2 == 0)
                except OSError:
                    return
                with lock:
                    found.append((began, time.monotonic(), status, whole))
                if status == 503:
                    time.sleep(0.05)

        threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        while len(found) < 30:
            time.sleep(0.05)
        at = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        took = time.monotonic() - at
        ended.set()
        for thread in threads:
            thread.join(PATIENCE)
    assert took < 120 and {status for _, _, status, _ in found} == {200, 503} and all(whole for _, _, status, whole in found if status == 200)
    assert not [began for began, _, status, _ in found if status == 503 and began < at - 1.0], "only what came after the signal"
    assert [end for _, end, status, _ in found if status == 200 and end > at], "what was being answered was finished"


@pytest.mark.slow
def test_what_is_not_finished_in_time_is_told_so_and_the_server_ends(folder: Path) -> None:
    with serving(folder, "--max-num-seqs", "1", "--drain-timeout", "0.5") as (process, port):
        found: list[tuple[int, bool]] = []
        threads = [threading.Thread(target=lambda stream=stream: found.append(told(port, 380, stream))) for stream in (True, False, True, False)]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + PATIENCE
        while taken(port) < 4 and time.monotonic() < ends:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(PATIENCE)
        assert process.wait(PATIENCE) == 0
    assert len(found) == 4 and {status for status, _ in found} <= {200, 503} and [one for one in found if one == (503, False)]


def told(port: int, tokens: int, stream: bool) -> tuple[int, bool]:
    """Status of an answer, and whether it was whole."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Where?"}], "max_tokens": tokens, "stream": stream})
    try:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        reply = connection.getresponse()
        data = reply.read()
    finally:
        connection.close()
    if not stream or reply.status != 200:
        return reply.status, b'"finish_reason"' in data
    return reply.status, b'"finish_reason": "' in data and data.endswith(b"data: [DONE]\n\n")


def test_curl_of_the_documentation_is_answered(folder: Path, repository: Path) -> None:
    text = (repository / "docs" / "serving.md").read_text(encoding="utf-8")
    [line] = re.findall(r"^curl .*$", text, re.MULTILINE)
    with serving(folder, "--served-model-name", "quickstart") as (_, port):
        done = subprocess.run(["bash", "-c", line.replace(":8000", f":{port}")], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["role"] == "assistant"


def test_golden_requests_are_computed_again_at_every_start(tmp_path: Path) -> None:
    """Also where an earlier start found them right, and remembered it: what changed since need not be the weights."""
    folder = write_run(tmp_path / "run", *tiny("flat"), [])
    golden = folder / "stages" / "01-see" / "model" / "golden"
    model, processor, weights = load_checked(folder, check=False)
    asked = Request(sample=question("Where?", png(1)), decoding=Decoding(max_tokens=4))
    answer = next(LocalAnswerer(model, processor, weights).answer([asked]))
    write_golden(golden.parent, model, processor, [(asked.sample, answer)])
    assert load(folder, limited()).weights == weights and (golden / "checked.json").is_file()
    said = json.loads((golden / "requests.jsonl").read_text(encoding="utf-8"))
    for wrong in ([logp - 0.5 for logp in said["logps"]], [float("nan")] * len(said["logps"])):
        (golden / "requests.jsonl").write_text(json.dumps(said | {"logps": wrong}), encoding="utf-8")
        load_checked(folder)  # remembered: an evaluation asks once
        with pytest.raises(Refused, match="evaluate/golden-differs"):
            load(folder, limited())
    assert load(folder, limited(), check=False).weights == weights
    shutil.rmtree(golden)
    with pytest.raises(Refused, match="evaluate/no-golden"):
        load(folder, limited())


def test_an_open_door_needs_a_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folder), "--host", "0.0.0.0"]) == 2
    assert "usage/open-door" in capsys.readouterr().err
