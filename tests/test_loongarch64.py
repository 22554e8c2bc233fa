# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The worked example of docs/architectures.md: a simulated loongarch64, and its description there.

No real kernel of it was seen. vmemscope refuses it; here, the description is registered.
"""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

from vmemscope import arch
from vmemscope.cli.main import main
from vmemscope.errors import UsageError, VmemscopeError
from vmemscope.machine import Kernel
from vmemscope.sim import builtin_scenarios, load_scenario

from .arch_matrix import damage
from .kernels import DEVICE, audit_core, image, write

#: faults of all kinds of places that there are without deduplication
FAULTS = (
    *("counter", "executable", "head-flag-lost", "head-put", "leak"),
    *("range-overlap", "ref-leaked", "section-map", "stray-head"),
    *("tail-referenced", "tail-wrong-head", "uninitialised-zeros", "usage-lost", "wrong-order"),
    *("wrong-pgmap", "wrong-zone", "xarray-stray"),
)


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the description."""
    text = (Path(__file__).parent.parent / "docs/architectures.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    module = ModuleType("vmemscope.arch.loongarch64")
    exec(code, module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(arch._MODULES, ("LOONGARCH64", True), "loongarch64")
    monkeypatch.setitem(arch._MACHINES, 258, "LOONGARCH64")


def test_it_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    core = write(image(DEVICE, "7.2@loongarch64"), tmp_path)
    assert main(["pgmap", "-c", core]) == 3
    assert capsys.readouterr().err == (
        "vmemscope: error: architecture loongarch64 is not supported; supported: arm64, ppc64le,"
        " riscv64, s390x, x86_64\n"
    )


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize("name", builtin_scenarios())
def test_scenario(tmp_path: Path, name: str) -> None:
    """Sound: nothing is shared, and nothing is wrong."""
    if any(one.align == 1 << 30 for one in load_scenario(name).pagemaps):
        with pytest.raises(UsageError, match="has no pages of 1G"):
            image(name, "7.2@loongarch64")
        return
    # Of huge pages, and of leaves of 32 MiB in an altmap, each of which describes 8 GiB.
    if name in ("altmap", "hugetlb", "hugetlb-boot", "partial-sections"):
        with pytest.raises(UsageError, match="too small"):
            image(name, "7.2@loongarch64")
        return
    done = audit_core(Path(write(image(name, "7.2@loongarch64"), tmp_path)))
    assert done.found() == set()
    for one in done.pgmap.pagemaps:
        assert one.state == "not-optimized"
        assert one.frames.backing == one.frames.expected == one.vmemmap.pages


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(tmp_path: Path, fault: str) -> None:
    one = image(fault, "7.2@loongarch64")
    done = audit_core(Path(write(one, tmp_path)), one.planted)
    assert done.found() == done.expected() != set()


@pytest.mark.usefixtures("described")
def test_windows_and_page_tables(tmp_path: Path) -> None:
    """The kernel lies in a window of the CPU, and the vmemmap in page tables of 16 KiB."""
    kernel = Kernel.open_core(write(image(DEVICE, "7.2@loongarch64"), tmp_path))
    assert kernel.prog["init_uts_ns"].address_ >> 48 == 0x9000
    assert kernel.prog["init_uts_ns"].name.release.string_().decode() == kernel.target.osrelease
    assert [(one.name, one.shift) for one in kernel.table.levels] == [
        ("pgd", 36),
        ("pmd", 25),
        ("pte", 14),
    ]


@pytest.mark.usefixtures("described")
@pytest.mark.parametrize("seed", range(6))
def test_damage(tmp_path: Path, seed: int) -> None:
    one = image("fsdax" if seed % 2 else "devdax-2m", "7.2@loongarch64")
    core = Path(write(one, tmp_path))
    damage(core, [pfn << 14 for pfn in one._tables()], Random(f"loongarch64 {seed}"))
    with suppress(VmemscopeError):
        assert audit_core(core).memmap.outcomes
