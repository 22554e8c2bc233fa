# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules about a pagemap itself: its ranges, the size of its compound pages, references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..vmemmap.pagemaps import range_problem, shift_fits
from .rule import Severity, Skip, Violation, rule

if TYPE_CHECKING:
    from ..kernel.dev_pagemap import Pagemap, PhysicalRange
    from ..kernel.percpu_ref import RefCount

__all__ = (
    "NO_RANGE",
    "Overlap",
    "ReferenceFacts",
    "nr_range",
    "overlaps_of",
    "pagemap_ref_high",
    "pagemap_ref_low",
    "range_invalid",
    "range_overlap",
    "vmemmap_shift",
)

#: why rules are not evaluated for a pagemap
NO_RANGE = "it has no valid range"


def _unreadable(pagemap: Pagemap) -> str | None:
    """Return why a pagemap could not be read in full, ``None`` if it could."""
    return next((one.message for one in pagemap.damage if one.unreadable), None)


@rule(
    "range-invalid",
    Severity.ERROR,
    holds="a pagemap's ranges are whole subsections of physical address space",
    source="mm/memory_hotplug.c: check_pfn_span()",
    since="5.3",
    meaning="check_pfn_span() refuses to add memory that does not start and end on a subsection"
    " boundary, so no running kernel has such a pagemap: the struct dev_pagemap was overwritten"
    " or freed, or the entry of pgmap_array that led here is stale. vmemscope does not audit"
    " the range, since its part of the vmemmap and its frames can't be trusted either.",
    look_at="The bytes around the address: a freed slab object has the poison or the free"
    " pointer of its cache. Compare the ranges with /proc/iomem and with the driver's own"
    " (struct dev_dax: ranges; struct nd_namespace_io: res).",
)
def range_invalid(pagemap: Pagemap, physmem_bits: int) -> Iterator[Violation | Skip]:
    if not pagemap.ranges:
        yield Skip(_unreadable(pagemap) or "it has no ranges")
    for index, one in enumerate(pagemap.ranges):
        problem = range_problem(one, physmem_bits)
        if problem is not None:
            yield Violation(
                f"range {index} {problem}; the range is not audited",
                vaddr=pagemap.address,
                expected="whole subsections of 2 MiB",
                observed=f"{one.start:#x}-{one.end:#x}",
            )


class Overlap(NamedTuple):
    """A range that starts before one that starts earlier has ended."""

    later: PhysicalRange
    earlier: PhysicalRange
    #: virtual address of the pagemap that ``earlier`` is of
    owner: int


def overlaps_of(ranges: Iterable[tuple[PhysicalRange, Pagemap]]) -> dict[int, list[Overlap]]:
    """
    Return the overlaps of the ranges of all pagemaps.

    :param ranges: valid ones, each with its pagemap
    :return: virtual address of the pagemap that the later range is of -> overlaps
    """
    found: dict[int, list[Overlap]] = {}
    furthest: tuple[PhysicalRange, Pagemap] | None = None
    for one, pagemap in sorted(ranges, key=lambda r: (r[0].start, r[0].end)):
        if furthest is not None and one.start <= furthest[0].end:
            found.setdefault(pagemap.address, []).append(
                Overlap(one, furthest[0], furthest[1].address)
            )
        if furthest is None or one.end > furthest[0].end:
            furthest = (one, pagemap)
    return found


