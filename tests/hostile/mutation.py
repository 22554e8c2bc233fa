# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage at random: the same for the same seed, image and number, whatever was done before."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

from .dump import Damage
from .places import Map, Place

__all__ = ("KINDS", "STRINGS", "mutate")

PAGE = 4096
_WORD = (1 << 64) - 1

#: what a terminal, a line or a reader would stumble over
STRINGS = (
    b"\x1b[2J\x1b]0;owned\x07",
    b"dax0.0\nvmemscope: error: sound",
    b"\xff\xfe\x80dax",
    "\u202e0.0xad\u2066".encode(),
    "\u200b\u2028\u0085".encode(),
    b"| a | `b` <script> #",
    b"\r\x08\x08\x7f\x9b31m",
    b"not ok 1 - \\x1b",
    b"%s%n{0}",
    b"",
)

_WORDS = (
    0, 1, 2, 3, 4, 7, 0xFF, PAGE - 1, PAGE, 1 << 31, 1 << 32, (1 << 47) - 8, 1 << 52, 1 << 63,
    _WORD, _WORD - 1, _WORD - 7, 0xFFFF_FFFF, 0x7FFF_FFFF, 0xDEAD_0000_0000_0100,
    0x8000_0000_0000_0000, 0xFFFF_8000_0000_0000, 0xFFFF_FFFF_8000_0000, 0x5A5A_5A5A_5A5A_5A5A,
)  # fmt: skip


