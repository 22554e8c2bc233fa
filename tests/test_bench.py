# SPDX-License-Identifier: LGPL-2.1-or-later
"""The sparse dumps that the benchmarks run on."""

import pytest

from bench.foreign import FOREIGN, write_foreign
from bench.sparse import write_sparse
from vmemscope import Kernel, audit
from vmemscope.sim.architectures import ARCHITECTURES

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize(
    ("align", "sharing"),
    [
        # A compound page has 8 vmemmap pages, the last 7 in one frame.
        pytest.param(2 * MIB, {1: 2048, 7: 2048}, id="2M"),
        # It has 4096; of 8 sections, the first has head and tails' frame.
        pytest.param(GIB, {1: 4, 4095: 4}, id="1G"),
    ],
)
def test_sparse_dump(tmp_path, align, sharing):
    """All is as the kernel makes it, but for the device's struct pages, which are left out."""
    path = tmp_path / "vmcore"
    write_sparse(path, 4 * GIB, align)
    report = audit(Kernel.open_core(str(path)))
    (pagemap,) = report.pagemaps
    assert pagemap.vmemmap.mapped == 4 * GIB // 4096 // 64
    assert pagemap.frames.sharing == sharing
    assert {finding.rule for finding in pagemap.findings} == {"page-uninitialised"}
    assert report.findings == ()


@pytest.mark.parametrize("arch", FOREIGN)
def test_dump_of_another_architecture(tmp_path, arch):
    """One device, and the frames that the architecture has for its memory map."""
    there, size = ARCHITECTURES[arch], 8 * GIB
    path = tmp_path / "vmcore"
    write_foreign(path, arch, size)
    (pagemap,) = audit(Kernel.open_core(str(path)), contents="none").pagemaps
    pages = size // there.units.page_size * 64 // there.units.page_size
    assert pagemap.vmemmap.mapped == pages
    frames = 2 * size // FOREIGN[arch] if there.deduplicates else pages
    assert pagemap.frames.backing == pagemap.frames.expected == frames
    assert pagemap.findings == ()
