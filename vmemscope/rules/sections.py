# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about sections: which page frames are valid, and which vmemmap is mapped.

Most compare sets of page frames or vpages (:mod:`~vmemscope.spans`). Unreadable parts
are in none of the sets that a rule needs, so they violate none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..spans import subtract
from ..text import binary_size, count
from .rule import Scope, Severity, Skip, Violation, Violations, rule

if TYPE_CHECKING:
    from ..kernel.mem_section import Sections
    from ..spans import Spans
    from ..vmemmap.layout import Geometry

__all__ = (
    "THOUGH_VALID",
    "UNREAD_SECTIONS",
    "CounterFacts",
    "LateFacts",
    "LeakFacts",
    "RequiredFacts",
    "ValidFacts",
    "memmap_counter",
    "section_map",
    "section_stale",
    "section_unmapped",
    "section_usage",
    "subsection_map",
    "vmemmap_leak",
)

#: what section-unmapped says of a hole besides what the rule hole says
THOUGH_VALID = " though the section is valid: reading the struct pages there crashes the kernel"
#: why rules about missing sections are not evaluated
UNREAD_SECTIONS = "part of the section table could not be read"


def _each(
    spans: Spans,
    sentence: Callable[[int, int], str],
    vaddr: Callable[[int], int],
    *,
    pfn: Callable[[int], int | None] | None = None,
    expected: str,
    observed: str,
) -> Violations:
    """
    Return a violation of each span.

    :param sentence: takes the first number of a span, and how many there are
    :param vaddr, pfn: take the first number of a span
    """
    start, length = spans.start, spans.end - spans.start
    return Violations(
        np.arange(len(start)),
        lambda row: sentence(int(start[row]), int(length[row])),
        vaddr=lambda row: vaddr(int(start[row])),
        pfn=None if pfn is None else lambda row: pfn(int(start[row])),
        expected=expected,
        observed=observed,
    )


class ValidFacts(NamedTuple):
    """Valid page frames, and those of pagemaps."""

    #: page frames of pagemaps
    ranges: Spans
    #: page frames of valid subsections
    valid: Spans
    #: page frames of sections without a readable ``usage``
    unknown: Spans
    geometry: Geometry


@rule(
    "subsection-map",
    Severity.ERROR,
    holds="all page frames of a pagemap are in valid subsections of present sections",
    source="mm/sparse.c: fill_subsection_map()",
    since="5.3",
    scope=Scope.PAGEMAP | Scope.MEMORY_MAP,
    meaning="pfn_valid() is false for memory that a driver holds: pfn_to_online_page(), memory"
    " failure handling, hotplug and page walkers skip it, and a later add of the same"
    " subsections would populate its memory map a second time and leak the first.",
    look_at="Which subsections are missing (struct mem_section: usage->subsection_map, a bit"
    " for each 2 MiB): those of a neighbour that was removed point to section_deactivate()"
    " having cleared too much.",
)
def subsection_map(facts: ValidFacts) -> Iterator[Violations | Skip]:
    known = subtract(facts.ranges, facts.unknown)
    if known.total < facts.ranges.total:
        yield Skip(
            "sections whose usage could not be read, or is not there", partly=known.total > 0
        )
    yield _each(
        subtract(known, facts.valid),
        lambda start, length: (
            f"{_memory(length, facts.geometry)} of the pagemap, from pfn {start:#x}, is not valid:"
            " pfn_valid() denies its struct pages"
        ),
        facts.geometry.page_address,
        expected="valid subsections",
        observed="not in subsection_map",
    )


def _memory(frames: int, geometry: Geometry) -> str:
    return binary_size(frames * geometry.page_size)


class LateFacts(NamedTuple):
    """Page frames that became valid after boot."""

    #: those of valid subsections in sections that were not there at boot
    late: Spans
    #: those of pagemaps and of System RAM
    owned: Spans
    geometry: Geometry


