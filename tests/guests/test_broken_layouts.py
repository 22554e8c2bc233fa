# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Layouts that stock kernels build wrong, and layouts that look odd and are right.

Three places for a device with pages of 1 GiB, which ndctl takes without a word,
make kernels build a wrong memory map. First it is shown with drgn alone that
they do; then the report has to say, of itself, what is broken and where, which
layout is the cause, and what it means for who uses the device.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from drgn import Object
from drgn.helpers.linux.mm import PageHead, PageTail, compound_head, page_to_pfn, pfn_to_page

from .audited import Audited
from .devices import GIB, MIB
from .matrix import at_least, stale_in_early_sections

#: struct pages of a compound page that the kernel writes where tail pages share
#: a frame: those in its first two pages of vmemmap
WRITTEN = 2 * 4096 // 64

#: where a range with pages of 1 GiB starts, and the heads of its compound pages
OFF_A_GIGABYTE = 0x150000000, (0x150000, 0x190000, 0x1D0000)
OFF_A_SECTION = 0x104000000, (0x104000, 0x144000, 0x184000)
IN_A_SECTION_OF_RAM = 0x114000000, (0x114000, 0x154000)


def both(audited: Audited, start: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the tool says of the pagemap at an address, and what the oracle says."""
    pgmap, truth = audited.pgmap_at(start), audited.truth_at(start)
    assert pgmap is not None
    assert truth is not None
    return pgmap, truth


def page(audited: Audited, pfn: int) -> Object:
    return pfn_to_page(audited.prog, pfn)


def findings(pgmap: dict[str, Any], rule: str) -> list[dict[str, Any]]:
    return [finding for finding in pgmap["findings"] if finding["rule"] == rule]


def check_warning(pgmap: dict[str, Any], rule: str, where: int, *words: str) -> None:
    """Check that there is one warning of the layout, at its start, with all there is to say."""
    (warning,) = findings(pgmap, rule)
    assert warning["severity"] == "warning"
    assert int(warning["vaddr"], 16) == where
    assert warning["observed"] == pgmap["ranges"][0]["start"]
    # What the kernel makes of it, what comes of that, and what to do.
    for word in (*words, "1 GiB", "(SIGBUS)", "recreate the device at a multiple of 1 GiB"):
        assert word in warning["message"]
    assert "\n" not in warning["message"]


@pytest.mark.boot("devices")
def test_off_a_gigabyte(audited: Audited) -> None:
    """The frames are right; but a mask only leads to a head that is aligned to its size."""
    start, heads = OFF_A_GIGABYTE
    pgmap, truth = both(audited, start)
    masks = at_least(audited.key.series, "7.1")
    assert truth["refcounts"] == Counter(truth["pfns"])
    for head in heads:
        assert PageHead(page(audited, head))
        leads_to = head & -(GIB // 4096) if masks else head
        for pfn in range(head + 1, head + WRITTEN):
            assert page_to_pfn(compound_head(page(audited, pfn))).value_() == leads_to

    assert pgmap["state"] == "deduplicated"
    if not masks:
        (note,) = pgmap["findings"]
        assert (note["rule"], note["severity"]) == ("compound-alignment", "note")
        assert int(note["vaddr"], 16) == page(audited, heads[0]).value_()
        return
    # What, where, how many.
    for found, head in zip(findings(pgmap, "compound-head"), heads, strict=True):
        assert found["severity"] == "error"
        assert int(found["vaddr"], 16) == page(audited, head + 1).value_()
        assert int(found["expected"], 16) == page(audited, head).value_()
        assert int(found["observed"], 16) == compound_head(page(audited, head + 1)).value_()
        assert f"in the compound page at pfn {head:#x}" in found["message"]
    # Why, and so what.
    check_warning(
        pgmap, "mask-alignment", truth["first"], "every tail page resolves to a wrong head"
    )


@pytest.mark.boot("changes")
def test_off_a_section(audited: Audited) -> None:
    """Three compound pages in two frames: what counts on a frame is consistent all the same."""
    start, heads = OFF_A_SECTION
    pgmap, truth = both(audited, start)
    head_frame, tail_frame = truth["pfns"][:2]
    assert truth["pfns"] == [head_frame] + [tail_frame] * 12031
    assert truth["refcounts"] == {head_frame: 1, tail_frame: 12031}
    # The heads of the others were written over with tail pages.
    assert [bool(PageHead(page(audited, head))) for head in heads] == [True, False, False]
    assert [bool(PageTail(page(audited, head))) for head in heads] == [False, True, True]
    for pfn in range(heads[0] + 4096 // 64, heads[0] + WRITTEN):
        leads_to = page_to_pfn(compound_head(page(audited, pfn))).value_()
        # The last to be written was the third.
        assert leads_to == (0x100000 if at_least(audited.key.series, "7.1") else heads[2])

    # What, where, how many: head and tail pages of the second and the third.
    shared = findings(pgmap, "frame-shared")
    expected = [
        (page(audited, heads[number]).value_() + offset, part, number)
        for number in (1, 2)
        for offset, part in ((0, "the head"), (4096, "the tail pages"))
    ]
    for found, (vaddr, part, number) in zip(shared, expected, strict=True):
        assert found["severity"] == "error"
        assert (int(found["vaddr"], 16), found["pfn"]) == (vaddr, tail_frame)
        assert f"{part} of compound page {number} of {pgmap['name']}" in found["message"]
        assert f"of the tail pages of compound page 0 of {pgmap['name']}" in found["message"]
        assert "12031 entries map in all" in found["message"]
    # Why, and so what.
    check_warning(
        pgmap,
        "section-alignment",
        truth["first"],
        "starts in the middle of a section",
        "maps 12031 of the 12032 pages of its memory map to one frame",
        "I/O to it hangs",
    )


@pytest.mark.boot("early")
def test_in_a_section_of_ram(audited: Audited) -> None:
    """All but what was there at boot is on page frame 0."""
    start, heads = IN_A_SECTION_OF_RAM
    pgmap, truth = both(audited, start)
    assert truth["leaf_sizes"] == [2 * MIB] * 256 + [4096] * 6656
    assert truth["pfns"][256:] == [0] * 6656
    # One reference was there before.
    assert truth["refcounts"][0] == 6657
    assert PageHead(page(audited, heads[0]))

    # What, where, how many.
    (found,) = findings(pgmap, "frame-not-memory")
    assert found["severity"] == "error"
    assert (int(found["vaddr"], 16), found["pfn"]) == (truth["first"] + 256 * 4096, 0)
    assert "6656 entries" in found["message"]
    # Why, and so what.
    check_warning(
        pgmap,
        "section-alignment",
        truth["first"],
        "starts inside a section that was there at boot",
        "maps 6656 of the 6912 pages of its memory map to a wrong frame",
        "I/O to it hangs",
    )
    if not at_least(audited.key.series, "7.1"):
        assert findings(pgmap, "mask-alignment") == []
        stale = stale_in_early_sections(audited.key.series)
        assert len(findings(pgmap, "compound-head")) == stale
        return
    # The first compound page is whole, but for where its mask leads.
    (found,) = findings(pgmap, "compound-head")
    assert int(found["vaddr"], 16) == page(audited, heads[0] + 1).value_()
    assert int(found["observed"], 16) == compound_head(page(audited, heads[0] + 1)).value_()
    check_warning(pgmap, "mask-alignment", truth["first"])


def check_stale(audited: Audited) -> None:
    """All struct pages from the 129th on are those of the pagemap that was there before."""
    for head in range(0x30000, 0x34000, 512):
        assert PageHead(page(audited, head))
        for pfn, right in ((head + 1, True), (head + 127, True), (head + 128, False)):
            assert (page_to_pfn(compound_head(page(audited, pfn))).value_() == head) == right
            assert bool(PageTail(page(audited, pfn))) == right
    (bug,) = [one for one in audited.document["bugs"] if one["bug"] == "early-uninitialised"]
    assert {one["rule"]: one["violations"] for one in bug["symptoms"]} == {"compound-head": 32}


@pytest.mark.boot("devices", "changes")
def test_odd_but_right(audited: Audited) -> None:
    """Parts of sections, sections shared with RAM, with others, or with an altmap: silence."""
    starts = {
        # In a section of RAM; each half of one section; from inside a section, with altmap.
        "devices": [0x30000000],
        "changes": [0x1D0000000, 0x1D4000000, 0x1E2000000],
    }[audited.key.boot]
    for start in starts:
        pgmap, truth = both(audited, start)
        if start == 0x30000000 and stale_in_early_sections(audited.key.series):
            check_stale(audited)
            continue
        assert pgmap["findings"] == []
        if start == 0x30000000:
            assert truth["leaf_sizes"] == [2 * MIB] * 256
            # All struct pages of all compound pages are there, not those of two frames.
            for head in range(0x30000, 0x34000, 512):
                assert PageHead(page(audited, head))
                for pfn in (head + 1, head + 130, head + 511):
                    assert page_to_pfn(compound_head(page(audited, pfn))).value_() == head
        if start == 0x1E2000000:
            # 96 MiB of base pages in RAM, then one large leaf on the device.
            assert truth["leaf_sizes"] == [4096] * 384 + [2 * MIB] * 512
            assert truth["altmap"]["alloc"] == 512
            # The leaf's frames are described by the former: they can be read, and
            # each has its reference (mm/mm_init.c: memmap_init_range()).
            assert set(truth["refcounts"].values()) == {1}