@rule(
    "range-overlap",
    Severity.ERROR,
    holds="no two ranges of pagemaps overlap",
    source="mm/memremap.c: pagemap_range()",
    meaning="Two drivers own the same page frames. Their struct pages are the same memory,"
    " initialised by one and then by the other; the first to be removed frees the memory map"
    " under the other. memremap_pages() refuses a range that intersects a pagemap or System"
    " RAM, so one of the two structures was changed later, or is stale.",
    look_at="Which of the two agrees with pgmap_array (rule xarray) and with /proc/iomem: the"
    " other is wrong.",
)
def range_overlap(
    pagemap: Pagemap, ranges: Sequence[PhysicalRange], overlaps: Iterable[Overlap]
) -> Iterator[Violation | Skip]:
    if not ranges:
        yield Skip(NO_RANGE)
    for later, earlier, owner in overlaps:
        yield Violation(
            f"range {later.start:#x}-{later.end:#x} overlaps {earlier.start:#x}-"
            f"{earlier.end:#x} of the pagemap at {owner:#x}",
            vaddr=pagemap.address,
            expected=f"start after {earlier.end:#x}",
            observed=f"{later.start:#x}",
        )


@rule(
    "nr-range",
    Severity.ERROR,
    holds="the number of ranges is one that a driver can make",
    source="mm/memremap.c: memremap_pages()",
    since="5.10",
    meaning="memremap_pages() counts nr_range up while it brings ranges online; no driver"
    " makes thousands. A wild number means that the struct dev_pagemap was overwritten, or"
    " that this is none. A walk over its ranges, as in memunmap_pages(), runs past its"
    " end.",
    look_at="The structure as a whole (drgn: Object(prog, 'struct dev_pagemap', address=...)):"
    " if type, ops and owner make sense, one field is damaged; if not, the address"
    " is wrong.",
)
def nr_range(pagemap: Pagemap, most: int) -> Iterator[Violation | Skip]:
    reason = _unreadable(pagemap)
    if reason is not None:
        yield Skip(reason)
    elif not 0 < pagemap.nr_range <= most:
        yield Violation(
            f"the pagemap has {pagemap.nr_range} ranges; only the first is audited",
            vaddr=pagemap.address,
            expected=f"1 to {most}",
            observed=pagemap.nr_range,
        )


@rule(
    "vmemmap-shift",
    Severity.ERROR,
    holds="a compound page is no larger than its pagemap",
    source="mm/memremap.c: memremap_pages()",
    since="5.17",
    meaning="vmemmap_shift says how large compound pages are, and so how the vmemmap of the"
    " pagemap was populated. Too large, it is not the value that memremap_pages() used: the"
    " field has changed since. On teardown the kernel computes references and section"
    " populations from it, and gets both wrong.",
    look_at="The alignment of the device that the pagemap is of (/sys/bus/dax/devices/*/align):"
    " vmemmap_shift is log2 of it in pages. What the page tables say of compound pages is in"
    " the vmemmap, which is still walked for holes.",
)
def vmemmap_shift(
    pagemap: Pagemap, ranges: Sequence[PhysicalRange], page_size: int
) -> Iterator[Violation | Skip]:
    shift = pagemap.vmemmap_shift
    if shift is None:
        older = "pagemaps of this kernel have no vmemmap_shift (before 5.17)"
        yield Skip(_unreadable(pagemap) or older)
    elif 0 < shift < 64 and not ranges:
        yield Skip(NO_RANGE)
    elif not shift_fits(shift, ranges, page_size):
        yield Violation(
            "the pagemap's compound pages are larger than its ranges",
            vaddr=pagemap.address,
            expected="a compound page no larger than the largest range",
            observed=shift,
        )


# Types whose pages are free until their driver hands them out, each with a reference
# of its own: 27674ef6c73f ("mm: remove the extra ZONE_DEVICE struct page refcount")
# (in v5.18). Before, all pages had one from the start.
_HANDED_OUT = ("private", "coherent")
# drivers/pci/p2pdma.c: pci_alloc_p2pmem() takes one for each allocation on top.
_WITH_USERS = ("p2pdma",)


