"""A share of live traffic is also asked of another server, and both answers are compared (shadowing). It happens after our answer has gone: nothing of it delays or fails an answer.

Of what is asked and answered nothing is kept but whether both said the same, unless the settings say so.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import Counter, Histogram

from sightline.serve.chat_client import LONGEST, ChatServer, Reply, ask, of_stream
from sightline.serve.compared_replies import outcome
from sightline.serve.guard import App, Receive, Scope, Send
from sightline.serve.meters import SECONDS, Meters
from sightline.serve.settings import CanarySettings, ServerSettings

ROUTE = "/v1/chat/completions"


class CanaryMeters:
    """What is counted of the other server, in the registry of a server's own meters."""

    def __init__(self, meters: Meters) -> None:
        told: dict[str, Any] = {"registry": meters.registry, "namespace": "sightline"}
        self.outcomes = Counter("canary_requests", "Requests chosen to be asked of the other server too, by what came of it", ["outcome"], **told)
        self.seconds = Histogram("canary_e2e_request_latency_seconds", "From the request to the other server's whole answer", buckets=SECONDS, **told)
        self.faults = Counter("canary_faults", "Comparisons that raised", **told)
        for name in ("equal", "differ", "failed", "skipped", "dropped"):
            self.outcomes.labels(name)


@dataclass(kw_only=True)
class _Taken:
    """One exchange as it went by."""

    name: str = ""
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    streamed: bool = False
    whole: bool = False
    asked: bytearray = field(default_factory=bytearray)
    answered: bytearray = field(default_factory=bytearray)
    seconds: float = 0.0

    def receiving(self, receive: Receive, most: int) -> Receive:
        async def found() -> Any:
            message = await receive()
            if message["type"] == "http.request" and len(self.asked) <= most:
                self.asked += message.get("body", b"")
            return message

        return found

    def sending(self, send: Send) -> Send:
        async def sent(message: Any) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                headers = {key.lower(): value for key, value in message.get("headers", ())}
                self.status, self.name = message["status"], headers.get(b"x-request-id", b"").decode("latin-1")
                self.streamed = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            elif len(self.answered) <= LONGEST:
                self.answered += message.get("body", b"")
                self.whole = not message.get("more_body", False)

        return sent


class ShadowTraffic:
    """Lets everything through to an app, and asks the other server a share of the chats that were answered. `draw` gives numbers in 0..1."""

    def __init__(self, app: App, settings: ServerSettings, meters: Meters, draw: Callable[[], float] = random.random) -> None:
        assert settings.canary is not None, "there is another server"
        self.app, self.settings, self.draw = app, settings, draw
        self.canary: CanarySettings = settings.canary
        self.meters = CanaryMeters(meters)
        self._waiting: queue.Queue[_Taken] = queue.Queue(self.canary.most_waiting)
        self._secret = secrets.token_bytes(32)  # without it, hashes of short answers could be guessed from a list of them
        self._writing = threading.Lock()
        for number in range(self.canary.concurrency):
            threading.Thread(target=self._work, name=f"canary-{number}", daemon=True).start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != ROUTE or self.draw() >= self.canary.share:
            await self.app(scope, receive, send)
            return
        taken = _Taken()
        await self.app(scope, taken.receiving(receive, self.settings.max_body_bytes), taken.sending(send))
        taken.seconds = time.monotonic() - taken.began
        self._hand_over(taken)

    def _hand_over(self, taken: _Taken) -> None:
        if taken.status != 200 or not taken.whole:
            self.meters.outcomes.labels("skipped").inc()
            return
        try:
            self._waiting.put_nowait(taken)
        except queue.Full:
            self.meters.outcomes.labels("dropped").inc()

    def wait(self) -> None:
        """Until all that was handed over is compared."""
        self._waiting.join()

    def _work(self) -> None:
        while True:
            taken = self._waiting.get()
            try:
                self._compare(taken)
            except Exception as error:  # whatever is wrong with a comparison, answers go on; it is counted, and told in the log
                self.meters.faults.inc()
                self._keep({"id": taken.name, "outcome": "fault", "error": type(error).__name__})
            finally:
                self._waiting.task_done()

    def _compare(self, taken: _Taken) -> None:
        request = json.loads(taken.asked)
        if request.get("temperature") and request.get("seed") is None:
            self.meters.outcomes.labels("skipped").inc()  # drawn by chance: even the same server would say something else
            return
        body = of_stream(bytes(taken.answered)) if taken.streamed else json.loads(taken.answered)
        ours = Reply(status=taken.status, seconds=taken.seconds, body=body)
        server = ChatServer(url=self.canary.url, model=self.canary.model, key=self.canary.key, timeout=self.settings.request_timeout)
        theirs = ask(server, request, taken.name)
        found = outcome(ours, theirs)
        self.meters.outcomes.labels(found).inc()
        if theirs.answered:
            self.meters.seconds.observe(theirs.seconds)
        line = {"id": taken.name, "outcome": found, "status": theirs.status, "seconds": {"ours": round(ours.seconds, 4), "theirs": round(theirs.seconds, 4)}}
        if self.canary.texts:
            self._keep(line | {"body": request, "ours": ours.texts, "theirs": theirs.texts, "error": theirs.error})
        else:
            self._keep(line | {"request": self._hash(request), "ours": self._hash(ours.texts), "theirs": self._hash(theirs.texts)})

    def _hash(self, value: Any) -> str:
        data = json.dumps(value, sort_keys=True).encode()
        return hmac.new(self._secret, data, hashlib.sha256).hexdigest()

    def _keep(self, line: Mapping[str, Any]) -> None:
        """A line of the log. The file is opened for each, so that it may be moved away at any time."""
        if self.canary.log is None:
            return
        data = json.dumps({"time": round(time.time(), 3), **line}, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with self._writing, self.canary.log.open("ab", buffering=0) as stream:
            stream.write(data)


def shadowed(app: App, settings: ServerSettings, meters: Meters) -> App:
    """The app, with its traffic shadowed where the settings name another server."""
    return app if settings.canary is None else ShadowTraffic(app, settings, meters)
