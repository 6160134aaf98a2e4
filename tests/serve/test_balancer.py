"""The balancer of deploy/nginx.conf before our own servers: who goes where, what is asked again, and what never is."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from scripted_words import Script, tiny
from servers import Running, running, shown

pytestmark = pytest.mark.slow
PATIENCE = 60.0


@pytest.fixture(scope="module")
def nginx() -> str:
    """The program. Under CI it must be there."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("no nginx: under CI the balancer's example is tried (Debian: apt-get install nginx-light)")
        pytest.skip("no nginx: apt-get install nginx-light")
    return found


@pytest.fixture(scope="module")
def script() -> Script:
    """What all servers say."""
    return Script("two pools, a road and three houses")


@pytest.fixture(scope="module")
def models(script: Script) -> list[Any]:
    """A model and its processor for each of three engines."""
    found = [tiny("flat") for _ in range(3)]
    for _, processor in found:
        script.direct(processor)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


@contextmanager
def balanced(nginx: str, example: Path, folder: Path, ports: Sequence[int]) -> Iterator[int]:
    """The port of the balancer, its example's own addresses replaced by these."""
    port = free_port()
    text = example.read_text(encoding="utf-8")
    assert re.findall(r"server 127\.0\.0\.1:(\d+)", text) == ["8001", "8002", "8003"] and len(ports) == 3
    for own, real in zip((8001, 8002, 8003, 8000), (*ports, port), strict=True):
        text = text.replace(f"127.0.0.1:{own}", f"127.0.0.1:{real}")
    folder.mkdir()
    file = folder / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(file), "-g", "daemon off;"])
    try:
        ends = time.monotonic() + PATIENCE
        while not listens(port):
            assert process.poll() is None and time.monotonic() < ends
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def ask(port: int, session: str = "", **more: Any) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    body = json.dumps({"model": "tiny", "messages": shown(), "max_tokens": 20} | more)
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json", **({"x-session-id": session} if session else {})})
    reply = connection.getresponse()
    found = reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read()
    connection.close()
    return found


@pytest.fixture
def three(models: list[Any], script: Script, nginx: str, repository: Path, tmp_path: Path) -> Iterator[tuple[list[Running], int]]:
    """Three servers and the balancer before them."""
    script.pause = 0.0
    with ExitStack() as stack:
        servers = [stack.enter_context(running(*one, engine={"max_num_queued_reqs": 1, "max_num_seqs": 1})) for one in models]
        port = stack.enter_context(balanced(nginx, repository / "deploy" / "nginx.conf", tmp_path / "nginx", [server.port for server in servers]))
        yield servers, port


def answered(servers: Sequence[Running]) -> list[int]:
    """Answers of each server."""
    return [
        int(sum(sample.value for family in one.served.meters.success.collect() for sample in family.samples if sample.name.endswith("_total")))
        for one in servers
    ]


def whose(servers: Sequence[Running], port: int, session: str) -> int:
    """The number of the server that answers a session."""
    before = answered(servers)
    assert ask(port, session, max_tokens=1)[0] == 200
    [found] = [number for number, (one, other) in enumerate(zip(before, answered(servers), strict=True)) if other > one]
    return found


def test_a_session_stays_with_its_server_and_few_move_when_one_is_away(three: tuple[list[Running], int]) -> None:
    servers, port = three
    sessions = [f"picture-{number}" for number in range(30)]
    places = {session: whose(servers, port, session) for session in sessions}
    assert set(places.values()) == {0, 1, 2}
    assert {session: whose(servers, port, session) for session in sessions} == places
    assert servers[0].served.engine is not None
    servers[0].served.engine.draining = True  # as after SIGTERM: 503 for all that comes
    moved = {session: whose(servers, port, session) for session in sessions}
    assert 0 not in moved.values()
    assert all(moved[session] == place for session, place in places.items() if place != 0), "the others stay where they are"


def test_without_a_session_a_client_stays_with_a_server(three: tuple[list[Running], int]) -> None:
    servers, port = three
    assert len({whose(servers, port, "") for _ in range(6)}) == 1


def test_what_finds_a_full_server_is_answered_by_another_and_a_full_balancer_says_when(three: tuple[list[Running], int], script: Script) -> None:
    servers, port = three
    script.pause = 0.1
    found: list[tuple[int, dict[str, str], bytes]] = []
    threads = [threading.Thread(target=lambda: found.append(ask(port, "one-session"))) for _ in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert {status for status, *_ in found} == {200, 503} and all(answered(servers)), "one session, and yet all three answer"
    declined = [(int(headers["retry-after"]), json.loads(body)["error"]["type"]) for status, headers, body in found if status == 503]
    assert min(seconds for seconds, _ in declined) >= 1 and {kind for _, kind in declined} == {"ServiceUnavailableError"}


def test_words_come_as_they_are_written(three: tuple[list[Running], int], script: Script) -> None:
    _, port = three
    script.pause = 0.1
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    body = json.dumps({"model": "tiny", "messages": shown(), "max_tokens": 20, "stream": True})
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    reply, times = connection.getresponse(), []
    while line := reply.readline():
        times += [time.monotonic()] if line.startswith(b"data: {") else []
    connection.close()
    assert len(times) > 8 and times[-1] - times[1] > 0.5, "not all at once"


def test_a_body_that_is_too_large_goes_no_further(three: tuple[list[Running], int]) -> None:
    servers, port = three
    assert ask(port, messages=[{"role": "user", "content": "x" * (21 << 20)}])[0] == 413
    assert answered(servers) == [0, 0, 0]


class Broken(threading.Thread):
    """A server that breaks off: after the head and an event of its answer, or before anything."""

    def __init__(self, begun: bool) -> None:
        super().__init__(daemon=True)
        self.begun, self.asked = begun, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self.listening.accept()
            head = connection.recv(1 << 16)
            if head:
                self.asked += 1
                if self.begun:
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
                    connection.sendall(b"d\r\ndata: {...}\n\n\r\n")
                    time.sleep(0.3)
            connection.close()


@pytest.mark.parametrize(("begun", "times"), [(True, 1), (False, 3)])
def test_nothing_is_asked_again_after_the_first_byte(begun: bool, times: int, nginx: str, repository: Path, tmp_path: Path) -> None:
    servers = [Broken(begun) for _ in range(3)]
    with balanced(nginx, repository / "deploy" / "nginx.conf", tmp_path / "nginx", [server.port for server in servers]) as port:
        if begun:
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                ask(port, "s", stream=True)
        else:
            status, headers, body = ask(port, "s", stream=True)
            assert (status, headers["retry-after"]) == (503, "5") and json.loads(body)["error"]["code"] == "balancer/away"
    assert sum(server.asked for server in servers) == times