class ReferenceFacts(NamedTuple):
    """The references on a pagemap, and those that its pages account for."""

    pagemap: Pagemap
    #: the valid ranges
    ranges: Sequence[PhysicalRange]
    #: log2 of the pages in a compound page, ``None`` where ``vmemmap_shift`` makes no sense
    order: int | None
    references: RefCount
    #: bytes
    page_size: int

    @property
    def observed(self) -> int:
        """Return the references, 0 where they are not known."""
        return self.references.count or 0

    @property
    def expected(self) -> int:
        """Return the references that ``pagemap_range()`` takes: ``pfn_len()`` of each range."""
        altmap = self.pagemap.altmap
        count = 0
        for number, one in enumerate(self.ranges):
            pages = one.size // self.page_size
            # Only a pagemap of one range can have an altmap.
            if altmap is not None and not number:
                pages -= altmap.reserve + altmap.free
            count += max(pages, 0) >> (self.order or 0)
        return count

    @property
    def reason(self) -> str | None:
        """Return why the two can't be compared, ``None`` if they can."""
        if self.pagemap.changing:
            return "it is being set up or torn down"
        if self.pagemap.type == "unknown":
            return "what its pages are references to depends on its type, which is unknown"
        if self.pagemap.type in _HANDED_OUT:
            return f"pages of type {self.pagemap.type} have references while they are in use only"
        if self.order is None:
            return "its vmemmap_shift makes no sense"
        if len(self.ranges) != self.pagemap.nr_range:
            return "not all of its ranges are valid"
        if self.references.count is None:
            return self.references.reason or "its reference count could not be read"
        return None

    def violation(self, how_many: str) -> Violation:
        """Return the violation of a wrong count."""
        return Violation(
            f"the pagemap has {self.observed} references, {how_many}",
            vaddr=self.pagemap.address,
            expected=self.expected,
            observed=self.observed,
        )


@rule(
    "pagemap-ref-low",
    Severity.ERROR,
    holds="a pagemap has a reference for each of its compound pages, or base pages",
    source="mm/memremap.c: pagemap_range(), percpu_ref_get_many()",
    since="5.10",
    meaning="memremap_pages() takes a reference on the pagemap (struct dev_pagemap: ref) for"
    " each page that its driver may hand out, and memunmap_pages() drops them all. With fewer"
    " than that, code dropped one that it did not hold: when the device is removed, the count"
    " falls through zero, percpu_ref warns ('percpu ref ... <= 0'), and the pagemap is freed"
    " while its pages are in use.",
    look_at="By how much it is too low: one points to a put_dev_pagemap() too many (an error"
    " path of get_user_pages(), memory failure handling), the pages of a range to a"
    " memunmap_pages() that ran for half of the pagemap, and a wild number to per-CPU memory"
    " that was overwritten.",
)
def pagemap_ref_low(facts: ReferenceFacts) -> Iterator[Violation | Skip]:
    if facts.reason is not None:
        yield Skip(facts.reason)
    elif facts.observed < facts.expected:
        yield facts.violation(
            f"fewer than the {facts.expected} of its pages: it is freed while they are in use"
        )


@rule(
    "pagemap-ref-high",
    Severity.WARNING,
    holds="a pagemap has no more references than compound pages, or base pages, or it is never"
    " freed",
    source="mm/memremap.c: get_dev_pagemap(), memunmap_pages()",
    since="5.10",
    meaning="A reference on the pagemap is held that no page accounts for. Removing the"
    " device waits for it in memunmap_pages(), in the state D, until it is dropped. A page"
    " lookup (get_user_pages(), memory failure handling) takes one for a moment, so one too"
    " many may be no fault.",
    look_at="Whether it is still so a moment later; whether a task is in get_user_pages() or"
    " memory_failure() (their stacks); which error path lacks a put_dev_pagemap().",
)
def pagemap_ref_high(facts: ReferenceFacts) -> Iterator[Violation | Skip]:
    if facts.reason is not None:
        yield Skip(facts.reason)
    elif facts.pagemap.type in _WITH_USERS:
        yield Skip("users of its pages hold references as well")
    elif facts.observed > facts.expected:
        yield facts.violation(
            f"{facts.observed - facts.expected} more than its pages account for: removing the"
            " device waits for them"
        )