@rule(
    "section-stale",
    Severity.ERROR,
    holds="what became valid after boot is System RAM or in a pagemap",
    source="mm/sparse.c: section_deactivate(), clear_subsection_map()",
    since="5.3",
    scope=Scope.MEMORY_MAP,
    meaning="Subsections are valid that belong to no pagemap and no System RAM: a driver was"
    " removed, and arch_remove_memory() did not finish. pfn_valid() lets page walkers at struct"
    " pages that describe nothing, and the memory for them is lost until the next boot.",
    look_at="The kernel's log for a warning of section_deactivate() or __remove_pages();"
    " whether a device is being removed at this moment; which driver last had the range"
    " (/proc/iomem of an earlier boot).",
)
def section_stale(facts: LateFacts) -> Violations:
    return _each(
        subtract(facts.late, facts.owned),
        lambda start, length: (
            f"{_memory(length, facts.geometry)} from pfn {start:#x} is valid, but neither System"
            " RAM nor in a pagemap"
        ),
        facts.geometry.page_address,
        expected="not valid",
        observed="in subsection_map",
    )


@rule(
    "section-map",
    Severity.ERROR,
    holds="all present sections have their memory map in the one vmemmap",
    source="mm/sparse.c: sparse_encode_mem_map(), SPARSEMEM_VMEMMAP",
    scope=Scope.MEMORY_MAP,
    meaning="With SPARSEMEM_VMEMMAP, section_mem_map less its flags is the same for all"
    " sections, the start of the vmemmap. A section that differs was overwritten, or vmemscope"
    " misunderstands this kernel's flag bits. Code that uses it (kdump tools, for example)"
    " finds the section's struct pages in the wrong place.",
    look_at="The struct mem_section and its neighbours in the same root: one wrong word is"
    " damage, a whole wrong root points to the root's pointer.",
)
def section_map(sections: Sections, geometry: Geometry) -> Violations:
    return Violations(
        sections.has_map & (sections.bases != np.uint64(sections.vmemmap)),
        lambda row: f"section {sections.number[row]} has its memory map elsewhere than the rest",
        vaddr=lambda row: geometry.page_address(int(sections.number[row]) * sections.pages),
        expected=f"{sections.vmemmap:#x}",
        observed=lambda row: f"{int(sections.bases[row]):#x}",
    )


@rule(
    "section-usage",
    Severity.ERROR,
    holds="a section with a memory map says which of its subsections are valid",
    source="mm/sparse.c: section_deactivate()",
    since="5.3",
    scope=Scope.MEMORY_MAP,
    meaning="A section has SECTION_HAS_MEM_MAP but no usage: pfn_valid() for a page in it"
    " follows a null pointer. Up to 6.7, and in stable trees before 6.6.15 and 6.1.76,"
    " section_deactivate() could leave it so for a moment (CVE-2023-52489); anything that"
    " lasts is damage.",
    look_at="Whether the kernel has the fix (mm/sparsemem: fix race in accessing"
    " memory_section->usage), and whether memory was being removed.",
)
def section_usage(sections: Sections, geometry: Geometry) -> Violations:
    return Violations(
        sections.has_map & (sections.usage == 0),
        lambda row: f"section {sections.number[row]} has a memory map, but no usage",
        vaddr=lambda row: geometry.page_address(int(sections.number[row]) * sections.pages),
        expected="a struct mem_section_usage",
        observed="null",
    )


class RequiredFacts(NamedTuple):
    """The memory map of present sections; all are vpages."""

    #: those that describe valid subsections, and sections that were there at boot
    required: Spans
    #: those that are mapped
    mapped: Spans
    #: those whose page tables could not be read
    unread: Spans
    geometry: Geometry


@rule(
    "section-unmapped",
    Severity.ERROR,
    holds="the memory map of valid subsections, and of whole sections that were there at boot,"
    " is mapped",
    source="mm/sparse.c: sparse_init_nid(), section_activate()",
    scope=Scope.MEMORY_MAP,
    meaning="pfn_valid() says that these struct pages are there, and they are not: the first"
    " page walker to touch one (compaction, memory failure, /proc/kpageflags) takes a fault in"
    " kernel mode.",
    look_at="Whether the part that is not mapped is a whole leaf (vmemmap freed with its"
    " neighbour, see the arm64 fix in 6.14 for sections not aligned) or single pages (failed"
    " population, not rolled back).",
)
def section_unmapped(facts: RequiredFacts) -> Iterator[Violations | Skip]:
    if facts.unread.total:
        yield Skip("page tables that could not be read", partly=True)
    yield _each(
        subtract(subtract(facts.required, facts.mapped), facts.unread),
        lambda _, length: f"{count(length, 'page')} of the vmemmap not mapped{THOUGH_VALID}",
        facts.geometry.address,
        expected="mapped",
        observed="not mapped",
    )


