"""Fingerprints of pictures and texts: equal for what people would call the same, near for what was only resized, recompressed, turned or mirrored."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, reduce
from heapq import merge
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
"""Width and height in px of what hashes see of a picture."""
_NINE = 9
_LOW = 8
_BITS = 64
NEAR = 4
"""Largest distance, in bits of 64, of two pictures that are called near duplicates; on both hashes."""
FLAT = 3.0
"""A picture whose grey values spread less than this (standard deviation, 0..255) has no structure that a hash could see."""
PERMUTATIONS = 128
SHINGLE = 5
_TEXT_BANDS = 32
_BLOCK = 1 << 12
"""Pictures or texts that are compared with all earlier ones at a time."""
_AT_ONCE = 1 << 20
"""Candidates that are in memory at a time, unless one picture alone has more."""


@dataclass(frozen=True, kw_only=True)
class PictureHashes:
    """Perceptual hashes of one picture in its eight orientations: four quarter turns, then the same of its mirror image. uint64 (8,) each; orientation 0 is the picture as it is."""

    dct: NDArray[np.uint64]
    gradient: NDArray[np.uint64]
    flat: bool
    """Too little structure to compare: flat pictures are near nothing."""

    def text(self) -> str:
        """The hashes as 257 characters, for a column."""
        return f"{np.concatenate([self.dct, self.gradient]).astype('>u8').tobytes().hex()}{int(self.flat)}"

    @classmethod
    def of_text(cls, text: str) -> PictureHashes:
        """The hashes of `text()`."""
        return cls.of_texts([text])[0]

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> list[PictureHashes]:
        """The hashes of many texts."""
        values = np.frombuffer(bytes.fromhex("".join(text[:-1] for text in texts)), ">u8").astype(np.uint64).reshape(-1, 16)
        return [cls(dct=row[:8], gradient=row[8:], flat=text[-1] == "1") for row, text in zip(values, texts, strict=True)]


def thumbnail(picture: Image.Image) -> Image.Image:
    """Grey, 32x32: all of a picture that its hashes see."""
    # Reducing by whole factors first costs a tenth of resampling a large picture and moves the hash by less than a bit.
    return picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)


def picture_hashes(pixels: NDArray[np.uint8] | Image.Image) -> PictureHashes:
    """Hashes of upright pixels (height, width, 3) uint8, or of a PIL picture. See `hashed`."""
    return hashed([thumbnail(pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels))])[0]


def hashed(thumbnails: Sequence[Image.Image]) -> list[PictureHashes]:
    """Hashes of many pictures, each of its own thumbnail only, in eight orientations.

    `dct`: grey 32x32, the 8x8 lowest frequencies against their median (pHash, Zauner 2010, section 3.2.1). `gradient`: grey 9x9, whether brightness rises to the right (dHash); nine rows, so that
    the grid can be turned.
    """
    if not thumbnails:
        return []
    squares = stacked(thumbnails).astype(np.float64)
    nines = stacked([one.resize((_NINE, _NINE), Image.Resampling.BOX) for one in thumbnails])
    dct, gradient, flat = _pack(_high_frequencies(squares)), _pack(_rising(nines)), squares.std(axis=(1, 2)) < FLAT
    return [PictureHashes(dct=a, gradient=b, flat=none) for a, b, none in zip(dct, gradient, flat.tolist(), strict=True)]


def stacked(pictures: Sequence[Image.Image]) -> NDArray[np.uint8]:
    """Pixels (n, height, width) or (n, height, width, 3) of small pictures of one size and mode, one or more: one copy for all is cheaper than one for each."""
    width, height = pictures[0].size
    column = Image.new(pictures[0].mode, (width, height * len(pictures)))
    for number, one in enumerate(pictures):
        column.paste(one, (0, height * number))
    pixels = np.asarray(column)
    return pixels.reshape(len(pictures), height, *pixels.shape[1:])


@cache
def _cosines() -> NDArray[np.float64]:
    """Rows 0..7 of the 32-point cosine transform (DCT-II)."""
    k, n = np.arange(_LOW)[:, None], np.arange(SIDE)[None]
    return np.cos(np.pi * (2 * n + 1) * k / (2 * SIDE))


def _high_frequencies(squares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n, 8, 64): which low frequencies are above their median in each orientation.

    One transform serves all eight: a mirror image changes the signs of odd frequencies, a quarter turn also swaps rows and columns, which leaves the median.
    """
    low = _cosines() @ squares @ _cosines().T
    sign = np.where(np.arange(_LOW) % 2, -1.0, 1.0)
    across, down = low * sign, low * sign[:, None]
    mirrored = np.stack([low, across, down, across * sign[:, None]], axis=1)
    # The mean says how bright a picture is, not what it shows.
    known = mirrored.reshape(len(squares), 4, _BITS)[..., 1:]
    middle = np.partition(known, _BITS // 2 - 1, axis=-1)[..., _BITS // 2 - 1, None, None]
    above = mirrored > middle
    above[..., 0, 0] = False
    turned = above.swapaxes(-1, -2)
    plain = [above[:, 0], turned[:, 1], above[:, 3], turned[:, 2], above[:, 1], turned[:, 0], above[:, 2], turned[:, 3]]
    return np.stack(plain, axis=1).reshape(len(squares), 8, _BITS)


def _rising(nines: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(n, 8, 8, 8): where brightness rises to the right in each orientation."""
    turns = np.stack([np.rot90(side, turn, axes=(1, 2)) for side in (nines, nines[:, :, ::-1]) for turn in range(4)], axis=1)
    return turns[..., :_LOW, :-1] < turns[..., :_LOW, 1:]


def _pack(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """(n, 8, ..) bits of 64 as uint64 (n, 8)."""
    return np.packbits(bits.reshape(len(bits), 8, _BITS), axis=-1).view(">u8")[..., 0].astype(np.uint64)


def distance(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Differing bits, elementwise."""
    return np.bitwise_count(a ^ b)


@dataclass(frozen=True, kw_only=True)
class Near:
    """Two pictures, first < second, that show the same; `turned`: only after a turn or in a mirror; `bits`: the larger of both distances."""

    first: int
    second: int
    bits: int
    turned: bool


class _Places:
    """Where each key of a column (n,) stands."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def of(self, wanted: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """(number in `wanted`, place in the column) of equal keys, a million at a time."""
        low = np.searchsorted(self._keys, wanted)
        many = np.searchsorted(self._keys, wanted, side="right") - low
        ends = np.cumsum(many)
        start = 0
        while start < len(wanted):
            done = ends[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, side="right")))
            number = np.repeat(np.arange(start, stop), many[start:stop])
            within = np.arange(done, done + len(number)) - (ends - many)[number]
            yield number, self._order[low[number] + within]
            start = stop


def near_pairs(hashes: Sequence[PictureHashes], within: int = NEAR, orientations: bool = True) -> Iterator[Near]:
    """Pairs whose hashes differ by at most `within` bits on both, in the best of eight orientations (or upright only), ascending by (second, first).

    Of pictures with equal upright hashes only the first is compared with others, and each repeat is paired with it alone: a thousand copies are a thousand pairs, not half a million. Flat pictures are near nothing.
    """
    firsts: dict[tuple[int, int], int] = {}
    repeats: list[Near] = []
    for number, one in enumerate(hashes):
        if not one.flat:
            first = firsts.setdefault((int(one.dct[0]), int(one.gradient[0])), number)
            if first != number:
                repeats.append(Near(first=first, second=number, bits=0, turned=False))
    return merge(repeats, _distinct_pairs(hashes, np.array(list(firsts.values()), np.int64), within, orientations), key=lambda pair: (pair.second, pair.first))


def _distinct_pairs(hashes: Sequence[PictureHashes], kept: NDArray[np.int64], within: int, orientations: bool) -> Iterator[Near]:
    """The pairs among `kept`. Exact: each hash is cut into `within` + 1 bands, of which at least one must be equal (pigeonhole)."""
    turns = 8 if orientations else 1
    dct = np.array([hashes[number].dct[:turns] for number in kept], np.uint64).reshape(-1, turns)
    gradient = np.array([hashes[number].gradient[:turns] for number in kept], np.uint64).reshape(-1, turns)
    edges = np.linspace(0, _BITS, within + 2).astype(int).tolist()
    masks = [np.uint64(((1 << (high - low)) - 1) << low) for low, high in pairwise(edges)]
    bands = [(mask, _Places(dct[:, 0] & mask)) for mask in masks]
    for start in range(0, len(kept), _BLOCK):
        found: list[NDArray[np.int64]] = []
        for mask, places in bands:
            for number, first in places.of(dct[start : start + _BLOCK].ravel() & mask):
                second, turn = start + number // turns, number % turns
                earlier = first < second
                first, second, turn = first[earlier], second[earlier], turn[earlier]
                apart = np.maximum(distance(dct[second, turn], dct[first, 0]), distance(gradient[second, turn], gradient[first, 0]))
                found.append(np.stack([second, first, apart, turn], axis=1)[apart <= within])
        # Of several orientations the best, of equally good ones the first.
        best: dict[tuple[int, int], tuple[int, int]] = {}
        for second, first, bits, turn in np.unique(np.concatenate(found), axis=0).tolist():
            best.setdefault((second, first), (bits, turn))
        for (second, first), (bits, turn) in best.items():
            yield Near(first=int(kept[first]), second=int(kept[second]), bits=bits, turned=turn != 0)


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Connected groups: for each of `count` things the smallest number of its group."""
    parent = list(range(count))

    def root(at: int) -> int:
        while parent[at] != at:
            parent[at] = parent[parent[at]]
            at = parent[at]
        return at

    for a, b in pairs:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return np.array([root(at) for at in range(count)], np.int64)


def text_key(text: str) -> str:
    """What is equal of two texts that differ only in width of characters, case and white space (NFKC, casefold)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@cache
def _permutations() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Factors, which are odd, and summands: one to one modulo 2^64."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1), rng.integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64)


def shingles(text: str, size: int = SHINGLE) -> frozenset[str]:
    """Runs of `size` characters of the text's key; the key itself when it is shorter."""
    key = text_key(text)
    return frozenset(key[start : start + size] for start in range(max(1, len(key) - size + 1)))


def minhash(text: str) -> NDArray[np.uint64]:
    """Signature (128,) of a text's shingles: the share of equal entries of two signatures estimates their Jaccard similarity (Broder, 1997)."""
    return signatures([text])[0]


def signatures(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Signatures (n, 128) of many texts."""
    a, b = _permutations()
    found = np.empty((len(texts), PERMUTATIONS), np.uint64)
    for number, text in enumerate(texts):
        # Characters as numbers; a text shorter than a shingle is one shingle.
        codes = np.frombuffer(text_key(text).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        codes = np.pad(codes, (0, max(0, SHINGLE - len(codes))))
        runs = _mixed(codes)
        blocks = (runs[start : start + _BLOCK, None] * a + b for start in range(0, len(runs), _BLOCK))
        found[number] = reduce(np.minimum, (block.min(axis=0) for block in blocks))
    return found


def _mixed(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One well mixed number for each run of characters: 21 bits of each, and the last steps of SplitMix64 (Steele et al., 2014)."""
    runs = np.lib.stride_tricks.sliding_window_view(codes, SHINGLE)
    values = np.zeros(len(runs), np.uint64)
    for place in range(SHINGLE):
        values = (values ^ runs[:, place]) * np.uint64(0x9E3779B97F4A7C15)
        values ^= values >> np.uint64(29)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return values ^ (values >> np.uint64(27))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over size of the union; two empty sets are equal."""
    return len(a & b) / len(a | b) if a or b else 1.0


def alike_texts(texts: Sequence[str], at_least: float = 0.8) -> Iterator[tuple[int, int, float]]:
    """(first, second, Jaccard) of pairs of texts whose shingles agree by `at_least`, ascending by (second, first).

    Candidates agree in one of 32 bands of 4 MinHash entries, which finds a pair at 0.8 with probability 1 - 5e-8; each candidate is then compared exactly.
    """
    keys = _bands(texts)
    bands = [_Places(column) for column in keys.T]
    for start in range(0, len(texts), _BLOCK):
        found = [np.zeros((0, 2), np.int64)]
        for column, places in zip(keys.T, bands, strict=True):
            for number, first in places.of(column[start : start + _BLOCK]):
                pairs = np.stack([start + number, first], axis=1)
                found.append(pairs[pairs[:, 1] < pairs[:, 0]])
        known = lru_cache(_BLOCK)(shingles)
        for second, first in np.unique(np.concatenate(found), axis=0).tolist():
            similarity = jaccard(known(texts[first]), known(texts[second]))
            if similarity >= at_least:
                yield first, second, similarity


def _bands(texts: Sequence[str]) -> NDArray[np.uint64]:
    """(n, 32): each 4 entries of the signatures as one number."""
    keys = np.empty((len(texts), _TEXT_BANDS), np.uint64)
    mixed = _permutations()[0][: PERMUTATIONS // _TEXT_BANDS]
    for start in range(0, len(texts), _BLOCK):
        entries = signatures(texts[start : start + _BLOCK])
        keys[start : start + _BLOCK] = (entries.reshape(-1, _TEXT_BANDS, len(mixed)) * mixed).sum(axis=-1)
    return keys
