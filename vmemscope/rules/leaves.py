# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about the leaves that map a pagemap's vmemmap: holes, sizes, permissions, and the
frames that tail pages share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..text import binary_size, count
from ..vmemmap.layout import RAM, Populated
from ..vmemmap.tables import Kind
from .rule import Severity, Skip, Violations, rule
from .words import agree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..arch import PageTable
    from ..vmemmap.layout import Geometry, Piece
    from ..vmemmap.runs import Judged, Runs
    from ..vmemmap.shared_tails import SharedTail
    from ..vmemmap.tables import Leaves

__all__ = (
    "COMPOUND_RULES",
    "LEAF_RULES",
    "NO_COMPOUNDS",
    "NO_FALLBACK",
    "NO_TAIL",
    "WITH_NEIGHBOUR",
    "ApartFacts",
    "LeafFacts",
    "TailFacts",
    "executable",
    "hole",
    "leaf_fallback",
    "leaf_size",
    "not_deduplicated",
    "read_only",
    "tail_frame",
)

_EARLY = "parts in sections that were there at boot, whose memory map is RAM's"
_UNKNOWN = "it is not known what the kernel should have built"
WITH_NEIGHBOUR = "pages that describe a neighbour's memory, too, and count with that"
# Why rules are not evaluated for a piece, by how it is populated.
_NO_SIZE = {
    Populated.LEAF: "whole sections without deduplication may have leaves of any size",
    Populated.EARLY: _EARLY,
    Populated.NEIGHBOUR: WITH_NEIGHBOUR,
    Populated.UNKNOWN: _UNKNOWN,
}
NO_FALLBACK = {
    Populated.COMPOUND: "deduplicated parts have base pages",
    Populated.BASE: "parts of sections have base pages",
    Populated.EARLY: _EARLY,
    Populated.NEIGHBOUR: WITH_NEIGHBOUR,
    Populated.UNKNOWN: _UNKNOWN,
}
NO_COMPOUNDS = {
    Populated.EARLY: _EARLY,
    Populated.NEIGHBOUR: WITH_NEIGHBOUR,
    Populated.UNKNOWN: _UNKNOWN,
}
#: why no compound page of a batch is checked
NO_TAIL = "no tail page is mapped where it could be read"


@rule(
    "hole",
    Severity.ERROR,
    holds="all of the vmemmap that describes a pagemap is mapped",
    source="mm/sparse-vmemmap.c: __populate_section_memmap()",
    meaning="Some struct pages of the device are not there. The first access (initialisation, a"
    " fault on the device, page walkers) is an oops in kernel mode. On a device that is coming"
    " or going this is a moment's state; on one that is in use, population was not finished, or"
    " a neighbour's memory map was freed with it.",
    look_at="The length: one page is a lost page table entry, 512 a page table or a large"
    " leaf. Whether the neighbours' struct pages are initialised, and whether another device"
    " in the same section was removed (section_deactivate() frees by subsection).",
)
def hole(runs: Runs, geometry: Geometry) -> Iterator[Violations | Skip]:
    unreadable = runs.kind == Kind.UNREADABLE
    if unreadable.any():
        yield Skip("page tables that could not be read", partly=not unreadable.all())
    yield Violations(
        runs.kind == Kind.HOLE,
        lambda row: f"{count(int(runs.length[row]), 'page')} of the vmemmap not mapped",
        vaddr=lambda row: geometry.address(int(runs.vpage[row])),
        expected="mapped",
        observed="not mapped",
    )


