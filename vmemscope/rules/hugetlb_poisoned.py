# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rule about frames of optimized folios' vmemmap whose memory failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..vmemmap.tables import Kind
from .rule import Scope, Severity, Skip, Violation, Violations, rule

if TYPE_CHECKING:
    from .hugetlb_folios import HeadFrameFacts
    from .hugetlb_vmemmap import SharedPage

__all__ = ("PoisonedFacts", "hugetlb_poisoned")


class PoisonedFacts(NamedTuple):
    """The frames that optimized folios keep."""

    heads: HeadFrameFacts
    #: frames that the tail pages of zones share
    shared: Sequence[SharedPage]


@rule(
    "hugetlb-poisoned",
    Severity.ERROR,
    holds="neither the frame of an optimized folio's head page nor one of shared tail pages is"
    " poisoned",
    source="mm/memory-failure.c: memory_failure()",
    since="5.14",
    scope=Scope.HUGETLB,
    meaning="The memory behind these struct pages had an uncorrectable error (PG_hwpoison)."
    " Reading struct pages in it may raise a machine check, in the kernel, for which there is no"
    " recovery. A frame of shared tail pages is that of all optimized folios of its size in the"
    " zone.",
    look_at="The kernel log for 'Memory failure' and the frame's number: memory_failure() can't"
    " handle a frame of the vmemmap. To free the folio reads the frame: move the work away, and"
    " start the machine again. HardwareCorrupted in /proc/meminfo counts these frames.",
)
def hugetlb_poisoned(facts: PoisonedFacts) -> Iterator[Violation | Violations | Skip]:
    heads, folios, maps = facts.heads, facts.heads.folios, facts.heads.folios.maps
    mapped = (maps.read_only > 0) & (maps.head_kind == Kind.MAPPED)
    shared = [one for one in facts.shared if one.pfn is not None]
    if not (mapped.any() or shared):
        yield folios.none_optimized
        return
    yield heads.violations(
        mapped & heads.in_ram & heads.readable & heads.poisoned,
        lambda i: f"the frame of the head page of {folios.label(i)} is poisoned",
        "not poisoned",
    )
    for one in shared:
        if one.poisoned:
            yield Violation(
                f"the frame of the shared tail pages for {one.name} is poisoned",
                vaddr=one.tail.page,
                pfn=one.pfn,
                expected="not poisoned",
                observed=f"pfn {one.pfn:#x}",
            )
