# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels, paging and devices: every cell of the matrix.

Each guest is dumped as an ELF file of its RAM. What the command line says of it
by BTF alone is compared with the oracle, and both against what the kernel's
rules say has to come out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from drgn import FaultError
from drgn.helpers.linux.mm import follow_phys, pfn_to_page

from .audited import Audited
from .devices import MIB, Nvdimm
from .matrix import NODE_SIZE, PAGING, Cell, Shape, at_least
from .tested import Results

TYPES = {
    "generic": "MEMORY_DEVICE_GENERIC",
    "fsdax": "MEMORY_DEVICE_FS_DAX",
    "p2pdma": "MEMORY_DEVICE_PCI_P2PDMA",
}


def number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def shape_of(audited: Audited, cell: Cell) -> Shape | None:
    """Return what a device has to look like, where it is in this guest."""
    shape = cell.shape(audited.key.series)
    if shape is None or cell.at is None:
        return shape
    base = audited.notes[cell.at]
    return replace(shape, ranges=tuple((base + start, base + end) for start, end in shape.ranges))


def check_shape(audited: Audited, shape: Shape, pgmap: dict[str, Any]) -> None:
    """Hold what the tool says of a pagemap against what the kernel's rules say."""
    ranges = [(number(one["start"]), number(one["end"])) for one in pgmap["ranges"]]
    assert ranges == list(shape.ranges)
    assert pgmap["type"] == shape.type
    assert pgmap["compound_size"] == shape.align
    assert (pgmap["altmap"] is not None) == shape.altmap
    vmemmap, frames = pgmap["vmemmap"], pgmap["frames"]
    assert (vmemmap["pages"], vmemmap["mapped"]) == (shape.pages, shape.pages)
    assert (vmemmap["unmapped"], vmemmap["unreadable"]) == (0, 0)
    assert {int(size) for size in vmemmap["leaf_sizes"]} == shape.leaf_sizes
    assert (frames["backing"], frames["expected"]) == (shape.backing, shape.expected)
    assert {int(k): v for k, v in frames["sharing"].items()} == shape.sharing
    assert pgmap["saved_bytes"] == (0 if shape.altmap else (shape.pages - shape.backing) * 4096)
    assert pgmap["state"] == shape.state
    assert (pgmap["reason"] or "").startswith(shape.reason or "")
    assert (pgmap["reason"] is None) == (shape.reason is None)


