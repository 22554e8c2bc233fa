# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``vmemscope pgmap --all`` on real kernels, compared with the oracle number by number.

Each guest is audited through an ELF dump of its RAM, a kdump file and its QMP
socket, with types from BTF and from DWARF; every view must say the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from drgn import FaultError
from drgn.helpers.linux.mm import compound_head, pfn_to_page

from tests import oracle

from .targets import GuestTargets

VIEWS = ("elf-btf", "elf-dwarf", "kdump-btf", "kdump-dwarf", "qemu-btf", "qemu-dwarf")
TYPES = {"MEMORY_DEVICE_GENERIC": "generic", "MEMORY_DEVICE_FS_DAX": "fsdax"}


def arguments(guest: GuestTargets, view: str) -> list[str]:
    """Return the options that make vmemscope audit a guest in a certain way."""
    target, _, types = view.partition("-")
    options = {
        "elf": lambda: ["-c", str(guest.vmcore)],
        "kdump": lambda: ["-c", str(guest.kdump)],
        "qemu": lambda: ["--qemu", f"unix:{guest.qmp}"],
    }[target]()
    return options + (["-s", str(guest.vmlinux)] if types == "dwarf" else [])


def vmemscope(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as its user does."""
    return subprocess.run(
        [sys.executable, "-m", "vmemscope", *options], capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="session")
def documents() -> dict[tuple[str, str], tuple[dict[str, Any], int]]:
    """Documents and exit statuses by release and view, each made once."""
    return {}


@pytest.fixture(params=VIEWS)
def view(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def answered(
    guest: GuestTargets, view: str, documents: dict[tuple[str, str], tuple[dict[str, Any], int]]
) -> tuple[dict[str, Any], int]:
    """What the tool says of a guest, and its exit status."""
    key = (guest.release, view)
    if key not in documents:
        result = vmemscope("pgmap", "--all", "--format", "json", *arguments(guest, view))
        assert result.stdout, result.stderr
        documents[key] = json.loads(result.stdout), result.returncode
    return documents[key]


def number(text: str | None) -> int | None:
    return None if text is None else int(text, 16)


def test_target(guest: GuestTargets, view: str, answered: tuple[dict[str, Any], int]) -> None:
    document, _ = answered
    target, _, types = view.partition("-")
    assert document["schema"] == "vmemscope.pgmap/1"
    assert document["target"] == {
        "kind": "qemu" if target == "qemu" else "core",
        "path": arguments(guest, view)[1],
        "osrelease": guest.release,
        "arch": "x86_64",
        "page_size": 4096,
        "struct_page_size": 64,
        "types": types,
    }
    assert set(document["timings"]) == {
        "attach", "types", "pagemaps", "walk", "frames", "contents", "audit",
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in document["timings"].values())


def test_every_number_is_the_oracles(
    guest: GuestTargets, answered: tuple[dict[str, Any], int]
) -> None:
    document, _ = answered
    assert len(document["pgmaps"]) == len(guest.oracle) == len(guest.devices)
    prog = oracle.open_core(guest.vmcore, guest.vmlinux)
    for pgmap, truth in zip(document["pgmaps"], guest.oracle, strict=True):
        vmemmap, frames = pgmap["vmemmap"], pgmap["frames"]
        first = pfn_to_page(prog, truth["ranges"][0][0] // 4096).value_()
        assert number(pgmap["address"]) == truth["address"]
        assert pgmap["name"] == truth["name"]
        assert pgmap["type"] == TYPES[truth["type"]]
        assert pgmap["vmemmap_shift"] == truth["vmemmap_shift"]
        assert pgmap["compound_size"] == 4096 << truth["vmemmap_shift"]
        assert pgmap["altmap"] == truth["altmap"]
        assert [(number(r["start"]), number(r["end"])) for r in pgmap["ranges"]] == truth["ranges"]
        assert number(vmemmap["start"]) == first
        assert number(vmemmap["end"]) == first + truth["vmemmap_pages"] * 4096
        assert vmemmap["pages"] == truth["vmemmap_pages"]
        assert vmemmap["mapped"] == truth["mapped"]
        assert vmemmap["unmapped"] == truth["unmapped"]
        assert vmemmap["unreadable"] == truth["unreadable"]
        # The oracle has a size for each page; an entry covers size / 4096 of them.
        assert vmemmap["leaf_sizes"] == {
            str(size): truth["leaf_sizes"].count(size) * 4096 // size
            for size in sorted(set(truth["leaf_sizes"]))
        }
        assert frames["backing"] == truth["backing"]
        assert {int(k): v for k, v in frames["sharing"].items()} == truth["sharing"]
        assert pgmap["saved_bytes"] == truth["saved_bytes"]
    totals = document["summary"]
    assert totals["pagemaps"] == len(guest.oracle)
    assert totals["vmemmap_pages"] == sum(truth["vmemmap_pages"] for truth in guest.oracle)
    assert totals["backing_frames"] == sum(truth["backing"] for truth in guest.oracle)
    assert totals["saved_bytes"] == sum(truth["saved_bytes"] for truth in guest.oracle)


def test_expected_frames_and_state(
    guest: GuestTargets, answered: tuple[dict[str, Any], int]
) -> None:
    document, _ = answered
    for pgmap, placed in zip(document["pgmaps"], guest.devices, strict=True):
        device, pages = placed.device, pgmap["vmemmap"]["pages"]
        # struct pages of 64 bytes: a compound page takes 1/64 of its size.
        compound = device.align // 64 // 4096
        if device.mode == "devdax" and device.map == "mem" and device.align > 4096:
            assert pgmap["frames"]["expected"] == 2 * -(-pages // compound)
            assert (pgmap["state"], pgmap["reason"]) == ("deduplicated", None)
        else:
            assert pgmap["frames"]["expected"] == pages
            assert pgmap["state"] == "not-optimized"
            assert ("altmap" if device.map == "dev" else "base pages") in pgmap["reason"]


def test_findings_are_what_drgn_sees(
    guest: GuestTargets, view: str, answered: tuple[dict[str, Any], int]
) -> None:
    """A finding for each compound page of which drgn resolves a tail to another head, no other."""
    document, status = answered
    prog = oracle.open_core(guest.vmcore, guest.vmlinux)
    expected = set()
    for truth in guest.oracle:
        if not truth["vmemmap_shift"] or truth["altmap"]:
            continue
        (start, end), size = truth["ranges"][0], 1 << truth["vmemmap_shift"]
        for pfn in range(start // 4096, (end + 1) // 4096, size):
            head, tail = pfn_to_page(prog, pfn), pfn_to_page(prog, pfn + 1)
            if compound_head(tail).value_() != head.value_():
                expected.add(("compound-head", truth["name"], tail.value_()))
    found = {
        (finding["rule"], pgmap["name"], number(finding["vaddr"]))
        for pgmap in document["pgmaps"]
        for finding in pgmap["findings"]
        if finding["severity"] == "error"
    }
    assert found == expected
    warnings = {
        (finding["rule"], pgmap["name"])
        for pgmap in document["pgmaps"]
        for finding in pgmap["findings"]
        if finding["severity"] != "error"
    }
    assert document["findings"] == []
    if guest.guest.kernel.series != "7.2":
        # Sound: tail pages point to their head, wherever it is. There is a note of that.
        off = {
            truth["name"]
            for truth in guest.oracle
            if not truth["altmap"]
            and truth["ranges"][0][0] % (4096 << (truth["vmemmap_shift"] or 0))
        }
        assert (expected, warnings) == (set(), {("compound-alignment", name) for name in off})
        # The altmap's frames are on the device, and not in a dump of RAM.
        assert status == (4 if view.startswith("elf") else 0)
    else:
        # Really broken: 1G pages that QEMU puts off a 1G boundary, and a mask.
        assert {name for _, name, _ in expected} == {"dax1.0"}
        assert warnings == {("mask-alignment", "dax1.0")}
        assert status == 1


def test_refcounts_were_all_compared(
    guest: GuestTargets, answered: tuple[dict[str, Any], int]
) -> None:
    document, _ = answered
    # Frames from the page allocator: each of base pages, the first of a large leaf.
    counted = sum(
        len(truth["refcounts"])
        if set(truth["leaf_sizes"]) == {4096}
        else truth["vmemmap_pages"] // 512
        for truth in guest.oracle
        if not truth["altmap"]
    )
    assert document["summary"]["refcounts_checked"] == counted
    assert document["summary"]["refcounts_unreadable"] == 0


def test_what_was_not_read(
    guest: GuestTargets, view: str, answered: tuple[dict[str, Any], int]
) -> None:
    document, _ = answered
    summary = document["summary"]
    heads = {
        truth["name"]: len(range(0, truth["vmemmap_pages"] * 64 - offset(truth), 1 << shift))
        for truth in guest.oracle
        if (shift := truth["vmemmap_shift"])
    }
    assert summary["compounds"] == sum(heads.values())
    on_device = sum(heads[truth["name"]] for truth in guest.oracle if truth["altmap"])
    unreadable = on_device if view.startswith("elf") else 0
    assert summary["compounds_unreadable"] == unreadable
    assert summary["compounds_checked"] == summary["compounds"] - unreadable
    assert len(summary["not_read"]) == (1 if unreadable else 0)


def offset(truth: dict[str, Any]) -> int:
    """Return the frames of a range before its first compound page."""
    altmap = truth["altmap"]
    return altmap["reserve"] + altmap["free"] if altmap else 0


def test_a_pagemap_is_found_by_all_its_names(guest: GuestTargets) -> None:
    truth = guest.oracle[0]
    core = str(guest.vmcore)
    start = truth["ranges"][0][0]
    prog = oracle.open_core(guest.vmcore, guest.vmlinux)
    page = pfn_to_page(prog, start // 4096 + 700).value_()
    outputs = {
        vmemscope("pgmap", which, "-c", core).stdout
        for which in (
            truth["name"], hex(truth["address"]), hex(page), hex(start + 0x5123), str(start // 4096)
        )
    }  # fmt: skip
    (output,) = outputs
    assert f"{truth['pfns'][0]:#x}" in output
    assert f"{truth['pfns'][1]:#x}" in output


def test_wrong_vmlinux_is_refused(guest: GuestTargets, tmp_path: Path) -> None:
    result = vmemscope("pgmap", "--all", "-c", str(guest.vmcore), "-s", sys.executable)
    assert result.returncode == 3
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.1, 0.001])
def test_dump_that_is_cut_off(guest: GuestTargets, tmp_path: Path, keep: float) -> None:
    """Whatever is left is audited; nothing that is missing becomes a finding."""
    whole = guest.vmcore.stat().st_size
    cut = tmp_path / "vmcore"
    with guest.vmcore.open("rb") as source, cut.open("wb") as target:
        target.write(source.read(int(whole * keep)))
    result = vmemscope("pgmap", "--all", "--format", "json", "-c", str(cut))
    assert "Traceback" not in result.stderr
    if result.stdout:
        document = json.loads(result.stdout)
        errors = {f["rule"] for p in document["pgmaps"] for f in p["findings"]} | {
            f["rule"] for f in document["findings"]
        }
        assert errors <= {"compound-head", "mask-alignment", "compound-alignment"}
        assert result.returncode in (1, 4)
        assert document["summary"]["not_read"]
    else:
        assert result.returncode == 3
        assert len(result.stderr.splitlines()) == 1


def test_struct_page_of_an_altmap_frame_is_not_in_a_dump_of_ram(guest: GuestTargets) -> None:
    """The premise of what the tests above say of dumps of RAM."""
    prog = oracle.open_core(guest.vmcore, guest.vmlinux)
    (truth,) = [truth for truth in guest.oracle if truth["altmap"]]
    with pytest.raises(FaultError):
        pfn_to_page(prog, truth["pfns"][0]).flags.read_()
