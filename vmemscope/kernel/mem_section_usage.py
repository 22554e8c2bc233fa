# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The valid subsections of a section: ``struct mem_section_usage``.

Source: ``include/linux/mmzone.h``, ``mm/sparse.c: fill_subsection_map()``,
``section_activate()``. In a section that was present at boot the kernel maps the
whole memory map, and only the subsections that are memory are valid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from drgn import offsetof

from ..spans import Spans
from ..target.reads import READ_ERRORS
from . import SUBSECTION_SIZE, Damage, word_of

if TYPE_CHECKING:
    from drgn import Program
    from numpy.typing import NDArray

    from .mem_section import Sections

__all__ = ("Subsections", "read_subsections")

_WORD = (1 << 64) - 1


class Subsections(NamedTuple):
    """Subsections of some sections, as spans of pfns."""

    #: subsections that are valid
    valid: Spans
    #: sections without ``usage``, or whose ``usage`` can't be read
    unknown: Spans
    damage: tuple[Damage, ...] = ()


def read_subsections(
    prog: Program,
    sections: Sections,
    page_size: int,
    which: NDArray[np.bool_] | NDArray[np.int64] | None = None,
) -> Subsections:
    """
    Read the ``subsection_map`` of sections.

    :param which: mask or indices of the sections to read, all by default
    """
    chosen = slice(None) if which is None else which
    number, usage = sections.number[chosen], sections.usage[chosen]
    bits = max(sections.pages * page_size // SUBSECTION_SIZE, 1)
    usage_type = prog.type("struct mem_section_usage")
    offset = offsetof(usage_type, "subsection_map")
    words = -(-bits // 64)
    address = usage[:, None] + np.arange(offset, offset + words * 8, 8, dtype=np.uint64)
    value, readable, damage = _read_words(prog, address.ravel(), page_size)
    known = (usage != 0) & readable.reshape(address.shape).all(axis=1)
    maps = value.reshape(address.shape)
    pages = sections.pages // bits
    # Nearly all sections are valid as a whole.
    every = np.array([(1 << bits) - 1 >> 64 * i & _WORD for i in range(words)], np.uint64)
    whole = known & ((maps & every) == every).all(axis=1)
    partly = np.flatnonzero(known & ~whole)
    # One row a section, one column a subsection.
    columns = np.arange(bits)
    bit = maps[partly][:, columns // 64] >> (columns % 64).astype(np.uint64)
    row, column = np.nonzero(bit & np.uint64(1))
    start = number[partly[row]] * sections.pages + column * pages
    full, first = number[whole] * sections.pages, number[~known] * sections.pages
    return Subsections(
        Spans.of(
            np.concatenate((full, start)), np.concatenate((full + sections.pages, start + pages))
        ),
        Spans.of(first, first + sections.pages),
        damage,
    )


def _read_words(
    prog: Program, address: NDArray[np.uint64], page_size: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_], tuple[Damage, ...]]:
    """
    Read words, and each page that has some of them once: they share slabs.

    :return: words (uint64) and whether each could be read (bool), shape ``(n,)``; null
        pointers are not read
    """
    size = np.uint64(page_size)
    page, which = np.unique(address // size, return_inverse=True)
    data = np.zeros((len(page), page_size // 8), dtype=np.uint64)
    readable = np.zeros(len(page), dtype=np.bool_)
    damage = []
    # The first page may be that of null pointers.
    first = int(len(page) > 0 and page[0] == 0)
    pending = [
        (int(part[0]), int(part[-1]) + 1)
        for part in np.split(
            np.arange(first, len(page)), np.flatnonzero(np.diff(page[first:]) != 1) + 1
        )
        if len(part)
    ]
    while pending:
        start, end = pending.pop()
        try:
            raw = prog.read(int(page[start]) * page_size, (end - start) * page_size)
        except READ_ERRORS:
            if end - start > 1:
                pending += [((start + end) // 2, end), (start, (start + end) // 2)]
            else:
                at = int(page[start]) * page_size
                damage.append(Damage(at, "the usage of sections can't be read", True))
            continue
        data[start:end] = np.frombuffer(raw, word_of(prog)).reshape(end - start, -1)
        readable[start:end] = True
    word = (address % size // np.uint64(8)).astype(np.int64)
    # A pointer is a multiple of a word's size.
    aligned = address % np.uint64(8) == 0
    return data[which, word], readable[which] & aligned, tuple(damage)