def check_oracle(truth: dict[str, Any], shape: Shape, pgmap: dict[str, Any]) -> None:
    """Hold what the tool says of a pagemap against the oracle, number by number."""
    vmemmap, frames = pgmap["vmemmap"], pgmap["frames"]
    assert number(pgmap["address"]) == truth["address"]
    assert truth["type"] == TYPES[shape.type]
    # What has no device node the oracle has no name for.
    assert truth["name"] in (None, pgmap["name"])
    assert (truth["name"] is None) == (shape.type == "p2pdma")
    assert pgmap["vmemmap_shift"] == truth["vmemmap_shift"]
    assert pgmap["altmap"] == truth["altmap"]
    assert [(number(r["start"]), number(r["end"])) for r in pgmap["ranges"]] == truth["ranges"]
    assert number(vmemmap["start"]) == truth["first"]
    last = truth["ranges"][-1][1] + 1 - truth["ranges"][0][0]
    assert number(vmemmap["end"]) == truth["first"] + last // 64
    assert vmemmap["pages"] == truth["vmemmap_pages"]
    assert vmemmap["mapped"] == truth["mapped"]
    assert vmemmap["unmapped"] == truth["unmapped"]
    assert vmemmap["unreadable"] == truth["unreadable"]
    # The oracle has a size for each page; the tool counts entries. One that maps
    # pages of RAM's memory map, too, is an entry all the same.
    assert vmemmap["leaf_sizes"] == {
        str(size): -(-truth["leaf_sizes"].count(size) * 4096 // size)
        for size in sorted(set(truth["leaf_sizes"]))
    }
    assert frames["backing"] == truth["backing"]
    assert {int(k): v for k, v in frames["sharing"].items()} == truth["sharing"]
    assert pgmap["saved_bytes"] == (0 if truth["altmap"] else truth["saved_bytes"])


def found_in(pgmap: dict[str, Any]) -> Counter[tuple[str, str]]:
    """Count findings by severity and rule."""
    return Counter((finding["severity"], finding["rule"]) for finding in pgmap["findings"])


def test_cell(audited: Audited, cell: Cell, results: Results) -> None:
    shape = shape_of(audited, cell)
    if shape is None:
        check_gone(audited, cell)
        results.record(audited, cell, None, None)
        return
    start = shape.ranges[0][0]
    pgmap, truth = audited.pgmap_at(start), audited.truth_at(start)
    assert pgmap is not None
    assert truth is not None
    check_shape(audited, shape, pgmap)
    check_oracle(truth, shape, pgmap)
    assert found_in(pgmap) == cell.findings(audited.key.series)
    results.record(audited, cell, shape, pgmap)


def check_gone(audited: Audited, cell: Cell) -> None:
    """Check that there is no pagemap, nor a leaf where there may be none."""
    assert cell.where is not None
    base = audited.notes[cell.at] if cell.at else 0
    start, end = (base + address for address in cell.where)
    ranges = [one for truth in audited.truth for one in truth["ranges"]]
    for pgmap in audited.document["pgmaps"]:
        ranges += [(int(one["start"], 16), int(one["end"], 16)) for one in pgmap["ranges"]]
    assert not [one for one in ranges if one[0] <= end and one[1] >= start]
    if cell.unmapped:
        first = pfn_to_page(audited.prog, start // 4096).value_()
        mm = audited.prog["init_mm"].address_of_()
        for page in range(first, first + (end + 1 - start) // 64, 4096):
            with pytest.raises(FaultError):
                follow_phys(mm, page)


def test_nothing_else(audited: Audited) -> None:
    """No further pagemap, no finding of none of them, and the right exit status."""
    document, series = audited.document, audited.key.series
    starts = {
        shape.ranges[0][0] for cell in audited.boot.cells if (shape := shape_of(audited, cell))
    }
    assert {number(pgmap["ranges"][0]["start"]) for pgmap in document["pgmaps"]} == starts
    assert {truth["ranges"][0][0] for truth in audited.truth} == starts
    assert document["findings"] == []
    assert document["target"]["osrelease"] == audited.release
    assert document["target"]["types"] == "btf"
    errors = sum(
        count
        for cell in audited.boot.cells
        for (severity, _), count in cell.findings(series).items()
        if severity == "error"
    )
    assert document["summary"]["errors"] == errors
    # In each guest there are struct pages that a dump of System RAM does not
    # have, or that lie on no System RAM: those of an altmap, of frame 0.
    assert document["summary"]["not_read"]
    assert audited.status == (1 if errors else 4)


def test_levels_of_page_tables(audited: Audited) -> None:
    levels = 5 if PAGING[audited.key.cpu] == "5-level" else 4
    text = audited.prog["VMCOREINFO"].string_().decode()
    assert f"NUMBER(pgtable_l5_enabled)={levels - 4}\n" in text


def test_reference_counts(audited: Audited) -> None:
    """All are what the entries say: those of broken layouts are consistent, too."""
    for truth in audited.truth:
        if truth["altmap"] or 2 * MIB in truth["leaf_sizes"]:
            continue
        assert truth["refcounts"] == Counter(truth["pfns"])


@pytest.mark.boot("changes")
def test_nodes(audited: Audited) -> None:
    """The memory map lies on the node of the device."""
    nodes = set()
    for placed in audited.devices:
        truth = audited.truth_at(placed.start)
        if truth is None or truth["altmap"]:
            continue
        assert isinstance(placed.device, Nvdimm)
        node = placed.device.node or 0
        assert {pfn * 4096 // NODE_SIZE for pfn in truth["pfns"]} == {node}
        nodes.add(node)
    assert nodes == {0, 1}


@pytest.mark.boot("changes")
def test_what_was_done(audited: Audited) -> None:
    """The premises of what is said of devices that are gone, and of several ranges."""
    assert audited.notes["kmem"] == ["System RAM (kmem)"]
    assert sorted(len(truth["ranges"]) for truth in audited.truth)[-3:] == [1, 2, 2]
    before, after = audited.notes["memmap before"], audited.notes["memmap after"]
    series = audited.key.series
    if not at_least(series, "6.11"):
        # It does not count yet.
        assert before == after == {}
        return
    # 256 compound pages of 2 MiB have 512 frames. Between 6.12, which has the fix, and 7.2
    # the kernel counts them as if no frames were shared.
    fell = 2048 if at_least(series, "6.13") and not at_least(series, "7.2") else 512
    assert before["nr_memmap_pages"] - after["nr_memmap_pages"] == fell


@pytest.mark.boot("cxl")
def test_what_was_done_with_cxl(audited: Audited) -> None:
    """The premises of what is said of several ranges, and of memory that kmem took."""
    assert audited.notes["kmem"] == ["System RAM (kmem)"]
    assert sorted(len(truth["ranges"]) for truth in audited.truth) == [1, 1, 1, 2]
