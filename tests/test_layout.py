# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel should have built, held against layouts seen on real kernels."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from vmemscope.arch.x86_64 import ARCHITECTURE
from vmemscope.kernel.dev_pagemap import Pagemap, VmemAltmap
from vmemscope.kernel.mem_section import Sections
from vmemscope.vmemmap.dedup import dedup_of
from vmemscope.vmemmap.layout import (
    Geometry,
    Piece,
    Populated,
    each_vpage_once,
    expected_frames,
    first_compound,
    pieces_of,
)
from vmemscope.vmemmap.schemes import DEVICE_PAIRS

GEOMETRY = Geometry(ARCHITECTURE, 4096, 64, 0xFFFF_EA00_0000_0000)
ALTMAP = VmemAltmap(base_pfn=0x120000, end_pfn=0x14FFFF, reserve=2, free=0xDFE, align=0, alloc=0)


def pagemap(shift: int | None = 0, altmap: VmemAltmap | None = None) -> Pagemap:
    return Pagemap(
        address=0xFFFF_8880_0000_0000,
        type="generic",
        vmemmap_shift=shift,
        nr_range=1,
        ranges=(),
        altmap=altmap,
        entries=(),
    )


def sections(*early: int) -> Sections:
    return Sections(
        number=np.array(sorted(early), dtype=np.int64),
        early=np.ones(len(early), dtype=bool),
        pages=32768,
        vmemmap=GEOMETRY.vmemmap,
    )


def pieces(start: int, end: int, shift: int, *early: int, altmap: VmemAltmap | None = None):  # type: ignore[no-untyped-def]
    one = pagemap(shift, altmap)
    dedup = dedup_of(one, GEOMETRY, "6.12.0")
    scheme = dedup.scheme if dedup.expected else None
    return pieces_of(start >> 12, (end + 1) >> 12, one, GEOMETRY, sections(*early), scheme)


def shapes(found) -> list[tuple[str, int]]:  # type: ignore[no-untyped-def]
    return [(piece.populated.value, piece.end - piece.start) for piece in found]


@pytest.mark.parametrize(
    ("start", "end", "shift", "vpages", "frames"),
    [
        # 512 MiB of 2 MiB pages: 2048 PTEs, 512 frames
        (0x1_0000_0000, 0x1_1FFF_FFFF, 9, 2048, 512),
        # 2.75 GiB of 1 GiB pages off a 1 GiB boundary: 11264 PTEs, 6 frames
        (0x1_5000_0000, 0x1_FFFF_FFFF, 18, 11264, 6),
        # 3 GiB of 1 GiB pages that start off a section boundary: sound is 6 frames
        (0x1_0400_0000, 0x1_BFFF_FFFF, 18, 12032, 6),
        # base pages: nothing shared
        (0x2_0000_0000, 0x2_3FFF_FFFF, 0, 4096, 4096),
    ],
)
def test_frames_of_layouts_seen_on_real_kernels(
    start: int, end: int, shift: int, vpages: int, frames: int
) -> None:
    found = pieces(start, end, shift)
    assert sum(piece.end - piece.start for piece in found) == vpages
    size = GEOMETRY.compound_vpages(shift)
    assert expected_frames(found, size, DEVICE_PAIRS) == frames


def test_compound_pages_are_one_piece_across_sections() -> None:
    assert shapes(pieces(0x1_5000_0000, 0x1_FFFF_FFFF, 18)) == [("compound", 11264)]


def test_altmap_backs_whole_sections_only() -> None:
    # 0x1e2000000-0x1efffffff, map=dev: 384 base pages from RAM and one leaf on the device.
    found = pieces(0x1_E200_0000, 0x1_EFFF_FFFF, 9, altmap=ALTMAP)
    assert shapes(found) == [("base", 384), ("leaf", 512)]