class LeafFacts(NamedTuple):
    """A batch of leaves of one piece of the vmemmap."""

    leaves: Leaves
    piece: Piece
    table: PageTable
    geometry: Geometry
    #: base pages in a section
    section: int
    #: the frame of tail pages that the piece's share with other devices', ``None`` if none
    shared: SharedTail | None
    #: which are mapped (bool), shape ``(n,)``
    mapped: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        leaves: Leaves,
        piece: Piece,
        table: PageTable,
        geometry: Geometry,
        section: int,
        shared: SharedTail | None,
    ) -> LeafFacts:
        """Return the facts with the mask of mapped leaves."""
        return cls(leaves, piece, table, geometry, section, shared, leaves.kind == Kind.MAPPED)

    @property
    def own(self) -> NDArray[np.bool_]:
        """Return the mask of leaves whose size no other section decides (bool), ``(n,)``."""
        vpages = self.geometry.vpages_at(self.leaves.address)
        return ~self.geometry.in_shared_leaf(vpages, self.piece, self.section)

    @property
    def large(self) -> NDArray[np.bool_]:
        """Return the mask of mapped leaves larger than base pages (bool), shape ``(n,)``."""
        found: NDArray[np.bool_] = self.mapped & (self.leaves.shift > self.table.levels[-1].shift)
        return found

    def skip(self, reasons: Mapping[Populated, str]) -> str | None:
        """
        Return why a rule is not evaluated, ``None`` if it is.

        :param reasons: by how the piece is populated
        """
        if not self.mapped.any():
            return "parts that are not mapped, or could not be read"
        return reasons.get(self.piece.populated)

    def violations(
        self,
        where: NDArray[np.bool_],
        sentence: str,
        expected: str,
        observed: str | None = None,
    ) -> Violations:
        """
        Return violations of leaves, one for each leaf that a row stands for.

        :param where: rows, shape ``(n,)``
        :param observed: the size of the leaf by default
        """
        leaves = self.leaves.apart(where)
        return Violations(
            np.arange(len(leaves.address)),
            sentence,
            vaddr=leaves.address,
            pfn=leaves.pfn,
            expected=expected,
            observed=observed or (lambda row: binary_size(1 << int(leaves.shift[row]))),
        )


@rule(
    "leaf-size",
    Severity.ERROR,
    holds="only the memory map of whole sections without deduplication has large leaves",
    source="arch/x86/mm/init_64.c: vmemmap_populate()",
    meaning="Where tail pages are to share frames, or a section is only partly the device's,"
    " the kernel maps base pages. A large leaf there means that deduplication did not take"
    " place, or that the entry was written by something else; what it maps may be a"
    " neighbour's.",
    look_at="The entry itself and what its frames hold: struct pages of this device (populated"
    " in another way than this kernel should) or anything else (a corrupted page table).",
)
def leaf_size(facts: LeafFacts) -> Iterator[Violations | Skip]:
    if reason := facts.skip(_NO_SIZE):
        yield Skip(reason)
        return
    built = (
        "tail pages should share a frame"
        if facts.piece.populated is Populated.COMPOUND
        else "part of a section should have base pages"
    )
    where = facts.large
    if where.any():
        where &= facts.own
    yield facts.violations(where, f"a large leaf where {built}", binary_size(facts.table.page_size))


@rule(
    "leaf-fallback",
    Severity.NOTE,
    holds="the memory map of a whole section without deduplication has large leaves",
    source="mm/sparse-vmemmap.c: vmemmap_populate_hugepages()",
    archs=("x86_64", "arm64", "riscv64", "ppc64le"),
    meaning="Nothing is wrong: the kernel found no free block of 2 MiB when the device was"
    " added, and took base pages. It costs a page table of 4 KiB and TLB entries.",
    look_at="Fragmentation when the device was added (/proc/buddyinfo). With an altmap it is"
    " not expected at all.",
)
def leaf_fallback(facts: LeafFacts) -> Iterator[Violations | Skip]:
    large, arch = facts.geometry.leaf, facts.geometry.arch
    reason = facts.skip(NO_FALLBACK)
    if large == facts.table.page_size:
        reason = f"{arch.name} has base pages everywhere, where they have {binary_size(large)}"
    elif arch.leaves_by_cpu:
        reason = f"not every CPU of {arch.name} has large leaves"
    if reason:
        yield Skip(reason)
        return
    facts = LeafFacts.of(facts.leaves.apart(), *facts[1:6])
    base = facts.mapped & ~facts.large
    if base.any():
        base &= facts.own
    # One note for each large leaf's worth of base pages.
    region = facts.leaves.address // np.uint64(large)
    base[1:] &= ~base[:-1] | (region[1:] != region[:-1])
    yield facts.violations(
        base, "base pages where a section has a large leaf when memory allows", binary_size(large)
    )