class _At(NamedTuple):
    """What a damage has at hand."""

    random: random.Random
    map: Map
    place: Place

    def word(self) -> int:
        """Pick an offset in the file that a word of the place may be at."""
        size = self.place.size
        return self.place.offset + self.random.randrange(max(size // 8, 1)) * 8

    def byte(self) -> int:
        return self.place.offset + self.random.randrange(max(self.place.size, 1))

    def old(self, offset: int, size: int = 8) -> bytes:
        return self.map.dump.read(offset, size).ljust(size, b"\0")


_Writes = list[tuple[int, bytes]]


def _bit(at: _At) -> _Writes:
    offset = at.byte()
    return [(offset, bytes([at.old(offset, 1)[0] ^ 1 << at.random.randrange(8)]))]


def _byte(at: _At) -> _Writes:
    return [(at.byte(), at.random.randbytes(1))]


def _random_word(at: _At) -> _Writes:
    return [(at.word(), at.random.randbytes(8))]


def _odd_word(at: _At) -> _Writes:
    return [(at.word(), at.random.choice(_WORDS).to_bytes(8, "little"))]


def _next_word(at: _At) -> _Writes:
    offset = at.word()
    step = at.random.choice((-4096, -64, -8, -1, 1, 8, 64, 4096, 1 << 21, 1 << 27, 1 << 30))
    value = int.from_bytes(at.old(offset), "little") + step
    return [(offset, (value & _WORD).to_bytes(8, "little"))]


def _pointer(at: _At) -> _Writes:
    """Have a word point to a structure, often of the same kind: lists and trees become cyclic."""
    value = at.random.choice(at.map.pointers) + at.random.choice((0, 0, 0, 2, 8, 24))
    return [(at.word(), value.to_bytes(8, "little"))]


def _entry(at: _At) -> _Writes:
    """Have an entry point to a table, its own among them, or to some frame."""
    offset = at.word()
    flags = int.from_bytes(at.old(offset), "little") & 0x8000_0000_0000_0FFF
    if at.random.random() < 0.7:
        frame = at.random.choice(at.map.tables)
    else:
        frame = at.random.choice((0, 1 << 20, at.random.randrange(1 << 52))) & ~0xFFF
    if at.random.random() < 0.3:
        flags ^= 1 << at.random.choice((0, 1, 7, 63))
    return [(offset, (frame | flags).to_bytes(8, "little"))]


def _copy(at: _At) -> _Writes:
    """Overwrite a structure with another of its kind."""
    other = at.random.choice(at.map.places[at.place.kind])
    size = min(at.place.size, other.size, PAGE)
    return [(at.place.offset, at.old(other.offset, size))]


def _swap(at: _At) -> _Writes:
    one = at.word()
    two = _At(at.random, at.map, at.random.choice(at.map.places[at.place.kind])).word()
    return [(one, at.old(two)), (two, at.old(one))]


def _fill(at: _At) -> _Writes:
    start = at.byte()
    left = at.place.offset + at.place.size - start
    size = min(left, at.random.choice((8, 64, 512, PAGE)))
    pattern = at.random.choice((b"\0", b"\xff", b"\xfd", b"\x5a", b"\xcc", None))
    return [(start, at.random.randbytes(size) if pattern is None else pattern * size)]


def _string(at: _At) -> _Writes:
    room = max(at.place.size - 1, 0)
    text = at.random.choice(STRINGS)
    if text and at.random.random() < 0.5:
        text *= room // len(text) + 1
    return [(at.place.offset, text[:room] + b"\0")]


def _number(at: _At) -> _Writes:
    """Change digits of a text."""
    raw = at.old(at.place.offset, at.place.size)
    digits = [i for i, one in enumerate(raw) if chr(one) in "0123456789abcdef"]
    if not digits:
        return _byte(at)
    start = at.random.choice(digits)
    new = at.random.choice((b"0", b"f", b"-1", b"99999999", b"zz", b"\n", b"=", b"(", b"\xff"))
    return [(at.place.offset + start, new[: at.place.size - start])]


_ANY: tuple[Callable[[_At], _Writes], ...] = (
    _bit, _bit, _byte, _random_word, _odd_word, _odd_word, _next_word, _pointer, _pointer,
    _copy, _swap, _fill,
)  # fmt: skip
_SPECIAL: dict[str, tuple[Callable[[_At], _Writes], ...]] = {
    "page table": (_entry,) * 8,
    "whole table": (_entry,) * 8,
    "name": (_string,) * 16,
    "vmcoreinfo": (_number,) * 16,
    "log text": (_string, _number) * 8,
}

#: what nothing can be read without
_WITHOUT = ("anywhere", "elf", "vmcoreinfo", "btf", "btf header", "kallsyms", "whole table")
#: kinds of damage besides that of a kind of structure
_ABSENT, _LENGTH = "absent", "length"
#: kinds of damage, those that there is more of to be seen several times
KINDS = (
    "page table", "page table", "page table", "whole table", "xarray", "xarray", "pagemap",
    "pagemap", "resource", "section", "section table", "usage", "page", "frame", "device", "module",
    "module btf", "node", "hugetlb", "hugetlb", "reference", "disk", "task", "code", "global",
    "kallsyms", "btf", "btf header", "vmcoreinfo", "elf", "name", "log", "log text", "anywhere",
    _ABSENT, _ABSENT, _LENGTH,
)  # fmt: skip


def mutate(found: Map, rng: random.Random, kind: str | None = None) -> tuple[str, Damage]:
    """
    Pick damage.

    :param kind: of :data:`KINDS`, any by default
    :return: its kind too
    """
    if kind is None:
        kind = rng.choice(
            [one for one in KINDS if one in (_ABSENT, _LENGTH) or one in found.places]
        )
    if kind == _LENGTH:
        # Half of them near the headers.
        limit = found.dump.size if rng.random() < 0.5 else 1 << 14
        length = rng.randrange(limit)
        return kind, Damage(f"cut off after {length:#x} bytes", length=length)
    if kind == _ABSENT:
        return kind, _absent(found, rng)
    writes: _Writes = []
    words = []
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 8))):
        place = rng.choice(found.places[kind])
        how = rng.choice(_ANY + _SPECIAL.get(kind, ()))
        more = how(_At(rng, found, place))
        writes += more
        words.append(how.__name__.strip("_"))
    where = ", ".join(f"{offset:#x}: {data[:16].hex()}" for offset, data in writes[:4])
    return kind, Damage(f"{kind}: {', '.join(words)} ({where})", tuple(writes))


def _absent(found: Map, rng: random.Random) -> Damage:
    """Take pages out of the dump, those with structures mostly."""
    pages: set[int] = set()
    offsets = []
    for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
        kinds = [one for one in found.places if one not in _WITHOUT]
        place = rng.choice(found.places[rng.choice(kinds)])
        offsets.append(place.offset)
    for offset in offsets:
        for load in found.dump.loads:
            if load.offset <= offset < load.offset + load.size:
                pages.add((load.paddr + offset - load.offset) // PAGE * PAGE)
    text = ", ".join(f"{one:#x}" for one in sorted(pages))
    return Damage(f"not in the dump: {text}", absent=frozenset(pages))