def test_part_of_an_early_section_is_not_populated() -> None:
    # memmap=64M!768M: one leaf of the boot memory map stays.
    assert shapes(pieces(0x3000_0000, 0x33FF_FFFF, 9, 6)) == [("early", 256)]


def test_early_section_then_compound_pages() -> None:
    found = pieces(0x1_1400_0000, 0x1_7FFF_FFFF, 18, 0x22)
    assert shapes(found) == [("early", 256), ("compound", 6656)]
    # The early part has the boot memory map's frames. The rest of the first
    # compound page is tails alone (1 frame); the second has a head and tails,
    # and is cut short by the end of the range.
    assert expected_frames(found, 4096, DEVICE_PAIRS) == 256 + 1 + 2


def test_whole_early_section_is_populated_anew() -> None:
    assert shapes(pieces(0x3000_0000, 0x37FF_FFFF, 9, 6)) == [("compound", 512)]


def test_range_inside_one_section() -> None:
    assert shapes(pieces(0x1_D400_0000, 0x1_D7FF_FFFF, 9)) == [("compound", 256)]
    assert shapes(pieces(0x1_D000_0000, 0x1_D3FF_FFFF, 0)) == [("base", 256)]


def test_leaf_pieces_join_across_sections() -> None:
    found = pieces(0x1_FC00_0000, 0x2_13FF_FFFF, 0)
    assert [piece.populated for piece in found] == [
        Populated.BASE,
        Populated.LEAF,
        Populated.BASE,
    ]


@pytest.mark.parametrize(
    ("shift", "altmap", "release", "struct_page", "expected", "reason"),
    [
        (9, None, "6.1.0-56-amd64", 64, True, None),
        (18, None, "7.2.13+deb14-amd64", 64, True, None),
        (9, ALTMAP, "6.1.0", 64, False, "altmap"),
        (0, None, "6.1.0", 64, False, "base pages"),
        (None, None, "5.10.0", 64, False, "kernel without compound pages of devices"),
        (9, None, "6.1.0", 56, False, "power of two"),
        (7, None, "6.1.0", 64, False, "too small"),
        (9, None, "5.17.0", 64, None, "without the feature"),
        (9, None, "5.14.0-427.el9", 64, None, "without the feature"),
    ],
)
def test_conditions_of_deduplication(
    shift: int | None,
    altmap: VmemAltmap | None,
    release: str,
    struct_page: int,
    expected: bool | None,
    reason: str | None,
) -> None:
    geometry = Geometry(ARCHITECTURE, 4096, struct_page, GEOMETRY.vmemmap)
    dedup = dedup_of(pagemap(shift, altmap), geometry, release)
    assert dedup.expected is expected
    assert (dedup.reason is None) == (reason is None)
    assert reason is None or reason in (dedup.reason or "")


def test_altmap_comes_before_the_first_compound_page() -> None:
    # include/linux/memremap.h: vmem_altmap_offset() is reserve + free.
    assert first_compound(pagemap(9, ALTMAP), 0x120000) == 0x120000 + 2 + 0xDFE
    assert first_compound(pagemap(9), 0x120000) == 0x120000


@pytest.mark.parametrize("seed", range(20))
def test_each_vpage_is_in_one_piece(seed: int) -> None:
    """Whatever overlaps, in whatever order it comes: the first by address has a vpage."""
    random = Random(seed)
    given = []
    for number in range(random.randrange(1, 12)):
        start = random.randrange(60)
        given.append(Piece(Populated.BASE, start, start + random.randrange(1, 20), start, number))
    found = each_vpage_once(given)
    assert [one.head for one in found] == sorted(one.head for one in found)
    owners = {vpage: one.head for one in found for vpage in range(one.start, one.end)}
    assert len(owners) == sum(one.end - one.start for one in found)
    starts = {one.head: one.start for one in given}
    for vpage in range(80):
        having = [one for one in given if one.start <= vpage < one.end]
        assert (vpage in owners) == bool(having)
        if having:
            assert starts[owners[vpage]] == min(one.start for one in having)
