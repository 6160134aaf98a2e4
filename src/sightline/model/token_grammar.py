"""A grammar of symbols as a grammar of tokens: after each state of it the tokens of a vocabulary whose bytes it allows, found by one walk of all tokens at once.

    tokenizer --token_bytes--> Vocabulary (a trie) --TokenGrammar.allowed(state)--> token ids and the states after them --Guide--> what one answer may go on with

Letters: N nodes of the trie, V tokens.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from sightline.errors import Problem, Refused
from sightline.model.processor import Processor
from sightline.model.tokens import TextTokenizer
from sightline.samples.grammar import DEAD, Automaton, Grammar, GrammarName, fixed, joined, optional

_REMEMBERED = 32 << 20
"""Bytes of states' tokens that are kept: most states allow few, and those inside phrases and strings a vocabulary each."""
_FAR = 1 << 30
"""Tokens to an end that the vocabulary cannot write."""
_LONGEST = 64
"""Bytes of a token; longer ones, runs of spaces and rules of text, are in no answer that a grammar describes."""
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_signs() -> dict[str, int]:
    """The characters that stand for bytes in a byte-level vocabulary (GPT-2, 2019): printed ones for themselves, the others from U+0100 on."""
    printed = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + number): byte for number, byte in enumerate(others)}


def token_bytes(tokenizer: TextTokenizer) -> list[bytes | None]:
    """The bytes that each id adds to a text; None for control tokens and for ids without a token.

    Byte-level vocabularies and those of sentencepiece, with bytes or without. Refused for others, whose words have spaces between them that no token holds.
    """
    document = json.loads(tokenizer.document)
    kinds = {str(part["type"]) for part in _parts(document.get("decoder"))}
    added = {token["id"] for token in document["added_tokens"]}
    signs = _byte_signs()
    found: list[bytes | None] = [None] * tokenizer.size
    if not kinds & {"ByteLevel", "Metaspace"} and not any(part["type"] == "Replace" and part["content"] == " " for part in _parts(document.get("decoder"))):
        raise Refused(
            Problem(
                code="model/tokens-without-bytes",
                place="tokenizer",
                found=f"a decoder of {', '.join(sorted(kinds)) or 'nothing'}",
                allowed="a byte-level vocabulary, or one of sentencepiece",
                fix="let answers be drawn without a grammar",
            )
        )
    for token, number in tokenizer.vocabulary().items():
        if number in added:
            continue
        if "ByteLevel" in kinds:
            found[number] = bytes(signs[sign] for sign in token) if all(sign in signs for sign in token) else None
        elif "ByteFallback" in kinds and (byte := _BYTE.fullmatch(token)):
            found[number] = bytes((int(byte[1], 16),))
        else:
            found[number] = token.replace("\u2581", " ").encode()
    return found


def _parts(decoder: dict[str, object] | None) -> list[dict[str, object]]:
    """A decoder's steps."""
    if decoder is None:
        return []
    steps = decoder.get("decoders")
    return [part for step in steps for part in _parts(step)] if isinstance(steps, list) else [decoder]


