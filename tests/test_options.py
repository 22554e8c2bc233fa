# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels whose configuration lacks an option: each command does what it still can.

What is missing must not be taken for a lack of types or symbols, nor the other way round.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import jsonschema
import pytest
from drgn import Program, Symbol, SymbolBinding, SymbolKind

from vmemscope.audits import hugetlb, memmap, page
from vmemscope.audits.pagemaps import once
from vmemscope.cli.main import main
from vmemscope.errors import TypesError, UnsupportedError
from vmemscope.machine import Kernel
from vmemscope.report import schema_text
from vmemscope.rules.findings import Outcome
from vmemscope.sim.options import OFF

from .kernels import DEVICE, KERNELS, Dumps

COMMANDS = (("pgmap", "--all"), ("hugetlb",), ("memmap",), ("page", "0x8000"))
HUGE = """
[[hugetlb]]
count = 3
in_use = 1
optimized = false
"""
#: options without which there is nothing to audit, or nothing to find it by
NEEDED = {"SPARSEMEM_VMEMMAP", "KALLSYMS_ALL"}


def scenario(*off: str) -> str:
    return (
        f'ram = "512M"\noff = {json.dumps(off)}\n'
        + ("" if "ZONE_DEVICE" in off else DEVICE)
        + ("" if "HUGETLB_PAGE" in off else HUGE)
    )


def run(
    core: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> tuple[int, str, str]:
    name, *rest = command
    status = main([name, "-c", str(core), *rest])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "off", [*((one,) for one in sorted(OFF.keys() - NEEDED)),
            *combinations(sorted(OFF.keys() - NEEDED), 2),
            tuple(sorted(OFF.keys() - NEEDED))],
    ids="-".join,
)  # fmt: skip
def test_every_command_works_without(dumps: Dumps, kernel: str, off: tuple[str, ...]) -> None:
    opened = Kernel.open_core(str(dumps.core(scenario(*off), kernel)))
    pgmap, huge = once(opened), hugetlb.audit(opened)
    memory, one = memmap.audit(opened), page.audit(opened, 0x8000)
    for report in (pgmap, huge, memory, one):
        assert report.findings == ()
        assert report.not_read == ()
    assert [p.state for p in pgmap.pagemaps] == ["deduplicated"] * ("ZONE_DEVICE" not in off)
    assert (pgmap.no_pagemaps is not None) == ("ZONE_DEVICE" in off)
    # 512 MiB, of which 16 in ZONE_DMA: 64 struct pages a page.
    zones = {area.label: area.pages for area in memory.areas if area.kind == "zone"}
    assert zones == {"node 0 DMA": 64, "node 0 DMA32": 1984}
    assert memory.summary.frames == 2048 + (0 if "ZONE_DEVICE" in off else 256)
    assert (one.node, one.zone) == (0, "DMA32")
    assert sum(one.nr_huge_pages or 0 for one in huge.hstates) == (
        0 if "HUGETLB_PAGE" in off else 3
    )


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_zone_device(dumps: Dumps, kernel: str, capsys: pytest.CaptureFixture[str]) -> None:
    core = dumps.core(scenario("ZONE_DEVICE"), kernel)
    status, out, err = run(core, ("pgmap", "--all"), capsys)
    assert (status, err) == (0, "")
    assert "no pagemaps: this kernel can't have any (CONFIG_ZONE_DEVICE is off)" in out
    status, out, _ = run(core, ("pgmap", "--all", "--format", "json"), capsys)
    document = json.loads(out)
    jsonschema.Draft202012Validator(json.loads(schema_text("vmemscope.pgmap/1"))).validate(document)
    assert status == 0
    assert "CONFIG_ZONE_DEVICE" in document["no_pagemaps"]
    (outcome,) = [one for one in document["rules"] if one["rule"] == "xarray"]
    assert outcome["outcome"] == "skipped"
    for form in ("ktap", "markdown", "ndjson"):
        assert run(core, ("pgmap", "--all", "--format", form), capsys)[0] == 0
    status, _, err = run(core, ("pgmap", "dax0.0"), capsys)
    assert status == 2
    assert "CONFIG_ZONE_DEVICE is off" in err


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("more", [(), ("ZONE_DEVICE", "HUGETLB_PAGE")])
def test_without_a_vmemmap(
    dumps: Dumps,
    kernel: str,
    command: tuple[str, ...],
    more: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    core = dumps.core(scenario("SPARSEMEM_VMEMMAP", *more), kernel)
    assert run(core, command, capsys) == (
        3,
        "",
        "vmemscope: error: this kernel has no vmemmap (CONFIG_SPARSEMEM_VMEMMAP is off), so there"
        " is nothing to audit\n",
    )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("more", [(), ("ZONE_DEVICE",)])
def test_without_symbols_of_variables_that_is_what_is_missing(
    dumps: Dumps,
    command: tuple[str, ...],
    more: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    core = dumps.core(scenario("KALLSYMS_ALL", *more), "6.12")
    status, out, err = run(core, command, capsys)
    assert (status, out) == (3, "")
    assert "CONFIG_KALLSYMS_ALL is off" in err
    assert "ZONE_DEVICE" not in err


def test_a_pagemap_array_without_the_zone_is_a_lack_of_types(dumps: Dumps) -> None:
    # The array proves that the option is on.
    opened = Kernel.open_core(str(dumps.core(DEVICE, "6.12")))
    assert opened.zone_device
    core = dumps.core(scenario("ZONE_DEVICE"), "6.12")
    lacking = Kernel.open_core(str(core))
    lacking.prog.register_symbol_finder("array", _array, enable_index=0)
    again = lacking.again()
    assert again.zone_device
    with pytest.raises(TypesError, match=r"ZONE_DEVICE|pgmap_array"):
        once(again)


def _array(prog: Program, name: str | None, address: int | None, one: bool) -> list[Symbol]:
    found = Symbol("pgmap_array", 0xFFFFFFFF80000000, 16, SymbolBinding.LOCAL, SymbolKind.OBJECT)
    return [found] if name == "pgmap_array" else []


def test_without_hugetlb(dumps: Dumps, capsys: pytest.CaptureFixture[str]) -> None:
    core = dumps.core(scenario("HUGETLB_PAGE"), "6.12")
    status, out, err = run(core, ("hugetlb",), capsys)
    assert (status, err) == (0, "")
    assert "no HugeTLB" in out


def test_flat_memory_has_no_vmemmap(dumps: Dumps, tmp_path: Path) -> None:
    opened = Kernel.open_core(str(dumps.core(DEVICE, "6.12")))
    text = opened.prog["VMCOREINFO"].string_().decode()
    lines = [line for line in text.splitlines() if "mem_section" not in line]
    note = tmp_path / "note"
    note.write_text("\n".join([*lines, "SYMBOL(mem_map)=ffffffff82000000"]) + "\n")
    with pytest.raises(UnsupportedError, match="CONFIG_FLATMEM"):
        once(Kernel.open_core(str(dumps.core(DEVICE, "6.12")), vmcoreinfo=str(note)))


def test_outcomes_without_zone_device_are_skipped(dumps: Dumps) -> None:
    report = once(Kernel.open_core(str(dumps.core(scenario("ZONE_DEVICE"), "7.2"))))
    (outcome,) = [one for one in report.outcomes if one.rule == "xarray"]
    assert outcome.outcome is Outcome.SKIPPED
    assert "CONFIG_ZONE_DEVICE is off" in (outcome.reason or "")
