"""A server of chat completions whose replies are given, and what such replies look like."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sightline.serve.chat_client import ChatServer

Given = tuple[int, dict[str, str], bytes]


def answer(*texts: str, **message: Any) -> dict[str, Any]:
    """A chat completion with a choice for each text; `message` holds more fields of each."""
    choices = [{"index": number, "message": {"content": text, **message}, "finish_reason": "stop"} for number, text in enumerate(texts)]
    return {"choices": choices}


def given(*texts: str, **message: Any) -> Given:
    """A reply with an answer."""
    return 200, {}, json.dumps(answer(*texts, **message)).encode()


class ScriptedChat(ThreadingHTTPServer):
    """Gives replies (status, headers, body) in order, the last again and again, and keeps what it was asked. `pause`: seconds before each."""

    daemon_threads = True

    def __init__(self, *replies: Given, pause: float = 0.0) -> None:
        self.replies, self.pause, self.asked = list(replies), pause, list[tuple[dict[str, str], Any]]()
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def chat(self) -> ChatServer:
        """How to ask it."""
        return ChatServer(url=f"http://127.0.0.1:{self.server_port}/v1", model="there", key="secret", timeout=5.0)

    def next(self) -> Given:
        """The reply whose turn it is."""
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedChat

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((dict(self.headers), body | {"path": self.path}))
        if self.server.pause:
            time.sleep(self.server.pause)
        status, headers, data = self.server.next()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *said: object) -> None:
        """Nothing."""
