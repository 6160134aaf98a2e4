"""The engine: jobs join and leave between steps (iteration-level batching, Yu et al. 2022), prompts are read by pieces between the steps of the others (chunked prefill), clients take turns.

One thread computes. Whoever asks gets events from it and may cancel; nobody waits for it but in `drain`.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sightline.errors import Problem, Refused
from sightline.evaluate.drawn_masks import with_masks
from sightline.evaluate.generation import draw
from sightline.evaluate.guided import guided, guides_of
from sightline.model.packed_weights import PackedWeights
from sightline.model.processor import Processor
from sightline.model.token_grammar import Guide
from sightline.model.vlm import Model
from sightline.samples.exchange import Decoding
from sightline.samples.sample import Item
from sightline.serve.jobs import Added, Began, Declined, Ended, Failed, Job
from sightline.serve.meters import Meters
from sightline.serve.served_lines import Lines, lines_of
from sightline.serve.written_text import Writing


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """How much the engine does at a time, and how much may wait."""

    max_num_seqs: int = 16
    """Answers that are written together."""
    max_num_batched_tokens: int = 512
    """Tokens of a prompt that are read between two steps."""
    max_model_len: int = 0
    """Tokens of a prompt and its answer; 0 = what the model was made for."""
    max_num_queued_reqs: int = 256
    """Jobs that wait; more are declined with 503."""
    max_queued_per_client: int = 64
    """Jobs of one client that wait; more are declined with 429."""
    prefix_cache_bytes: int = 1 << 29
    """Keys and values of prompts that are kept to be known again; 0 = none."""
    precision: str = "float32"
    packed: bool = True
    """A second copy of the weights in the order that a CPU multiplies fastest."""


@dataclass(kw_only=True, eq=False)
class _Line:
    """An answer that is being written."""

    job: Job
    choice: int
    decoding: Decoding
    writing: Writing
    generator: torch.Generator | None
    guide: Guide | None = None
    """What holds it to a grammar."""
    logps: list[float] = field(default_factory=list)
    taps: list[Tensor] = field(default_factory=list)
    """Hidden states (D,) that predicted the tokens of masks."""


class Engine:
    """Answers jobs with one model. `start` it, `submit` to it, and `drain` it before the process ends."""

    def __init__(self, model: Model, processor: Processor, limits: EngineLimits, meters: Meters | None = None) -> None:
        longest = limits.max_model_len or processor.config.max_tokens
        self.model, self.processor, self.limits = model.eval(), processor, replace(limits, max_model_len=longest)
        self.meters = meters or Meters()
        self.draining = False
        self.broken: str = ""
        """Why the engine does nothing any more, where it does not."""
        self._lines: Lines = self._fresh()
        self._written: list[_Line] = []
        self._reading: Job | None = None
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._lock = threading.Condition()
        self._stopped = False
        self._failures = 0
        self._tap = processor.tap_id
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def _fresh(self) -> Lines:
        limits = self.limits
        return lines_of(self.model, self.processor, limits.precision, limits.max_num_seqs, limits.max_num_batched_tokens, limits.prefix_cache_bytes)

    # asked from other threads

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Take a job, or raise Declined: 400 where it can never be done, 429 where its client has too many, 503 where all have, or the engine is to end."""
        limits = self.limits
        if job.most > limits.max_model_len:
            longest = max(one.max_tokens for one in job.decodings)
            found, fix = f"{job.encoded.length} tokens of prompt and {longest} of answer", "shorten the prompt, show fewer pictures, or ask for fewer tokens"
            raise Declined(400, Problem(code="serve/context", place="messages", found=found, allowed=f"{limits.max_model_len} together", fix=fix))
        if len(job.decodings) > limits.max_num_seqs:
            problem = Problem(code="serve/choices", place="n", found=str(len(job.decodings)), allowed=f"at most {limits.max_num_seqs}", fix="ask for fewer")
            raise Declined(400, problem)
        with self._lock:
            if self.broken or self.draining:
                found = self.broken or "the server is about to end"
                raise Declined(503, Problem(code="serve/ending", place="server", found=found, allowed="a server that goes on", fix="try again soon"), 5.0)
            queue = self._waiting.get(job.client, ())
            if len(queue) >= limits.max_queued_per_client:
                found, allowed = f"{len(queue)} requests of this client wait", f"at most {limits.max_queued_per_client}"
                raise Declined(429, Problem(code="serve/too-many", place="client", found=found, allowed=allowed, fix="wait for some answers"), self._patience())
            if self.waiting >= limits.max_num_queued_reqs:
                found, allowed = f"{self.waiting} requests wait", f"at most {limits.max_num_queued_reqs}"
                raise Declined(503, Problem(code="serve/full", place="server", found=found, allowed=allowed, fix="try again soon"), self._patience())
            self._waiting.setdefault(job.client, deque()).append(job)
            self.meters.waiting.set(self.waiting)
            self._lock.notify()

    def cancel(self, job: Job) -> None:
        """Give a job up: nothing of it is told from the next step on."""
        job.cancelled = True
        with self._lock:
            self._lock.notify()

    @property
    def waiting(self) -> int:
        """Jobs that wait."""
        return sum(map(len, self._waiting.values()))

    @property
    def running(self) -> int:
        """Answers being written and prompts being read."""
        return len(self._written) + (self._reading is not None)

    def _patience(self) -> float:
        """Seconds after which a place may be free: what a job took lately times those before it in each place."""
        return max(1.0, round(self.meters.recent * self.waiting / self.limits.max_num_seqs, 1))

    def drain(self, timeout: float) -> bool:
        """Take nothing more, finish what was taken, for `timeout` s at most; whether all was finished. What was not is told so."""
        with self._lock:
            self.draining = True
            self._lock.notify()
        self._thread.join(timeout)
        whole = not self._thread.is_alive()
        with self._lock:
            self._stopped = True
            self._lock.notify()
        self._thread.join(30.0)
        return whole

    # the engine's thread

    def _run(self) -> None:
        try:
            with self._computing():
                while self._wait():
                    self._turn()
        except Exception as error:
            self.broken = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._fail_all("the server ended before the answer was whole" if not self.broken else "the engine failed", 503)

    @contextmanager
    def _computing(self) -> Iterator[None]:
        kind = next(self.model.parameters()).device.type
        dtype = torch.bfloat16 if self.limits.precision == "bfloat16" else torch.float32
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.autocast(kind, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16))
            if self.limits.packed and kind == "cpu":
                stack.enter_context(PackedWeights(self.model, dtype).used())
            yield

    def _wait(self) -> bool:
        """Until there is something to do; False where there will be nothing any more."""
        with self._lock:
            while not (self._waiting or self._written or self._reading or self._stopped or self.draining):
                self._lock.wait()
            return not self._stopped and (not self.draining or bool(self._waiting or self._written or self._reading))

    def _turn(self) -> None:
        """A piece of a prompt, and a step of all lines. What fails takes the jobs with it that it was about, and the engine goes on; three failures without a step between them end it."""
        try:
            self._drop_given_up()
            self._read_on()
            if self._written:
                self._step()
            self._failures = 0
        except Exception as error:
            self._failures += 1
            self.meters.failed.inc()
            self._fail_all(f"{type(error).__name__} in the engine", 500, waiting=False)
            self._lines = self._fresh()
            if self._failures >= 3:
                raise
        self.meters.waiting.set(self.waiting)
        self.meters.running.set(self.running)

    def _drop_given_up(self) -> None:
        now = time.monotonic()
        with self._lock:
            late = [job for queue in self._waiting.values() for job in queue if job.cancelled or job.deadline < now]
            for job in late:
                self._waiting[job.client].remove(job)
            for client in [client for client, queue in self._waiting.items() if not queue]:
                del self._waiting[client]
        for job in late:
            self._tell_given_up(job)
        if self._reading is not None and (self._reading.cancelled or self._reading.deadline < now):
            self._tell_given_up(self._reading)
            self._lines.drop()
            self._reading = None
        over = {line.job: None for line in self._written if line.job.cancelled or line.job.deadline < now}
        for job in over:
            self._tell_given_up(job)
            for number in reversed([number for number, line in enumerate(self._written) if line.job is job]):
                self._leave(number)

    def _tell_given_up(self, job: Job) -> None:
        self.meters.given_up.inc()
        if not job.cancelled:
            found, fix = f"no whole answer after {time.monotonic() - job.made:.0f} s", "ask for fewer tokens, or try again later"
            job.listen(Failed(declined=Declined(504, Problem(code="serve/timeout", place="server", found=found, allowed="an answer in time", fix=fix), 5.0)))

    def _next(self) -> Job | None:
        """The oldest job of the client whose turn it is, if there is room for its answers."""
        with self._lock:
            if not self._waiting:
                return None
            client, queue = next(iter(self._waiting.items()))
            if len(self._written) + len(queue[0].decodings) > self.limits.max_num_seqs:
                return None
            job = queue.popleft()
            self._waiting.move_to_end(client)
            if not queue:
                del self._waiting[client]
            return job

    def _read_on(self) -> None:
        """A piece of the prompt that is being read, or of the next one. What is wrong with a prompt, such as a picture that breaks off, is its own job's affair."""
        job = self._reading
        if job is None:
            job = self._reading = self._next()
            if job is None:
                return
            self.meters.queued.observe(time.monotonic() - job.made)
            cached = self._lines.open(job.encoded)
            self.meters.prompt(job.encoded.length, cached)
            job.listen(Began(cached=cached))
        try:
            h = self._lines.advance()
        except Refused as refused:
            self._lines.drop()
            self._reading = None
            job.listen(Failed(declined=Declined(400, refused.problems[0])))
            return
        if h is None:
            return
        self._lines.enter(len(job.decodings))
        fresh = [self._line(job, choice, decoding) for choice, decoding in enumerate(job.decodings)]
        self._written += fresh
        self._reading = None
        self.meters.first.observe(time.monotonic() - job.made)
        self._take(h.expand(len(fresh), -1), len(self._written) - len(fresh))

    def _line(self, job: Job, choice: int, decoding: Decoding) -> _Line:
        generator = torch.Generator().manual_seed(decoding.seed) if decoding.temperature > 0 else None
        writing = Writing(self.processor, decoding.stop, decoding.max_tokens)
        guide = Guide(grammar=job.grammar, room=decoding.max_tokens) if job.grammar is not None else guides_of(self.processor, {0: decoding}).get(0)
        return _Line(job=job, choice=choice, decoding=decoding, writing=writing, generator=generator, guide=guide)

    def _step(self) -> None:
        began = time.monotonic()
        h = self._lines.step([line.writing.tokens[-1] for line in self._written])
        self._take(h, 0)
        self.meters.step.observe(time.monotonic() - began)

    def _take(self, h: Tensor, first: int) -> None:
        """Draw a token for the lines from `first` on, from their hidden states (B, D); those that end leave."""
        lines = self._written[first:]
        assert self.model.language_model is not None
        logps = self.model.language_model.logits(h).log_softmax(-1)
        guides = {row: line.guide for row, line in enumerate(lines) if line.guide is not None}
        free = guided(logps, range(len(lines)), guides) if guides else logps
        tokens = free.argmax(-1).tolist()
        for row, line in enumerate(lines):
            if line.generator is not None:
                tokens[row] = draw(free[row], line.decoding, line.generator)
        chosen = logps.gather(1, torch.tensor(tokens, device=logps.device)[:, None])[:, 0].tolist()
        most = max(line.job.likeliest for line in lines)
        best = [one.tolist() for one in logps.topk(most, -1)] if most else None
        ended = []
        for row, line in enumerate(lines):
            if line.guide is not None:
                line.guide.take(tokens[row])
            closed = line.guide is not None and line.guide.closed
            if closed and tokens[row] == self.processor.tokenizer.end_id:  # for want of room: the end was not the model's word
                line.writing.close()
                ended.append(first + row)
                continue
            line.logps.append(chosen[row])
            if tokens[row] == self._tap:
                line.taps.append(h[row].clone())
            text = line.writing.add(tokens[row], closed)
            shown = tuple(zip(best[1][row], best[0][row]))[: line.job.likeliest] if best is not None else ()
            line.job.listen(Added(choice=line.choice, text=text, token=tokens[row], logp=chosen[row], likeliest=shown))
            if line.writing.finish is not None:
                ended.append(first + row)
        self.meters.generated.inc(len(lines))
        for number in reversed(ended):
            line = self._written[number]
            self._leave(number)
            finish, writing = line.writing.finish, line.writing
            assert finish is not None
            self.meters.finished(finish, time.monotonic() - line.job.made)
            items, problems = self._named(line)
            logps = tuple(line.logps)
            told = Ended(choice=line.choice, finish=finish, text=writing.text, tokens=tuple(writing.tokens), logps=logps, items=items, problems=problems)
            line.job.listen(told)

    def _named(self, line: _Line) -> tuple[tuple[Item, ...], tuple[Problem, ...]]:
        """What the text of a line says, its masks drawn; nothing where nobody asked."""
        sample, writing = line.job.sample, line.writing
        if sample is None or self.processor.config.codec is None:
            return (), ()
        items, problems = self.processor.items(writing.text, sample)
        return with_masks(self.model, self.processor, items, problems, writing.tokens, line.taps, sample)

    def _leave(self, number: int) -> None:
        self._lines.leave(number, self._written[number].writing.tokens)
        last = self._written.pop()
        if number < len(self._written):
            self._written[number] = last

    def _fail_all(self, found: str, status: int, waiting: bool = True) -> None:
        """Tell every job at hand that it failed; with `waiting`, those that wait as well."""
        jobs = dict.fromkeys([line.job for line in self._written] + ([self._reading] if self._reading is not None else []))
        if waiting:
            with self._lock:
                jobs |= dict.fromkeys(job for queue in self._waiting.values() for job in queue)
                self._waiting.clear()
        self._written, self._reading = [], None
        for job in jobs:
            problem = Problem(code="serve/failed", place="server", found=found, allowed="an answer", fix="try again")
            job.listen(Failed(declined=Declined(status, problem, 5.0 if status == 503 else None)))
