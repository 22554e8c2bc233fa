# SPDX-License-Identifier: LGPL-2.1-or-later
"""The drawing: the shape of the kernel's own, and never other than what the entries say."""

from __future__ import annotations

import re
import textwrap

import pytest
from msgspec.structs import replace

from vmemscope.report.documents.pgmap import FrameSpan, PagemapReport
from vmemscope.report.drawing import caption, draw
from vmemscope.vmemmap.layout import Piece, Populated

from .builders import ALTMAP, GEOMETRY, PAGE, Span, pagemap_report

GIB = ((0x140000000, 0x17FFFFFFF),)


def drawn(one: PagemapReport, width: int = 100) -> list[str]:
    """Draw, without the notes at the end."""
    lines = draw(one, GEOMETRY, width)
    return lines[: lines.index("")]


def notes(one: PagemapReport, width: int = 100) -> list[str]:
    """Get the notes under the drawing but the first, which says where it is."""
    lines = draw(one, GEOMETRY, width)
    return [line.strip() for line in lines[lines.index("") + 2 :]]


def frames(one: PagemapReport) -> list[str]:
    """Get what stands to the right of each page's box, by the page's label."""
    found = []
    for line in drawn(one, 50)[2:]:
        match = re.fullmatch(r" \|\s+(\S+)\s+\|(.*)", line)
        if match:
            found.append(f"{match[1]}{match[2]}".rstrip())
    return found


def first(*spans: Span, large: bool = False) -> PagemapReport:
    leaves = {2 << 20: 4} if large else None
    return pagemap_report(first=spans, leaf_sizes=leaves)


def test_compound_page_of_2m_is_drawn_as_the_kernel_does() -> None:
    assert (
        drawn(pagemap_report())
        == textwrap.indent(
            textwrap.dedent(
                """\
             device memory                   struct pages (8 pages)        page frames
            +-----------+ ---virt_to_page---> +-----------+   mapping to   +-----------+
            |           |                     |     0     | -------------> |    0x10   |
            |           |                     +-----------+                +-----------+
            |           |                     |     1     | -------------> |    0x11   |
            |           |                     +-----------+                +-----------+
            |           |                     |     2     | ----------------^ ^ ^ ^ ^ ^
            |           |                     +-----------+                   | | | | |
            |           |                     |     3     | ------------------+ | | | |
            |           |                     +-----------+                     | | | |
            |           |                     |     4     | --------------------+ | | |
            |   2 MiB   |                     +-----------+                       | | |
            |  compound |                     |     5     | ----------------------+ | |
            |    page   |                     +-----------+                         | |
            |           |                     |     6     | ------------------------+ |
            |           |                     +-----------+                           |
            |           |                     |     7     | --------------------------+
            |           |                     +-----------+
            |           |
            |           |
            |           |
            +-----------+
            """
            ),
            " ",
        ).splitlines()
    )
    assert notes(pagemap_report()) == []
    assert caption(pagemap_report(), GEOMETRY) == "the first compound page, as mapped"


def test_compound_page_of_1g_leaves_its_middle_out_and_says_so() -> None:
    one = pagemap_report(
        ranges=GIB, shift=18, first=((1, 0x123456, "head"), (4095, 0x123457, "tail"))
    )
    assert frames(one) == [
        "0 -------------> |  0x123456 |",
        "1 -------------> |  0x123457 |",
        "2 ----------------^ ^ ^ ^ ^ ^",
        "3 ------------------+ | | | |",
        "4 --------------------+ | | |",
        "5 ----------------------+ | |",
        ".. ------------------------+ |",
        "4095 --------------------------+",
    ]
    assert notes(one) == [".. is pages 6 to 4094, which map the same frame"]
    assert "struct pages (4096 pages)" in drawn(one)[0]
    assert any("1 GiB" in line for line in drawn(one))


def test_page_that_maps_another_frame_stands_out() -> None:
    one = first((1, 0x10, "head"), (4, 0x11, "tail"), (1, 0x99, "tail"), (2, 0x11, "tail"))
    assert frames(one) == [
        "0 -------------> |    0x10   |",
        "1 -------------> |    0x11   |",
        "2 ----------------^ ^ ^",
        "3 ------------------+ |",
        "4 --------------------+",
        "5 -------------> |    0x99   |",
        "6 ---> 0x11",
        "7 ---> 0x11",
    ]
    assert notes(one) == ["pages 6 to 7 map the frame of page 1"]


def test_page_that_maps_the_frame_of_the_head_stands_out() -> None:
    one = first((1, 0x10, "head"), (4, 0x11, "tail"), (1, 0x10, "tail"), (2, 0x11, "tail"))
    assert frames(one) == [
        "0 -------------> |    0x10   |",
        "1 -------------> |    0x11   |",
        "2 ----------------^ ^ ^ ^ ^",
        "3 ------------------+ | | |",
        "4 --------------------+ | |",
        "5 ---> 0x10             | |",
        "6 ----------------------+ |",
        "7 ------------------------+",
    ]
    assert notes(one) == ["page 5 maps the frame of page 0"]