class LeakFacts(NamedTuple):
    """Vmemmap that describes nothing."""

    #: vpages that are mapped, and that no present section needs; those of large leaves
    #: left out that describe something somewhere
    leaked: Spans
    #: gives the frame behind a vpage
    frame_at: Callable[[int], int | None]
    geometry: Geometry


@rule(
    "vmemmap-leak",
    Severity.ERROR,
    holds="nothing of the vmemmap is mapped where no section is present",
    source="mm/sparse.c: section_deactivate(), depopulate_section_memmap()",
    scope=Scope.MEMORY_MAP,
    meaning="Vmemmap that describes nothing: the section or pagemap it was made for was"
    " removed and its memory map was not. The memory is lost until the next boot. loongarch never"
    " frees it; elsewhere it is a teardown that went wrong.",
    look_at="The size: whole leaves point to section_deactivate() not reached, single pages to"
    " an error path of vmemmap_populate_compound_pages(); the kernel's log around the last"
    " device removal.",
)
def vmemmap_leak(facts: LeakFacts) -> Violations:
    return _each(
        facts.leaked,
        lambda _, length: (
            f"{count(length, 'page')} of the vmemmap mapped where no section is valid: the memory"
            " is never freed"
        ),
        facts.geometry.address,
        pfn=facts.frame_at,
        expected="not mapped",
        observed="mapped",
    )


class CounterFacts(NamedTuple):
    """A counter of the kernel, and its expected value, in pages."""

    name: str
    #: ``None`` if the kernel lacks it, or it could not be read
    value: int | None
    #: ``None`` if not all that it counts is known
    expected: int | None
    #: its value in kernels that count as if no frame were shared
    unshared: int | None
    #: virtual address of the counter
    address: int | None
    #: whether it could not be read
    unreadable: bool

    @property
    def reason(self) -> str:
        """Return why it has its value, or why that is not compared, as a clause."""
        if self.value is None:
            if self.unreadable:
                return "it could not be read"
            return "this kernel has no such counter (before 6.11)"
        if self.expected is None:
            return "not compared, since not all of what it counts could be read"
        more = self.value - self.expected
        if not more:
            return "agrees with the memory map, counted as the kernel counts"
        if self.value == self.unshared:
            return (
                f"{more} too many: this kernel counts the memory map of devices as if nothing of"
                " it were shared (fixed in 6.12.101 and 7.2)"
            )
        return f"{abs(more)} {'more' if more > 0 else 'fewer'} than can be explained"


@rule(
    "memmap-counter",
    Severity.WARNING,
    holds="nr_memmap_pages and nr_memmap_boot_pages are what the kernel's own arithmetic makes of"
    " the memory map that is there",
    source="mm/sparse-vmemmap.c: section_nr_vmemmap_pages(); mm/vmstat.c",
    since="6.11",
    scope=Scope.MEMORY_MAP,
    meaning="/proc/vmstat reports another amount of memory map than there is. Nothing breaks, but"
    " monitoring is misled. Before 6.12.101 and 7.2, pages that deduplication"
    " saves are counted as if they were there, and an add that fails is subtracted without"
    " having been added.",
    look_at="The difference in pages: exactly what deduplication saves is the known accounting"
    " of older kernels; a negative counter is an error path.",
)
def memmap_counter(facts: CounterFacts) -> Iterator[Violation | Skip]:
    if facts.value is None or facts.expected is None:
        yield Skip(f"{facts.name}: {facts.reason}")
    elif facts.value not in (facts.expected, facts.unshared):
        yield Violation(
            f"{facts.name} is {facts.reason}",
            vaddr=facts.address,
            expected=facts.expected,
            observed=facts.value,
        )
