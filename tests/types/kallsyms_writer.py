# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Writes the tables of kallsyms for tests, as ``scripts/kallsyms.c`` does.

Only the names are compressed less: a handful of merges instead of all that there
are codes for, to take no time.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

#: (name, address, nm(1) letter), in the order of their addresses.
Symbols = Sequence[tuple[str, int, str]]


class Tables(NamedTuple):
    """Bytes of each table, by the symbol that it is at."""

    kallsyms_names: bytes
    kallsyms_markers: bytes
    kallsyms_token_table: bytes
    kallsyms_token_index: bytes
    kallsyms_num_syms: bytes


def compress(symbols: Symbols, merges: int = 12) -> tuple[list[list[int]], list[bytes]]:
    """
    Compress names, with their letters in front.

    :return: codes of each symbol, and what each of the 256 codes stands for
    """
    names = [list((letter + name).encode()) for name, _, letter in symbols]
    used = {code for codes in names for code in codes}
    tokens = [bytes([code]) if code in used else b"" for code in range(256)]
    # optimize_result(): the highest free code for the most frequent pair.
    for code in [code for code in range(255, 0, -1) if code not in used][:merges]:
        pairs = Counter(pair for codes in names for pair in pairwise(codes))
        if not pairs:
            break
        (first, second), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        tokens[code] = tokens[first] + tokens[second]
        for codes in names:
            at = 0
            while at + 1 < len(codes):
                if (codes[at], codes[at + 1]) == (first, second):
                    codes[at : at + 2] = [code]
                at += 1
    return names, tokens


def encode(symbols: Symbols, byteorder: str = "little", *, merges: int = 12) -> Tables:
    """Encode all tables but those of the addresses."""
    prefix = "<" if byteorder == "little" else ">"
    names, tokens = compress(symbols, merges)
    data = bytearray()
    markers = []
    for i, codes in enumerate(names):
        if i % 256 == 0:
            markers.append(len(data))
        if len(codes) <= 0x7F:
            data.append(len(codes))
        else:
            data += bytes([len(codes) & 0x7F | 0x80, len(codes) >> 7])
        data += bytes(codes)
    table = bytearray()
    index = []
    for token in tokens:
        index.append(len(table))
        table += token + b"\0"
    return Tables(
        bytes(data) + bytes(-len(data) % 8),
        struct.pack(f"{prefix}{len(markers)}I", *markers),
        bytes(table) + bytes(-len(table) % 8),
        struct.pack(f"{prefix}256H", *index),
        struct.pack(f"{prefix}I", len(symbols)),
    )