def test_head_may_share_the_frame_of_the_tail_pages() -> None:
    one = first((8, 0x11, "tail"))
    assert frames(one)[:2] == ["0 -------------> |    0x11   |", "1 ----------------^ ^ ^ ^ ^ ^"]
    assert notes(one) == [".. is pages 5 to 6, which map the same frame"]


def test_holes_and_unreadable_tables() -> None:
    one = first(
        (1, 0x10, "head"), (2, 0x11, "tail"), (1, None, "hole"), (2, 0x11, "tail"),
        (2, None, "unreadable"),
    )  # fmt: skip
    assert frames(one) == [
        "0 -------------> |    0x10   |",
        "1 -------------> |    0x11   |",
        "2 ----------------^ ^ ^",
        "3 (not mapped)      | |",
        "4 ------------------+ |",
        "5 --------------------+",
        "6 (unreadable)",
        "7 (unreadable)",
    ]


def test_nothing_mapped_at_all() -> None:
    one = first((8, None, "hole"))
    assert frames(one) == ["0 (not mapped)", ".. (not mapped)", "7 (not mapped)"]
    assert notes(one) == [".. is pages 1 to 6, just the same"]


def test_pages_with_a_frame_each() -> None:
    one = pagemap_report(shift=0, first=tuple((1, 0x10 + 2 * i, "base") for i in range(8)))
    assert frames(one) == [f"{i} -------------> |    {0x10 + 2 * i:#x}   |" for i in range(8)]
    lines = drawn(one)
    assert sum(line.count("+-----------+") for line in lines) == 2 + 9 + 9
    assert caption(one, GEOMETRY) == "the first 8 pages of the vmemmap, as mapped"
    assert not any("compound" in line for line in lines)


def test_large_leaf_is_one_block() -> None:
    one = pagemap_report(altmap=ALTMAP, leaf_sizes={2 << 20: 4}, first=((8, 0x200, "leaf"),))
    assert frames(one) == [f"{i} -------------> |   {0x200 + i:#x}   |" for i in range(8)]
    lines = drawn(one, 50)
    assert [line.endswith("|           |") for line in lines[3:-1:2]] == [True] * 7
    assert lines[-1].endswith("+-----------+")
    assert notes(one) == ["pages 0 to 7 are mapped by one large leaf"]
    # The first struct pages are those of the memory map itself.
    assert caption(one, GEOMETRY) == "the first 8 pages of the vmemmap, as mapped"


def test_two_large_leaves_are_two_blocks() -> None:
    lines = drawn(first((4, 0x200, "leaf"), (4, 0x400, "leaf"), large=True), 50)
    between = [line[30:] for line in lines[3::2]]
    assert between == ["|           |"] * 3 + ["+-----------+"] + ["|           |"] * 3 + [
        "+-----------+"
    ]


def test_base_pages_that_share_a_frame_are_no_large_leaf() -> None:
    one = first((8, 0x11, "base"))
    assert frames(one)[1] == "1 ----------------^ ^ ^ ^ ^ ^"
    mixed = pagemap_report(leaf_sizes={PAGE: 8, 2 << 20: 1}, first=((8, 0x11, "base"),))
    assert frames(mixed) == frames(one)


def test_page_that_maps_into_a_large_leaf_is_told() -> None:
    one = pagemap_report(
        leaf_sizes={PAGE: 1, 2 << 20: 1}, first=((1, 0x202, "base"), (4, 0x200, "leaf"))
    )
    assert notes(one)[1] == "page 3 maps the frame of page 0"


def test_many_pages_with_a_frame_each() -> None:
    spans = tuple((1, 0x100 + 2 * i, "tail") for i in range(64))
    one = pagemap_report(ranges=GIB, shift=18, first=spans)
    assert [line.split()[0] for line in frames(one)] == [
        "0", "1", "2", "3", "4", "..", "63", "..",
    ]  # fmt: skip
    assert frames(one)[5].endswith("|     ..    |")
    assert frames(one)[7] == ".. (not drawn)"
    assert notes(one) == [
        ".. is pages 5 to 62, each with a frame of its own",
        ".. is pages 64 to 4095, not drawn",
    ]


def test_irregular_pages_are_drawn_up_to_a_point_and_the_rest_is_told() -> None:
    spans = tuple((1, (0x10, 0x20)[i % 2], "tail") for i in range(64))
    one = pagemap_report(ranges=GIB, shift=18, first=spans)
    assert len(frames(one)) == 25
    assert frames(one)[2:4] == ["2 ---> 0x10       ^ ^ ^ ^ ^ ^", "3 ----------------+ | | | | |"]
    assert notes(one)[-1] == ".. is pages 24 to 4095, not drawn"


def test_no_more_arrows_than_fit_under_a_frame() -> None:
    spans: list[Span] = [(1, 0x10, "head")]
    for _ in range(5):
        spans += [(1, None, "hole"), (2, 0x10, "tail")]
    one = pagemap_report(ranges=GIB, shift=18, first=tuple(spans))
    assert max(line.count("^") for line in drawn(one)) == 6
    assert sum("---> 0x10" in line for line in frames(one)) == 4
    for line in drawn(one):
        assert len(line) <= 77


