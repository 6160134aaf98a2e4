"""A local endpoint that speaks the OpenAI protocol and says what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""The text of an answer, or (status, JSON or bytes) or (status, JSON or bytes, headers)."""


@dataclass
class Scripted:
    """The endpoint: its address, and what it was asked."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    busy: int = 0
    """Requests that are being answered now."""
    busiest: int = 0


@contextmanager
def scripted(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[Scripted]:
    """An endpoint for the length of a test. `reply` is given the request and its number."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(endpoint.asked)
                endpoint.asked.append({**asked, "path": self.path})
                endpoint.keys.append(self.headers.get("Authorization"))
                endpoint.busy += 1
                endpoint.busiest = max(endpoint.busiest, endpoint.busy)
            said = reply(asked, number)
            status, value, headers = (200, _completion(said), {}) if isinstance(said, str) else (*said, {})[:3]
            with lock:
                endpoint.busy -= 1
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, one in headers.items():
                self.send_header(name, one)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint = Scripted(url=f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _completion(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}], "usage": {"total_tokens": 10}}
