# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Device-private and device-coherent memory of real kernels.

Drivers of graphics cards make it, and QEMU emulates none of them. ``device_memory.c`` asks the
kernel for the same; the pagemaps and their memory map are the kernel's own work.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from drgn.helpers.linux.mm import pfn_to_page

from tests import oracle
from vmemscope.audits import memmap, pagemaps
from vmemscope.audits.page import audit as audit_page
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import PagemapReport, Report

from .devices import MIB
from .guest import Guest
from .matrix import at_least
from .packages import get_kernel

pytestmark = pytest.mark.guest

#: bytes: two whole sections
SIZE = 256 * MIB
#: nothing is there, and nobody reads or writes it
COHERENT_AT = 0x4000000000


@dataclass(frozen=True)
class Made:
    """A guest's dump, and what the guest said."""

    series: str
    kernel: Kernel
    report: Report
    #: type -> first and last address, from the guest's ``/proc/iomem``
    ranges: dict[str, tuple[int, int]]
    #: by how much the counters of ``/proc/vmstat`` rose
    counted: dict[str, int]

    def pagemap(self, type: str) -> PagemapReport:
        """Return what is said of the pagemap of a type."""
        (found,) = (one for one in self.report.pagemaps if one.type == type)
        return found

    def truth(self, type: str) -> dict[str, Any]:
        """Return what the oracle says of it, by the types of the kernel's BTF."""
        name = f"MEMORY_DEVICE_{type.upper()}"
        (found,) = (one for one in oracle.audit(self.kernel.prog) if one["type"] == name)
        return found


def types_of(series: str) -> tuple[str, ...]:
    """Return what a kernel can have: Debian's have CONFIG_DEVICE_PRIVATE since 6.16."""
    return ("coherent", "private") if at_least(series, "6.16") else ("coherent",)


@pytest.fixture(scope="module", params=["6.12", "7.2"])
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    series, core = request.param, tmp_path_factory.mktemp("device-memory") / "vmcore"
    with Guest(get_kernel(series), (), built=("device_memory",)) as guest:
        before = guest.report().memmap
        parameters = f"coherent={SIZE} at={COHERENT_AT}"
        if "private" in types_of(series):
            parameters += f" private={SIZE}"
        guest.run(f"insmod /modules/device_memory.ko {parameters}")
        after = guest.report()
        guest.dump(core)
    found = re.findall(r"^ *(\w+)-(\w+) : (\w+) memory$", after.iomem, re.M)
    kernel = Kernel.open_core(str(core))
    yield Made(
        series,
        kernel,
        pagemaps.audit(kernel, contents="all"),
        {type: (int(start, 16), int(end, 16)) for start, end, type in found},
        {name: after.memmap[name] - count for name, count in before.items()},
    )
    Path(core).unlink()


def test_there_is_what_was_asked_for(made: Made) -> None:
    assert sorted(made.ranges) == list(types_of(made.series))
    assert sorted(one.type for one in made.report.pagemaps) == list(types_of(made.series))
    assert made.ranges["coherent"][0] == COHERENT_AT
    assert all(end + 1 - start == SIZE for start, end in made.ranges.values())


def test_the_memory_map_is_the_kernels_and_sound(made: Made) -> None:
    # 64 bytes for each page of 4 KiB, in leaves of 2 MiB as all whole sections.
    pages = SIZE // 4096 * 64 // 4096
    for type, place in made.ranges.items():
        one, truth = made.pagemap(type), made.truth(type)
        assert [(r.start, r.end) for r in one.ranges] == [place] == truth["ranges"]
        assert one.name == f"{type} memory"
        assert (one.vmemmap.mapped, one.vmemmap.unmapped, one.vmemmap.unreadable) == (pages, 0, 0)
        assert one.vmemmap.leaf_sizes == {2 * MIB: pages // 512}
        assert one.frames.backing == truth["backing"] == pages == truth["mapped"]
        assert Counter(truth["pfns"]) == Counter(dict.fromkeys(truth["pfns"], 1))
        assert (one.state, one.saved_bytes) == ("not-optimized", 0)
        assert one.findings == ()
    assert (made.report.findings, made.report.not_read) == ((), ())


def test_no_page_that_is_handed_out_to_nobody_has_a_reference(made: Made) -> None:
    # memmap_init_zone_device() leaves them to the driver, with a count of 0.
    prog = made.kernel.prog
    for start, end in made.ranges.values():
        for pfn in (start // 4096, start // 4096 + 511, end // 4096):
            page = pfn_to_page(prog, pfn)
            assert page._refcount.counter.value_() == 0
            said = audit_page(made.kernel, pfn, "pfn")
            assert said.page.refcount == 0
            assert said.findings == ()


def test_the_kernel_counts_it_as_the_memory_map_has_it(made: Made) -> None:
    report = memmap.audit(made.kernel)
    assert (report.findings, report.not_read) == ((), ())
    frames = {area.name: area.frames for area in report.areas if area.kind == "pagemap"}
    assert frames == {f"{type} memory": SIZE // 64 // 4096 for type in made.ranges}
    assert made.counted["nr_memmap_pages"] == sum(frames.values())