def test_arrows_are_counted_for_each_frame() -> None:
    spans: tuple[Span, ...] = ((7, 0x10, "tail"), (2, 0x11, "tail"), (1, None, "hole"))
    one = pagemap_report(ranges=GIB, shift=18, first=(*spans, (2, 0x11, "tail")))
    assert frames(one)[7:12] == [
        "7 -------------> |    0x11   |",
        "8 ----------------^ ^ ^",
        "9 (not mapped)      | |",
        "10 ------------------+ |",
        "11 --------------------+",
    ]


def test_every_page_of_the_entries_is_told() -> None:
    """Read the drawing back: each page drawn has the frame that the entries say."""
    spans: tuple[Span, ...] = (
        (1, 0x10, "head"), (3, 0x11, "tail"), (1, 0x10, "tail"), (1, None, "hole"),
        (1, 0x12, "tail"), (1, 0x11, "tail"),
    )  # fmt: skip
    expected: dict[str, str] = {}
    for count, pfn, _ in spans:
        for _ in range(count):
            expected[str(len(expected))] = "hole" if pfn is None else f"{pfn:#x}"
    read: dict[str, str] = {}
    latest = ""
    for line in frames(first(*spans)):
        page, rest = line.split(" ", 1)
        if "not mapped" in rest:
            read[page] = "hole"
        elif found := re.search(r"-> \| +(0x\w+)", rest):
            latest = read[page] = found[1]
        elif found := re.search(r"---> (0x\w+)", rest):
            read[page] = found[1]
        else:
            assert re.match(r"-+[+^]", rest)
            read[page] = latest
    assert read == expected


def test_long_frame_numbers_widen_their_boxes() -> None:
    large = 0xFFFFFFFFFF
    one = first((1, large, "head"), (1, 1, "tail"), (6, large, "tail"))
    lines = drawn(one)
    assert max(map(len, lines)) <= 100
    assert f"| {large:#x} |" in lines[2]
    right = {len(line) for line in lines[1:6]}
    assert len(right) == 1
    assert frames(one)[2] == f"2 ---> {large:#x}"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_device_memory_is_drawn_where_there_is_room(width: int) -> None:
    lines = drawn(pagemap_report(), width)
    assert max(map(len, lines)) <= 80
    assert "---virt_to_page--->" in lines[1]


def test_device_memory_is_left_out_where_there_is_none() -> None:
    lines = drawn(pagemap_report(), 60)
    assert max(map(len, lines)) <= 60
    assert lines[1] == " +-----------+   mapping to   +-----------+"
    assert len(lines) == 18


def test_drawing_ends_where_the_first_range_does() -> None:
    one = pagemap_report(ranges=((0x140000000, 0x147FFFFFF), (0x180000000, 0x1BFFFFFFF)), shift=18)
    start = one.detail.pieces[0].start
    spans = (
        FrameSpan(GEOMETRY.address(start), 1, 0x10, "head"),
        FrameSpan(GEOMETRY.address(start + 1), 511, 0x11, "tail"),
        FrameSpan(GEOMETRY.address(start + 4096), 1, 0x12, "head"),
    )
    one = replace(one, detail=replace(one.detail, first=spans))
    assert caption(one, GEOMETRY) == "the first 512 pages of the vmemmap, as mapped"
    assert frames(one)[-1].startswith("511 ")
    assert "0x12" not in "".join(drawn(one))


def test_compound_page_in_several_pieces() -> None:
    one = pagemap_report(ranges=GIB, shift=18, first=((512, 0x400, "early"), (3584, 0, "tail")))
    start, end = one.detail.pieces[0].start, one.detail.pieces[0].end
    pieces = (
        Piece(Populated.EARLY, start, start + 512, start, 0),
        Piece(Populated.COMPOUND, start + 512, end, start, 0),
    )
    vmemmap = replace(one.vmemmap, leaf_sizes={2 << 20: 1, PAGE: 3584})
    one = replace(one, detail=replace(one.detail, pieces=pieces), vmemmap=vmemmap)
    assert caption(one, GEOMETRY) == "the first compound page, as mapped"
    assert frames(one)[0] == "0 -------------> |   0x400   |"
    assert frames(one)[6] == "511 -------------> |   0x5ff   |"
    assert frames(one)[7] == "512 -------------> |    0x0    |"
    assert notes(one) == [
        "pages 0 to 511 are mapped by one large leaf",
        ".. is pages 5 to 510, each with a frame of its own",
        ".. is pages 517 to 4094, which map the same frame",
    ]


def test_nothing_to_draw() -> None:
    assert draw(pagemap_report(ranges=(), sharing={}, first=()), GEOMETRY, 80) == [
        " none of its vmemmap was audited"
    ]


def test_ascii_alone_and_no_blanks_at_the_ends() -> None:
    for line in draw(pagemap_report(), GEOMETRY, 100):
        assert line.isascii()
        assert line == line.rstrip()


def test_role_that_is_not_known_is_shown_as_it_is() -> None:
    assert frames(first((1, None, "ex\x1bcluded"), (7, 0x1, "tail")))[0] == r"0 (ex\x1bcluded)"