@rule(
    "read-only",
    Severity.ERROR,
    holds="the vmemmap of device memory is writable",
    source="mm/sparse-vmemmap.c: vmemmap_pte_populate()",
    meaning="The kernel writes to struct pages all the time: an entry of a device's vmemmap"
    " without write permission is an oops at the next reference count. Only HugeTLB's vmemmap"
    " optimization makes vmemmap read-only, and it has no business with a device's.",
    look_at="Whether HugeTLB folios lie next to the device, and whose frame the entry maps: a"
    " remapping that hit the wrong range, or a bit flip.",
)
def read_only(facts: LeafFacts) -> Iterator[Violations | Skip]:
    # HugeTLB's optimization shares the memory map of RAM, and maps it read-only.
    if reason := facts.skip({Populated.EARLY: _EARLY, Populated.NEIGHBOUR: WITH_NEIGHBOUR}):
        yield Skip(reason)
        return
    where = facts.mapped & ~facts.leaves.writable
    if facts.shared is not None and facts.shared.protected:
        # The kernel protects what all devices of the node share: not so in the first postings.
        where &= facts.leaves.pfn != np.uint64(facts.shared.pfn or 0)
    yield facts.violations(where, "a read-only entry", "writable", "read-only")


@rule(
    "executable",
    Severity.ERROR,
    holds="the vmemmap can't be executed",
    source="mm/sparse-vmemmap.c: vmemmap_pte_populate()",
    meaning="The kernel maps its memory map no-execute (PAGE_KERNEL). An executable entry is a"
    " hole in W^X: data that user space can influence could be run. Everything works as before,"
    " so nothing else reports it.",
    look_at="Whether the page table above has the bit too; whether other entries of the same"
    " table are executable: one is damage, all are a wrong pgprot.",
)
def executable(facts: LeafFacts) -> Iterator[Violations | Skip]:
    # Nobody else asks it of the memory map of RAM.
    with_device = facts.piece.others[:1] != (RAM,)
    if reason := facts.skip({Populated.NEIGHBOUR: WITH_NEIGHBOUR} if with_device else {}):
        yield Skip(reason)
        return
    where = facts.mapped & ~facts.leaves.no_execute
    yield facts.violations(where, "an executable entry", "not executable", "executable")


class ApartFacts(NamedTuple):
    """Compound pages of a pagemap of which no two tail pages share a frame."""

    #: each by the first vpage of its range, and its number there
    apart: Sequence[tuple[int, int]]
    #: compound pages that the pagemap has
    compounds: int
    #: vpages in a compound page
    size: int
    geometry: Geometry
    #: the frame that the tail pages should share with other devices', ``None`` if none
    shared: SharedTail | None = None


@rule(
    "not-deduplicated",
    Severity.ERROR,
    holds="the tail pages of a compound page share one frame",
    source="mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
    since="5.19",
    archs=("x86_64", "riscv64", "ppc64le"),
    meaning="The pagemap has compound pages and nothing else stands in the way, yet each page"
    " of its vmemmap has a frame of its own: the memory that deduplication should save is not"
    " saved. The kernel works all the same.",
    look_at="vmemmap_can_optimize() of this kernel, and its configuration"
    " (CONFIG_ARCH_WANT_OPTIMIZE_DAX_VMEMMAP, CONFIG_ARCH_WANT_HUGETLB_PAGE_OPTIMIZE_VMEMMAP"
    " before 6.6).",
)
def not_deduplicated(facts: ApartFacts) -> Violations:
    def address(row: int) -> int:
        origin, number = facts.apart[row]
        return facts.geometry.address(origin + number * facts.size + 1)

    # All of a pagemap's are one violation.
    none = len(facts.apart) == facts.compounds > 0
    return Violations(
        np.arange(1 if none else len(facts.apart)),
        f"none of {facts.compounds} compound pages has tail pages that share a frame"
        if none
        else lambda row: f"the tail pages of compound page {facts.apart[row][1]} share no frame",
        vaddr=address,
        expected=f"1 frame for {facts.size - 1} pages of tail pages"
        if facts.shared is None
        else f"the frame of {facts.shared.name}",
        observed="a frame for each",
    )


