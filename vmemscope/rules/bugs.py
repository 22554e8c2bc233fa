# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Bugs of kernels that are known by their symptoms: findings that all have one cause.

A bug is reported only if all of its symptoms are there and nothing contradicts it; their
findings stay, and are counted under it. ``seen`` names the kernels in which we saw it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ("BUGS", "UNINITIALISED", "KnownBug", "Symptoms", "known_bugs")


class KnownBug(NamedTuple):
    """One bug of the kernel."""

    id: str
    #: what the kernel does, a clause after "this kernel"
    title: str
    #: when it came, and when it was fixed
    versions: str
    #: where we saw it
    seen: str
    meaning: str
    action: str
    #: rules that must be violated, and all whose findings it explains
    needs: tuple[str, ...]
    explains: tuple[str, ...]


class Symptoms(NamedTuple):
    """What was found of one pagemap, or of HugeTLB."""

    #: rule -> violations
    violations: Mapping[str, int]
    #: compound pages whose struct pages were checked
    compounds: int = 0
    #: of these, those in sections that were there at boot
    early_compounds: int = 0
    #: whether each struct page that was reported first in its compound page is number 128
    from_129th: bool = False
    #: whether the architecture lays compound pages out by their address (ppc64)
    by_address: bool = False
    #: frames of shared tail pages of gigantic folios that were initialised again
    gigantic_tails: int = 0


_CONTENTS = (
    "head-flag", "compound-head", "compound-order", "pgmap-link", "stray-head", "page-refcount",
    "page-zone", "page-uninitialised", "tail-contents",
)  # fmt: skip

#: Rules that struct pages break which the kernel did not initialise: of each compound page
#: one of the first three. Those of a pagemap of base pages that was there before have references
#: (before 6.15, if it was of fsdax).
UNINITIALISED = ("page-zone", "page-uninitialised", "compound-head", "page-refcount")

BUGS = (
    KnownBug(
        "early-uninitialised",
        "leaves struct pages from the 129th of each compound page uninitialised in sections that"
        " were there at boot",
        "since 5.19, fixed in 7.2, 6.12.97 and 6.1.184 (mm/mm_init: fix uninitialized struct pages"
        " for ZONE_DEVICE)",
        "6.1.0-47, 6.12.43, 6.18.15",
        "These struct pages say another zone, another device, or nothing: whoever takes such a"
        " page of the device (get_user_pages(), memory failure, a page walker) gets a wrong head,"
        " and counts references elsewhere.",
        "update the kernel, or make the namespace start outside of the sections of System RAM",
        (),
        # By what boot left there, or a pagemap before this one.
        UNINITIALISED,
    ),
    KnownBug(
        "radix-population",
        "takes pages of struct pages for page frames when it shares tail pages (ppc64)",
        "in 6.12 with pages of 4 KiB, not in 7.2 (radix_pgtable.c)",
        "6.12.107",
        "Nothing is shared, or pages of struct pages that are not alike; and all but the first 128"
        " struct pages of each compound page are zeros: to the kernel, free pages of another zone.",
        "use another kernel, or namespaces with base pages",
        ("page-uninitialised",),
        ("page-uninitialised", "not-deduplicated", "tail-frame"),
    ),
    KnownBug(
        "mask-unaligned",
        "lets tail pages find their head by a mask, though the compound pages are not aligned to"
        " their size",
        "since 7.1, not fixed",
        "7.2.13, 7.3.4",
        "Every tail page of the device resolves to a wrong head, maybe of another device: faults"
        " get SIGBUS, and references are counted on another page.",
        "make the namespace start at a multiple of its alignment",
        ("mask-alignment", "compound-head"),
        ("mask-alignment", "compound-head"),
    ),
    KnownBug(
        "section-unaligned",
        "takes compound pages that start in the middle of a section for parts of one",
        "since 5.19, not fixed",
        "6.1, 6.12, 7.2.13, 7.3.4",
        "All heads but the first lie in the frame of the tail pages: struct pages overwrite each"
        " other.",
        "make the namespace start at a multiple of its alignment, or use pages of 2 MiB",
        ("section-alignment", "frame-shared"),
        ("section-alignment", "frame-shared", "tail-frame", "mask-alignment", *_CONTENTS),
    ),
    KnownBug(
        "section-early",
        "copies the memory map of compound pages from a section that was there at boot as if it"
        " had base pages",
        "since 5.19, not fixed",
        "6.12, 7.2.13, 7.3.4",
        "The rest of the device's memory map lies in a frame that is not its own: struct pages"
        " overwrite what is there.",
        "make the namespace start outside of the sections of System RAM",
        ("section-alignment", "frame-not-memory"),
        (
            "section-alignment", "frame-not-memory", "frame-shared", "tail-frame",
            "mask-alignment", *_CONTENTS,
        ),
    ),
    KnownBug(
        "hugetlb-restore",
        "restores the vmemmap of huge pages from a copy that it does not reset",
        "since 6.12.114, not fixed in 6.12.118",
        "6.12.117, 6.12.118",
        "An optimized huge page that is given back is lost: 'BUG: Bad page state'.",
        "switch the optimization off, or use a kernel of another series",
        ("hugetlb-restore",),
        ("hugetlb-restore",),
    ),
    KnownBug(
        "hugetlb-gigantic-boot",
        "initialises the shared tail pages of gigantic pages from boot a second time",
        "since 7.1, not fixed",
        "7.2.13, 7.3.4",
        "When such a page is freed, the log has 'BUG: Bad page state ... nonzero _refcount', and"
        " its memory is lost until the next boot.",
        "allocate gigantic pages after boot, or switch the optimization off",
        ("hugetlb-shared-tail",),
        ("hugetlb-shared-tail",),
    ),
)  # fmt: skip


def known_bugs(found: Symptoms) -> list[tuple[KnownBug, dict[str, int]]]:
    """Return the bugs whose symptoms are all there, each with them: rule -> violations."""
    bugs = []
    for bug in BUGS:
        if not _is_there(bug, found):
            continue
        symptoms = {
            rule: number for rule in bug.explains if (number := found.violations.get(rule, 0))
        }
        bugs.append((bug, symptoms))
    return bugs


def _is_there(bug: KnownBug, found: Symptoms) -> bool:
    violations = found.violations
    if not all(violations.get(rule) for rule in bug.needs):
        return False
    if bug.id == "early-uninitialised":
        wrong = sum(violations.get(rule, 0) for rule in UNINITIALISED[:3])
        return found.from_129th and 0 < wrong == found.early_compounds
    if bug.id == "radix-population":
        laid_out = violations.get("not-deduplicated") or violations.get("tail-frame")
        every = violations["page-uninitialised"] == found.compounds > 0
        return bool(found.by_address and found.from_129th and laid_out and every)
    if bug.id == "mask-unaligned":
        # Some that are right, or the other layouts, have another cause.
        others = violations.get("section-alignment", 0)
        return not others and violations["compound-head"] == found.compounds
    if bug.id == "hugetlb-gigantic-boot":
        # Each frame's tail pages have a reference, and are not alike. More has another cause.
        return violations["hugetlb-shared-tail"] == 2 * found.gigantic_tails
    return True
