# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Frames whose memory failed, which ``/proc/kcore`` has zeros for, whatever is in them.

Of a running kernel, they are not read. In a dump and over QMP, zeros are zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from drgn import Architecture, Platform, Program
from msgspec.structs import replace

import vmemscope
from vmemscope import Kernel
from vmemscope.target import open_core
from vmemscope.vmemmap.memory import PhysicalMemory

from .kernels import DEVICE, PAGE, View, image, write
from .patched import damaged

#: first page of the device
FIRST = 0x100000000 // PAGE
PLACES = ("head frame", "tail frame", "pte table", "pmd table")


class Poisoned(NamedTuple):
    """A dump, and a frame in it."""

    core: Path
    frame: int
    #: where its page->flags are, and these with PG_hwpoison
    flags_at: int
    flags: bytes


@pytest.fixture(scope="module", params=["6.1", "7.2"])
def core(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("withheld")
    return Path(write(image(DEVICE, request.param), directory))


def poisoned(core: Path, place: str) -> Poisoned:
    """Choose a frame that the device's memory map needs."""
    view = View(core)
    shared = view.page_va(FIRST) + PAGE
    if place == "head frame":
        address = view.physical(view.page_va(FIRST))
    elif place == "tail frame":
        address = view.physical(shared)
    else:
        address = view.path(shared)[-1 if place == "pte table" else -2].at
    frame = address // PAGE
    flags_at = view.physical(view.page_va(frame))
    bit = int(view.prog.constant("PG_hwpoison").value_())
    flags = view.prog.read_u64(flags_at, True) | 1 << bit
    return Poisoned(core, frame, flags_at, flags.to_bytes(8, "little"))


@contextmanager
def audited(made: Poisoned, kind: str, *, zeros: bool, flag: bool = True) -> Iterator[list[Any]]:
    """
    Get the reports of all audits.

    :param kind: of target that the dump is taken for
    """
    changes = {made.frame * PAGE: bytes(PAGE)} if zeros else {}
    if flag:
        changes[made.flags_at] = made.flags
    audits: tuple[Callable[[Kernel], Any], ...] = (
        vmemscope.audit,
        vmemscope.audit_hugetlb,
        vmemscope.audit_memmap,
        *(lambda kernel, n=n: vmemscope.audit_page(kernel, FIRST + n) for n in (0, 1, 200)),
    )
    with damaged(made.core, changes):
        kernel = Kernel.open(lambda: replace(open_core(str(made.core)), kind=kind))
        yield [audit(kernel.again()) for audit in audits]


def rules(reports: list[Any]) -> list[set[str]]:
    return [
        {one.rule for one in report.findings}
        | {one.rule for pagemap in getattr(report, "pagemaps", ()) for one in pagemap.findings}
        for report in reports
    ]


@pytest.mark.parametrize("place", PLACES)
def test_what_kcore_withholds_is_not_read(core: Path, place: str) -> None:
    made = poisoned(core, place)
    with audited(made, "qemu", zeros=False) as reports:
        marked = rules(reports)
    with audited(made, "live", zeros=True) as reports:
        assert all(found <= known for found, known in zip(rules(reports), marked, strict=True))
        assert reports[0].not_read
        # Nor does a page's report make anything of it.
        assert [bool(one.not_read) for one in reports[3:]] != [False] * 3


@pytest.mark.parametrize(
    ("place", "kind", "flag"),
    [
        *((place, kind, True) for place in PLACES for kind in ("core", "qemu")),
        # Behind the fourth place is the struct page that says it, here where nothing else
        # than the same page tables leads to it: then zeros are not trusted.
        *((place, "live", False) for place in PLACES[:3]),
    ],
)
def test_elsewhere_zeros_are_zeros(core: Path, place: str, kind: str, flag: bool) -> None:
    made = poisoned(core, place)
    with audited(made, kind, zeros=False, flag=flag) as reports:
        (before, *_) = rules(reports)
    with audited(made, kind, zeros=True, flag=flag) as reports:
        (after, *_) = rules(reports)
    assert after - before


@pytest.mark.parametrize("count", [1, 2, 100])
def test_frames_that_are_withheld(count: int) -> None:
    """However they are read: one by one, in a run, in batches, beside others that are missing."""
    frames = {pfn: bytes([pfn % 251]) * PAGE for pfn in range(1, 65)}
    zeros, withheld = {3, 4, 20, 41}, {4, 20, 60}
    contents = b"".join(bytes(PAGE) if pfn in zeros else frames[pfn] for pfn in sorted(frames))
    prog = Program(Platform(Architecture.X86_64))
    prog.add_memory_segment(
        PAGE, len(contents), lambda at, size, skip, _: contents[at - PAGE :][:size], True
    )
    asked: list[int] = []

    def poisoned(pfns: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        asked.extend(pfns.tolist())
        return np.array([pfn in withheld for pfn in pfns.tolist()])

    memory = PhysicalMemory(prog, PAGE, [(0, 80 * PAGE - 1)], poisoned)
    for wanted in (range(1, 65), [4], [3], [64, 20, 4, 5], [20, 70, 41], range(60, 70)):
        asked.clear()
        known = {}
        pfns = np.array(wanted, dtype=np.uint64)
        at = 0
        for data, readable in memory.read_batches(pfns, count):
            for row, one in zip(data, readable.tolist(), strict=True):
                known[int(pfns[at])] = row.tobytes() if one else None
                at += 1
        # What is not all zeros is there, whatever the frame's struct page says.
        assert set(asked) == zeros & known.keys()
        for pfn, data in known.items():
            missing = pfn > 64 or pfn in zeros & withheld
            assert data == (None if missing else bytes(PAGE) if pfn in zeros else frames[pfn])
    assert memory.read_run(3, 3)[1].tolist() == [True, False, True]
