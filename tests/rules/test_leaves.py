# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about leaves, on facts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from vmemscope.arch.x86_64 import ARCHITECTURE
from vmemscope.rules.findings import Collector, Outcome
from vmemscope.rules.leaves import ApartFacts, hole, not_deduplicated
from vmemscope.vmemmap.layout import Geometry
from vmemscope.vmemmap.runs import Runs
from vmemscope.vmemmap.tables import Kind

GEOMETRY = Geometry(ARCHITECTURE, 4096, 64, 0xFFFF_EA00_0000_0000)


def holes(count: int, kind: Kind = Kind.HOLE) -> Runs:
    """Make runs of which every second one is a hole, of two vpages."""
    start = np.arange(2 * count, dtype=np.int64)
    kinds = np.tile(np.array([kind, Kind.MAPPED], dtype=np.uint8), count)
    zeros = np.zeros(2 * count, dtype=np.uint8)
    return Runs(start * 2, np.full(2 * count, 2), start.astype(np.uint64), zeros, kinds)


@pytest.mark.parametrize("count", [1, 10, 16, 20])
def test_each_hole_counts_once(count: int) -> None:
    findings = Collector()
    findings.check(hole, holes(count), GEOMETRY)
    [outcome] = findings.outcomes([hole])
    assert (outcome.outcome, outcome.violations) == (Outcome.FAILED, count)
    found = findings.finish()
    assert len(found) == min(count, 16)
    assert [one.vaddr for one in found] == [GEOMETRY.address(4 * i) for i in range(len(found))]
    assert found[0].message == "2 pages of the vmemmap not mapped"
    assert ("more like it" in found[-1].message) == (count > 16)


def test_unreadable_is_no_hole() -> None:
    findings = Collector()
    findings.check(hole, holes(3, Kind.UNREADABLE), GEOMETRY)
    [outcome] = findings.outcomes([hole])
    assert outcome.outcome is Outcome.CHECKED
    assert outcome.reason == "page tables that could not be read"


@pytest.mark.parametrize(("compounds", "violations"), [(3, 1), (4, 3)])
def test_all_of_a_pagemap_apart_is_one_violation(compounds: int, violations: int) -> None:
    findings = Collector()
    apart = [(512, 0), (512, 1), (512, 2)]
    findings.check(not_deduplicated, ApartFacts(apart, compounds, 8, GEOMETRY))
    found = findings.finish()
    assert [one.vaddr for one in found] == [
        GEOMETRY.address(512 + 8 * i + 1) for i in range(violations)
    ]