class TailFacts(NamedTuple):
    """A batch of compound pages, and which of their tail pages map a wrong frame."""

    judged: Judged
    #: compound pages of which no two tail pages share a frame (int64)
    apart: NDArray[np.int64]
    #: runs of the others that map another frame than the rest (bool), shape ``(n,)``
    wrong: NDArray[np.bool_]
    geometry: Geometry
    #: the frame that the tail pages should share with other devices', ``None`` if none
    shared: SharedTail | None = None

    @classmethod
    def of(
        cls,
        judged: Judged,
        in_ram: NDArray[np.bool_],
        geometry: Geometry,
        shared: SharedTail | None = None,
    ) -> TailFacts:
        """
        Return the facts with wrong frames that are memory; rule frame-not-memory reports the rest.

        :param in_ram: whether the frame of each run is memory (bool), shape ``(n,)``
        """
        wrong = judged.wrong & in_ram & (judged.runs.order == 0)
        if not wrong.any():
            return cls(judged, np.empty(0, dtype=np.int64), wrong, geometry, shared)
        apart = _compounds_apart(judged)
        return cls(judged, apart, wrong & ~np.isin(judged.compound, apart), geometry, shared)

    @property
    def any_tail(self) -> bool:
        """Return whether any tail page is mapped."""
        return bool(((self.judged.runs.kind == Kind.MAPPED) & ~self.judged.head).any())


def _compounds_apart(judged: Judged) -> NDArray[np.int64]:
    """Return compound pages with three or more tail pages of which no two share a frame."""
    tails = ~judged.head & (judged.runs.kind == Kind.MAPPED) & (judged.runs.order == 0)
    compounds, first, runs = np.unique(
        judged.compound[tails], return_index=True, return_counts=True
    )
    if not len(compounds):
        return compounds
    pages = np.add.reduceat(judged.runs.length[tails], first)
    right = np.add.reduceat((~judged.wrong[tails]).astype(np.int64), first)
    apart: NDArray[np.int64] = compounds[(pages >= 3) & (runs == pages) & (right <= 1)]
    return apart


@rule(
    "tail-frame",
    Severity.ERROR,
    holds="all tail pages of a compound page map the same frame",
    source="mm/sparse-vmemmap.c: vmemmap_populate_compound_pages()",
    since="5.19",
    archs=("x86_64", "riscv64", "ppc64le"),
    meaning="A tail page is written to, or read from, a frame that is not its compound page's:"
    " its struct page shows something else's contents, and compound_head() of it leads"
    " elsewhere. If the frame has another owner, initialising the device overwrote it, and"
    " removing the device drops a reference that is not its own. Where the devices of a node"
    " share tail pages, the frame must be that of the device's node and order.",
    look_at="Whose frame it is: the compound page's own head (population slipped by one"
    " entry), another compound page's (wrong reuse), or a frame of another owner (corrupted"
    " entry). The reference counts of both frames show which is older.",
)
def tail_frame(facts: TailFacts) -> Iterator[Violations | Skip]:
    judged, runs = facts.judged, facts.judged.runs
    if not facts.any_tail:
        yield Skip(NO_TAIL)
    others = "the rest" if facts.shared is None else facts.shared.name

    def sentence(row: int) -> str:
        length, number = int(runs.length[row]), judged.compound[row]
        heads = judged.head & (judged.compound == number) & (runs.pfn == runs.pfn[row])
        return (
            f"{count(length, 'page')} of the tail pages of compound page {number}"
            f" {agree(length, 'maps', 'map')} another frame than {others}"
            + (", that of the head" if heads.any() else "")
        )

    yield Violations(
        facts.wrong,
        sentence,
        vaddr=lambda row: facts.geometry.address(int(runs.vpage[row])),
        pfn=runs.pfn,
        expected=lambda row: f"pfn {int(judged.shared[row]):#x}",
        observed=lambda row: f"pfn {int(runs.pfn[row]):#x}",
    )


#: rules about each leaf, and about the frames of compound pages
LEAF_RULES = (leaf_size, leaf_fallback, read_only, executable)
COMPOUND_RULES = (tail_frame, not_deduplicated)
