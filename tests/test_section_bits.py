# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The flags of sections have the numbers that the kernel's own enumerators say.

mm-unstable of September 2026 has no SECTION_MARKED_PRESENT_BIT, all other bits are one lower,
and the highest section has another name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmemscope.audits import memmap
from vmemscope.audits.page import audit as audit_page
from vmemscope.audits.pagemaps import once
from vmemscope.machine import Kernel
from vmemscope.sim import kernel as sim_kernel
from vmemscope.sim.kernel import SimulatedKernel
from vmemscope.sim.kernel_image import KernelImage
from vmemscope.sim.layouts import Layouts
from vmemscope.sim.sparse import Sections

from .kernels import image, write

SCENARIO = """
ram = "256M"
[[block]]
start = 0x200000000
size = "128M"
[[block]]
start = 0x210000000
size = "128M"
online = false
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "192M"
align = "2M"
"""


def without_present(layouts: Layouts) -> Layouts:
    """Return the types with the bits of the coming kernel."""
    types: list[dict[str, Any]] = []
    for record in layouts.types:
        values = dict(record.get("values", ()))
        if "SECTION_MARKED_PRESENT_BIT" in values:
            del values["SECTION_MARKED_PRESENT_BIT"]
            record = {**record, "values": [[name, bit - 1] for name, bit in values.items()]}
        types.append(record)
    return Layouts(layouts.release, types)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Kernel, Kernel]:
    """The same kernel with the bits of today, and with those of the coming one."""
    today = Kernel.open_core(write(image(SCENARIO, "7.2"), tmp_path))
    renumbered = without_present(Layouts.load("7.2"))
    flag, define = Sections.flag, KernelImage.define_word

    def define_word(self: KernelImage, name: str, *rest: Any, **more: Any) -> Any:
        name = name.replace("__highest_present_section_nr", "__highest_used_section_nr")
        return define(self, name, *rest, **more)

    monkeypatch.setattr(sim_kernel.Layouts, "load", lambda version: renumbered)
    monkeypatch.setattr(
        Sections, "flag", lambda self, name: 0 if name == "MARKED_PRESENT" else flag(self, name)
    )
    monkeypatch.setattr(KernelImage, "define_word", define_word)
    (tmp_path / "next").mkdir()
    built = image(SCENARIO, "7.2")
    assert isinstance(built.kernel, SimulatedKernel)
    return today, Kernel.open_core(write(built, tmp_path / "next"))


def test_all_is_as_it_was(kernels: tuple[Kernel, Kernel]) -> None:
    today, coming = kernels
    assert today.sections.bits == (0, 1, 2, 3)
    assert coming.sections.bits == (0, 0, 1, 2)
    for name in ("number", "early", "online", "has_map"):
        assert (getattr(today.sections, name) == getattr(coming.sections, name)).all()
    assert today.sections.early.any()
    assert not today.sections.early.all()
    assert today.sections.online.any()
    assert not today.sections.online.all()
    reports = [(once(kernel), memmap.audit(kernel)) for kernel in kernels]
    for pgmap, whole in reports:
        assert pgmap.all_findings() == []
        assert (whole.findings, whole.not_read) == ((), ())
    (old, old_map), (new, new_map) = reports
    assert [one.frames for one in old.pagemaps] == [one.frames for one in new.pagemaps]
    assert [(one.kind, one.pages, one.frames) for one in old_map.areas] == [
        (one.kind, one.pages, one.frames) for one in new_map.areas
    ]
    assert "offline" in {one.kind for one in new_map.areas}
    flags = audit_page(coming, 0x8000).section
    assert flags is not None
    assert flags.flags == ("has memory map", "online", "early")
