# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each way to share tail pages, evaluated by the same few functions, against counted frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vmemscope.rules import RULES
from vmemscope.vmemmap.layout import Piece, Populated, expected_frames
from vmemscope.vmemmap.schemes import (
    DEVICE_PAIRS,
    DEVICE_ZONE,
    HUGETLB_HEAD,
    HUGETLB_SECOND,
    HUGETLB_SECTION,
    HUGETLB_ZONE,
    SCHEMES,
    Scheme,
    hugetlb_scheme,
)

DOCS = Path(__file__).parent.parent / "docs"


def test_the_manual_has_all_ways() -> None:
    text = (DOCS / "generations.md").read_text(encoding="utf-8")
    assert [one.id for one in SCHEMES if f"`{one.id}`" not in text] == []
    assert len({one.id for one in SCHEMES}) == len(SCHEMES) == 7


def test_rules_name_ways_that_there_are() -> None:
    named = {scheme for rule in RULES.values() for scheme in rule.schemes}
    assert named == {"device-zone", "hugetlb-section"}
    assert named <= {one.id for one in SCHEMES}


@pytest.mark.parametrize(
    ("scheme", "whole", "cut", "continued"),
    [
        # Frames of a whole compound page of 8 vpages, of one cut after its first vpage, and of
        # the rest of one whose head lies elsewhere: counted on real kernels.
        (DEVICE_PAIRS, 2, 1, 1),
        (DEVICE_ZONE, 1, 1, 0),
        (HUGETLB_SECOND, 2, 1, 0),
        (HUGETLB_HEAD, 1, 1, 0),
        (HUGETLB_ZONE, 1, 1, 0),
    ],
)
def test_frames(scheme: Scheme, whole: int, cut: int, continued: int) -> None:
    def frames(start: int, end: int) -> int:
        return expected_frames([Piece(Populated.COMPOUND, start, end, 0, 0)], 8, scheme)

    assert frames(0, 8) == whole
    assert frames(0, 17) == 2 * whole + cut
    assert frames(4, 8) == continued
    assert frames(4, 24) == continued + 2 * whole
    base = Piece(Populated.BASE, 0, 8, 0, 0)
    assert expected_frames([base], 8, scheme) == 8


@pytest.mark.parametrize(
    ("scheme", "entries", "references"),
    [(DEVICE_PAIRS, 7, 7), (DEVICE_ZONE, 5376, 5377), (DEVICE_ZONE, 0, 1), (HUGETLB_ZONE, 56, 1)],
)
def test_references(scheme: Scheme, entries: int, references: int) -> None:
    assert scheme.references_of(np.array([entries])).tolist() == [references]


def test_what_stays_when_nobody_maps_it() -> None:
    assert [one.id for one in SCHEMES if one.outlives] == [
        "device-zone", "hugetlb-zone", "hugetlb-section",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "shared", "by_section", "scheme"),
    [
        (2, False, False, HUGETLB_SECOND),
        (1, False, False, HUGETLB_HEAD),
        (1, True, False, HUGETLB_ZONE),
        (1, True, True, HUGETLB_SECTION),
    ],
)
def test_hugetlb(kept: int, shared: bool, by_section: bool, scheme: Scheme) -> None:
    assert hugetlb_scheme(kept, shared, by_section) is scheme
