# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults and rules agree one to one.

Every rule of the catalogue has a fault that it tells, at the address where the
simulator put it, and that no other rule tells but those listed as its companions; and
every fault is told by a rule, by all commands, or listed as harmless. ``pgmap``'s part
is in ``test_scenarios``, that of ``hugetlb`` in ``test_hugetlb``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vmemscope.audits import hugetlb, memmap
from vmemscope.machine import Kernel
from vmemscope.report.documents.pgmap import Report
from vmemscope.rules import RULES as CATALOGUE
from vmemscope.sim import build, load_scenario
from vmemscope.sim.faults import Planted
from vmemscope.sim.scenario import FAULTS as KINDS

from . import patched
from .conftest import KERNELS
from .guests.test_hugetlb import DAMAGE
from .test_hugetlb import FAULTS as HUGETLB_FAULTS
from .test_scenarios import (
    FAULTS,
    FIXTURES,
    HARMLESS,
    MEMORY_MAP_RULES,
    RULES,
    expected_of,
    image_kernel,
)

Audited = Callable[[str, str], tuple[Report, list[Planted]]]

#: rules whose fault is how a device lies: the scenario, kernels that are wrong about
#: it, and what else is told of it, since the damage is done
LAYOUTS = {
    "section-alignment": ("unaligned-section-1g", KERNELS, {"frame-shared"}),
    "mask-alignment": ("unaligned-1g", ("7.2",), {"compound-head"}),
    "compound-alignment": ("unaligned-1g", ("6.1", "6.12"), set()),
}

# Where a rule of "memmap" or "hugetlb" tells a fault: at its address, or somewhere that
# the simulator names; None: not on this kernel.
_HERE: Callable[[Planted], int | None] = lambda planted: planted.vaddr  # noqa: E731
_COUNTER: Callable[[Planted], int | None] = lambda planted: planted.details["counter"]  # noqa: E731

#: kind of fault -> rules of "memmap" that tell it
MEMMAP: dict[str, dict[str, Callable[[Planted], int | None]]] = {
    **{kind: {rule: _HERE} for kind, rule in MEMORY_MAP_RULES.items()},
    "hole": {"section-unmapped": _HERE},
    # Vmemmap of what is not valid is mapped in vain.
    "subsection-lost": {"subsection-map": _HERE, "vmemmap-leak": _HERE},
    # What is not there is counted all the same.
    "boot-memmap-hole": {"section-unmapped": _HERE, "memmap-counter": _COUNTER},
}
#: the same for "hugetlb"
HUGETLB: dict[str, dict[str, Callable[[Planted], int | None]]] = {
    "read-only": {"hugetlb-read-only": _HERE},
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_by_other_commands(tmp_path: Path, fault: str, kernel: str) -> None:
    image = build(load_scenario(FIXTURES / f"{fault}.toml"), kernel=image_kernel(fault, kernel))
    core = str(tmp_path / "vmcore")
    image.write(core)
    for audit, told in ((memmap.audit, MEMMAP), (hugetlb.audit, HUGETLB)):
        expected = {
            (rule, place(planted))
            for planted in image.planted
            for rule, place in told.get(planted.kind, {}).items()
            if place(planted) is not None
        }
        report = audit(Kernel.open_core(core))
        assert {(one.rule, one.vaddr) for one in report.findings} == expected


@pytest.mark.parametrize(
    ("rule", "kernel"),
    [(rule, kernel) for rule, (_, kernels, _) in LAYOUTS.items() for kernel in kernels],
)
def test_layout(audited: Audited, rule: str, kernel: str) -> None:
    scenario, _, companions = LAYOUTS[rule]
    report, _ = audited(scenario, kernel)
    assert {one.rule for _, one in report.all_findings()} == {rule, *companions}
    built = build(load_scenario(scenario), kernel=kernel).kernel
    starts = {
        built.addresses.pfn_to_page(start)
        for record in built.pagemaps
        for start, _ in record.ranges
    }
    assert {one.vaddr for _, one in report.all_findings() if one.rule == rule} == starts


def test_every_rule_has_a_fault() -> None:
    with_faults = {
        *RULES.values(),
        *MEMORY_MAP_RULES.values(),
        *LAYOUTS,
        # A tail page of "tail-wrong-frame" may be anywhere.
        "frame-not-memory",
        *(rule for rules, _ in HUGETLB_FAULTS.values() for rule, _ in rules),
    }
    assert with_faults == set(CATALOGUE)


def test_every_rule_has_a_fault_on_real_kernels() -> None:
    """Which the guest tests patch into dumps; layouts are those of test_broken_layouts."""
    with_faults = {fault.rule for fault in patched.FAULTS.values()} | set(LAYOUTS)
    hugetlb_rules = {rule for _, rules in DAMAGE.values() for rule in rules}
    assert with_faults | hugetlb_rules == set(CATALOGUE)


def test_every_fault_has_a_rule() -> None:
    assert set(KINDS) == set(RULES) | set(MEMORY_MAP_RULES) | HARMLESS
    assert not HARMLESS & (set(RULES) | set(MEMORY_MAP_RULES) | set(MEMMAP) | set(HUGETLB))
    assert set(MEMMAP) | set(HUGETLB) <= set(KINDS)


@pytest.mark.parametrize("rule", sorted({*RULES.values(), "frame-not-memory"}))
def test_rule_tells_a_fault_alone_or_with_its_companions(audited: Audited, rule: str) -> None:
    """Of what makes a rule fail, there is a fixture with one fault that no other rule tells."""
    alone = [
        fault
        for fault in FAULTS
        if fault != "several-faults"
        and {one for planted in audited_faults(audited, fault) for one in rules_of(planted)}
        == {rule, *COMPANIONS.get(rule, ())}
    ]
    assert alone


#: rules that fail together with another one in all its faults
COMPANIONS = {"range-overlap": {"xarray"}}


def audited_faults(audited: Audited, fault: str) -> list[Planted]:
    return audited(str(FIXTURES / f"{fault}.toml"), image_kernel(fault, "6.12"))[1]


def rules_of(planted: Planted) -> set[str]:
    return {rule for rule, _, _ in expected_of(planted)}
