# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults and rules agree one to one.

Each fault of the simulator says which commands and rules must report it, and where
(:mod:`vmemscope.sim.faults`). All commands must find that, and nothing else; and every
rule must have a fault that it reports alone, or with those that are listed here. The
simulator knows nothing of the audits, and the audits nothing of the simulator. What an audit says
came of each rule agrees with what it found, whatever there is to find.
"""

from __future__ import annotations

import pytest

from vmemscope.report.documents.pgmap import PagemapReport, Report
from vmemscope.rules import RULES, rules_of
from vmemscope.rules.findings import NOT_EVALUATED, Outcome
from vmemscope.rules.rule import Scope
from vmemscope.sim import builtin_scenarios, load_scenario
from vmemscope.sim.faults import FAULTS as KINDS
from vmemscope.sim.faults import HUGETLB_FAULTS as HUGETLB_KINDS

from . import patched
from .kernels import FAULTS, FIXTURES, KERNELS, Dumps, able, image
from .test_hugetlb import FAULTS as HUGETLB_CASES

#: rules whose fault is how a device lies: the scenario, kernels that are wrong about
#: it, and what else is reported of it, since the damage is done
LAYOUTS = {
    "section-alignment": ("unaligned-section-1g", KERNELS, {"frame-shared"}),
    "mask-alignment": ("unaligned-1g", ("7.2", "next"), {"compound-head"}),
    "compound-alignment": ("unaligned-1g", ("6.1", "6.12"), set()),
}
#: the coming kernel leaves heads in the frame that all devices share, which is checked apart
COMING = {
    *("frame-shared", "section-alignment", "mask-alignment", "compound-head", "stray-head"),
    *("page-refcount", "tail-contents"),
}
#: rules that no kernel has yet that could be booted
UNBOOTED = {"hugetlb-half", "ram-order", "section-order", "shared-references", "shared-tail"}
#: rules that a command reports with another one in all their faults
COMPANIONS = {
    ("pgmap", "range-overlap"): {"xarray"},
    ("memmap", "subsection-map"): {"vmemmap-leak"},
}


@pytest.mark.parametrize(
    ("fault", "kernel"), [(fault, kernel) for fault in FAULTS for kernel in able(fault)]
)
def test_fault(dumps: Dumps, fault: str, kernel: str) -> None:
    done = dumps.audited(fault, kernel)
    assert done.found() == done.expected()
    # Of the rules that are registered, and no others.
    for planted in done.planted:
        found = {(one.command, one.rule) for one in planted.findings}
        assert found <= set(KINDS[planted.kind].rules)
        assert bool(found) == bool(KINDS[planted.kind].rules)


def scheme_of(kernel: str) -> str:
    """Return how the devices of a kernel share tail pages."""
    return "device-zone" if kernel == "next" else "device-pairs"


def check(owner: PagemapReport | Report, scope: Scope, kernel: str) -> None:
    """Assert that every rule of a scope has an outcome that agrees with the findings."""
    told = {one.rule: one for one in owner.outcomes}
    assert len(told) == len(owner.outcomes)
    assert list(told) == [rule.id for rule in rules_of(scope, "x86_64", scheme_of(kernel))]
    broken = {finding.rule for finding in owner.findings}
    for one in told.values():
        assert one.reason != NOT_EVALUATED, one
        assert (one.outcome is Outcome.FAILED) == (one.rule in broken), one
        assert (one.violations > 0) == (one.outcome is Outcome.FAILED), one
        assert one.outcome is not Outcome.SKIPPED or one.reason, one


@pytest.mark.parametrize(
    ("scenario", "kernel"),
    [
        (scenario, kernel)
        for scenario in (*builtin_scenarios(), *FAULTS)
        for kernel in able(scenario)
    ],
)
def test_every_rule_has_an_outcome(dumps: Dumps, scenario: str, kernel: str) -> None:
    """Here, as the dumps and the reports on them are those of the faults."""
    report = dumps.audited(scenario, kernel).pgmap
    check(report, Scope.TARGET, kernel)
    for one in report.pagemaps:
        check(one, Scope.PAGEMAP, kernel)
    counted = report.outcome_counts()
    rules = len(rules_of(Scope.TARGET, "x86_64")) + len(report.pagemaps) * len(
        rules_of(Scope.PAGEMAP, "x86_64", scheme_of(kernel))
    )
    assert sum(counted.values()) == rules


@pytest.mark.parametrize(
    ("rule", "kernel"),
    [(rule, kernel) for rule, (_, kernels, _) in LAYOUTS.items() for kernel in kernels],
)
def test_layout(dumps: Dumps, rule: str, kernel: str) -> None:
    scenario, _, companions = LAYOUTS[rule]
    found = [one for _, one in dumps.audited(scenario, kernel).pgmap.all_findings()]
    assert {one.rule for one in found} == {rule, *companions}
    built = image(scenario, kernel).kernel
    starts = {
        built.addresses.pfn_to_page(start)
        for record in built.pagemaps
        for start, _ in record.ranges
    }
    assert {one.vaddr for one in found if one.rule == rule} == starts


def test_heads_in_the_frame_that_devices_share(dumps: Dumps) -> None:
    found = [one for _, one in dumps.audited("unaligned-section-1g", "next").pgmap.all_findings()]
    assert {one.rule for one in found} == COMING


def test_every_kind_of_fault_has_a_fixture() -> None:
    planted = {
        fault.kind for name in FAULTS for fault in load_scenario(FIXTURES / f"{name}.toml").faults
    }
    assert planted == set(KINDS)
    assert {kind for kind, _ in HUGETLB_CASES} == set(HUGETLB_KINDS)


#: rules of the architectures that are simulated
HERE = {name for name, rule in RULES.items() if not rule.archs or "x86_64" in rule.archs}


def test_every_rule_has_a_fault() -> None:
    kinds = [*KINDS.values(), *HUGETLB_KINDS.values()]
    assert {rule for kind in kinds for _, rule in kind.rules} | set(LAYOUTS) == set(HERE)


def test_every_rule_has_a_fault_on_real_kernels() -> None:
    """Which the guest tests patch into dumps; layouts are those of test_broken_layouts."""
    faults = [*patched.FAULTS.values(), *patched.HUGETLB_FAULTS.values()]
    assert {fault.rule for fault in faults} | set(LAYOUTS) == HERE - UNBOOTED


def test_every_rule_is_broken_alone_or_with_its_companions(dumps: Dumps) -> None:
    """There is a fixture with faults that no other rule of the command reports."""
    expected = [dumps.audited(fault, able(fault)[-1]).expected() for fault in FAULTS]
    lonely = [
        (command, rule)
        for command, rule in sorted({pair for kind in KINDS.values() for pair in kind.rules})
        if {rule, *COMPANIONS.get((command, rule), ())}
        not in [{one.rule for one in found if one.command == command} for found in expected]
    ]
    assert lonely == []