class Vocabulary:
    """All tokens as a trie of their bytes. Nodes are numbered level by level, the children of a node next to each other; node 0 is the empty text."""

    def __init__(self, tokens: list[bytes | None]) -> None:
        known = sorted((text, number) for number, text in enumerate(tokens) if text and len(text) <= _LONGEST)
        texts = [text for text, _ in known]
        ids = np.array([number for _, number in known], np.int64)
        lengths = np.array([len(text) for text in texts], np.int64)
        width = int(lengths.max(initial=0))
        letters = np.frombuffer(b"".join(text.ljust(width, b"\0") for text in texts), np.uint8).reshape(len(texts), width)
        same = np.zeros(len(texts), np.int64)
        """Bytes that a token shares with the one before it."""
        if len(texts) > 1:
            equal = np.logical_and.accumulate(letters[1:] == letters[:-1], axis=1).sum(1)
            same[1:] = np.minimum(equal, np.minimum(lengths[1:], lengths[:-1]))
        above = np.zeros(len(texts), np.int64)
        parents, signs, ends = [np.zeros(1, np.int64)], [np.zeros(1, np.uint8)], np.zeros(len(texts), np.int64)
        first = 1
        for depth in range(1, width + 1):
            rows = np.flatnonzero(lengths >= depth)
            fresh = same[rows] < depth
            nodes = first + np.cumsum(fresh) - 1
            parents.append(above[rows[fresh]])
            signs.append(letters[rows[fresh], depth - 1])
            above[rows] = nodes
            ends[rows[lengths[rows] == depth]] = nodes[lengths[rows] == depth]
            first += int(fresh.sum())
        self.signs = np.concatenate(signs)
        """(N,): the byte that leads to each node."""
        self.children = np.searchsorted(np.concatenate(parents)[1:], np.arange(first + 1)) + 1
        """(N + 1,): the children of node n are children[n] .. children[n + 1] - 1."""
        order = np.argsort(ends, kind="stable")
        self.ids = ids[order]
        """(V,): token ids, in the order of the nodes where their texts end."""
        self.tokens = np.searchsorted(ends[order], np.arange(first + 1))
        """(N + 1,): the tokens of node n are ids[tokens[n] : tokens[n + 1]]."""

    @cached_property
    def alone(self) -> frozenset[int]:
        """Bytes that are tokens by themselves."""
        first, last = int(self.children[0]), int(self.children[1])
        return frozenset(int(self.signs[node]) for node in range(first, last) if self.tokens[node] < self.tokens[node + 1])

    def walk(self, automaton: Automaton, state: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Tokens that may stand after a state, and the states after them."""
        nodes, states = np.zeros(1, np.int64), np.array([state], np.int32)
        ids, after = [], []
        while len(nodes):
            places, owners = _spread(self.children, nodes)
            reached = automaton.walk(states[owners], self.signs[places])
            alive = reached != DEAD
            nodes, states = places[alive], reached[alive]
            places, owners = _spread(self.tokens, nodes)
            ids.append(self.ids[places])
            after.append(states[owners])
        return np.concatenate(ids), np.concatenate(after)


def _spread(bounds: NDArray[np.int64], nodes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All places bounds[n] .. bounds[n + 1] - 1 of the nodes, and which of the nodes each belongs to."""
    counts = bounds[nodes + 1] - bounds[nodes]
    owners = np.repeat(np.arange(len(nodes)), counts)
    return np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(bounds[nodes], counts), owners


@dataclass(frozen=True, kw_only=True)
class Allowed:
    """What may follow a state: tokens, the states after them, and the fewest symbols from each of those to an end of the text."""

    ids: NDArray[np.int64]
    states: NDArray[np.int32]
    left: NDArray[np.int64]
    most: int
    """The largest of `left`."""

    @property
    def bytes(self) -> int:
        """Of its arrays."""
        return self.ids.nbytes + self.states.nbytes + self.left.nbytes


class TokenGrammar:
    """The answers of a grammar in the tokens of a tokenizer. `prefix`: text that the chat format writes before an answer; `stop`: text that ends one, where no token does.

    `whole`: an answer that has no room for its end is refused. Else it may be cut off, and room is counted in tokens, not in symbols.
    """

    def __init__(self, vocabulary: Vocabulary, tokenizer: TextTokenizer, grammar: Grammar, prefix: str = "", stop: str = "", whole: bool = True) -> None:
        before = joined(optional(fixed(" ")) if tokenizer.spaces else fixed(""), fixed(prefix))
        self.automaton = Automaton(joined(before, grammar.start, fixed(stop)))
        self.whole = whole
        self._vocabulary = vocabulary
        self._controls = {token: tokenizer.control(token) for token in grammar.controls}
        self.end = None if stop else tokenizer.end_id
        """The token that ends an answer; none where a text does."""
        self._stop = len(stop.encode())
        self._known: OrderedDict[int, Allowed] = OrderedDict()
        self._bytes = 0
        self._needed: dict[int, int] = {}
        self._check()

    def left(self, state: int) -> int:
        """Fewest symbols to the end of what is said; 0 where nothing more needs to be said."""
        return max(0, self.automaton.least[state] - self._stop)

    def allowed(self, state: int) -> Allowed:
        """What may follow a state. The end token may where the text is whole; it leads to the same state."""
        found = self._known.get(state)
        if found is not None:
            self._known.move_to_end(state)
            return found
        ids, states = self._vocabulary.walk(self.automaton, state)
        more = [(self._controls[name], after) for name, after in self.automaton.names(state).items()]
        if self.end is not None and self.automaton.least[state] == 0:
            more.append((self.end, state))
        ids = np.concatenate([ids, np.array([number for number, _ in more], np.int64)])
        states = np.concatenate([states, np.array([after for _, after in more], np.int32)])
        left = np.maximum(0, np.array(self.automaton.least, np.int64)[states] - self._stop)
        found = self._known[state] = Allowed(ids=ids, states=states, left=left, most=int(left.max(initial=0)))
        self._bytes += found.bytes
        while self._bytes > _REMEMBERED and len(self._known) > 1:
            self._bytes -= self._known.popitem(last=False)[1].bytes
        return found

    def needed(self, state: int) -> int:
        """Tokens, at most, to the end of what is said along the longest pieces of the shortest way."""
        path: list[int] = []
        while state not in self._needed and self.left(state):
            allowed = self.allowed(state)
            nearest = int(allowed.left.argmin()) if len(allowed.left) else -1
            if nearest < 0 or allowed.left[nearest] >= self.left(state):
                self._needed[state] = _FAR
                break
            path.append(state)
            state = int(allowed.states[nearest])
        tokens = self._needed.get(state, 0)
        for before in reversed(path):
            tokens += 1
            self._needed[before] = tokens
        return tokens

    def _check(self) -> None:
        """Refused where the vocabulary cannot write the shortest answer symbol by symbol."""
        state = 0
        while self.left(state):
            allowed = self.allowed(state)
            nearer = np.flatnonzero(allowed.left < self.left(state))
            if not len(nearer):
                raise self.stuck(state)
            state = int(allowed.states[nearer[0]])

    def stuck(self, state: int) -> Refused:
        """Why an answer cannot go on."""
        wanted = sorted({repr(chr(byte)) for byte in range(0x21, 0x7F) if self.automaton.after(state, byte) != DEAD} | set(self.automaton.names(state)))
        fix = "train the tokenizer with all bytes, or let answers be drawn without a grammar"
        return Refused(
            Problem(
                code="model/vocabulary-cannot-say",
                place="tokenizer",
                found=f"no token for any of {', '.join(wanted)[:120]}",
                allowed="a token for each sign of the codec",
                fix=fix,
            )
        )


_VOCABULARIES: WeakKeyDictionary[TextTokenizer, Vocabulary] = WeakKeyDictionary()
_GRAMMARS: WeakKeyDictionary[Processor, dict[GrammarName, TokenGrammar]] = WeakKeyDictionary()


def vocabulary_of(tokenizer: TextTokenizer) -> Vocabulary:
    """The vocabulary of a tokenizer, made once. Refused where its tokens have no bytes."""
    found = _VOCABULARIES.get(tokenizer)
    if found is None:
        found = _VOCABULARIES[tokenizer] = Vocabulary(token_bytes(tokenizer))
    return found


def token_grammar(processor: Processor, said: GrammarName) -> TokenGrammar:
    """The grammar of a model's codec in its tokens, made once. Refused where the model has no codec, its codec no grammar, or its tokenizer no bytes."""
    known = _GRAMMARS.setdefault(processor, {})
    if said not in known:
        codec = processor.config.codec
        if codec is None:
            fix = "choose a model with a codec, or let answers be drawn without a grammar"
            raise Refused(
                Problem(code="model/no-codec", place="decoding.grammar", found="a model without a codec", allowed="a model that writes regions", fix=fix)
            )
        grammar = codec.grammar(said)
        if grammar is None:
            fix = "choose a codec that has one, or let answers be drawn without a grammar"
            raise Refused(Problem(code="model/no-grammar", place="codec", found=type(codec).__name__, allowed="a codec with a grammar", fix=fix))
        known[said] = in_tokens(processor, grammar)
    return known[said]


def in_tokens(processor: Processor, grammar: Grammar, whole: bool = True) -> TokenGrammar:
    """A grammar in a model's tokens, between what its chat format writes before an answer and what ends one. Refused where the tokenizer has no bytes, or cannot write the shortest answer."""
    prefix = processor.chat.assistant.prefix
    prefix = prefix.removeprefix(" ") if processor.tokenizer.spaces else prefix
    return TokenGrammar(vocabulary_of(processor.tokenizer), processor.tokenizer, grammar, prefix, processor.chat.stop, whole)


@dataclass(kw_only=True)
class Guide:
    """One answer as it is drawn, of at most `room` more tokens.

    While there is room, every token of the grammar may follow. A token after which what is said could not be brought to its end any more is not taken; an answer that wanted one is
    `pressed`: it ends as soon as it may, without an end token, so that it is told as one that was cut off (`length`) and holds no half of a region.
    """

    grammar: TokenGrammar
    room: int
    state: int = 0
    pressed: bool = False

    def __post_init__(self) -> None:
        if self.grammar.whole and self.grammar.left(0) > self.room:
            allowed = f"at least {self.grammar.left(0)} for the shortest answer of the grammar"
            raise Refused(Problem(code="model/no-room", place="decoding.max_tokens", found=str(self.room), allowed=allowed, fix="raise max_tokens"))

    def allowed(self) -> NDArray[np.int64]:
        """Ids of the tokens of the grammar that may follow, whatever room there is."""
        return self.grammar.allowed(self.state).ids

    @property
    def tight(self) -> bool:
        """Whether some of them do not fit into the room that is left."""
        return self.grammar.allowed(self.state).most >= self.room

    def fitting(self, likeliest: int) -> NDArray[np.int64]:
        """Those of them that leave room for an end; `likeliest` is the place of the one that the model would take. Where none does, and the answer need not be whole, all of them."""
        found = self.grammar.allowed(self.state)
        fits = found.left < self.room
        if not self.grammar.whole:
            places = np.flatnonzero(~fits)
            states, owners = np.unique(found.states[places], return_inverse=True)
            fits[places] = np.array([self.grammar.needed(state) < self.room for state in states.tolist()], bool)[owners]
        if not fits.any():
            if self.grammar.whole:
                raise self.grammar.stuck(self.state)
            return found.ids
        self.pressed = self.pressed or not fits[likeliest]
        return found.ids[fits]

    def take(self, token: int) -> None:
        """The token that was drawn among them."""
        found = self.grammar.allowed(self.state)
        self.state = int(found.states[np.flatnonzero(found.ids == token)[0]])
        self.room -= 1

    @property
    def closed(self) -> bool:
        """Whether the answer was pressed, and is whole."""
        return self.pressed and self.grammar.left(self.state) == 0
