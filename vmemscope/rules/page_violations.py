# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules about ``struct page``s, and the sums of their violations.

A rule is a function under :func:`page_rule`. It takes :class:`~.page_rows.StructPages` and
returns :class:`WrongPages`: a mask of the violating pages, and the sentence. Violations
come by the row, in any order. :class:`PageViolations` reports those of one compound page,
or of neighbouring rows of base pages, as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..columns import join, select
from .page_rows import Expected, PageKind, StructPages
from .rule import Rule, Severity, Skip, Value, Violation, Violations
from .words import agree, part

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .findings import Collector

__all__ = ("Affected", "PageRule", "PageViolations", "WrongPages", "page_rule")

#: records of violations that are kept before those of one compound page are added up
_GATHERED = 1 << 14
_NOWHERE = np.empty((0, 0), dtype=np.bool_)


class Affected(NamedTuple):
    """A compound page, or neighbouring base pages, with ``struct page``s that violate a rule."""

    expected: Expected
    kind: PageKind
    #: page frame of the head, or of the first base page
    head: int
    #: page frame of the first ``struct page`` that is wrong, and its words, shape ``(words,)``
    pfn: int
    words: NDArray[np.uint64]
    #: how many are wrong, and how many tail pages, and pages in all, were checked
    wrong: int
    tails: int
    pages: int
    #: what it is, in words, if it is neither
    title: str | None = None

    @property
    def name(self) -> str:
        """Return its name, in words."""
        if self.title is not None:
            return self.title
        if self.kind is PageKind.COMPOUND:
            return f"the compound page at pfn {self.head:#x}"
        return f"the base pages from pfn {self.head:#x} on"

    @property
    def flags(self) -> int:
        """Return ``page->flags`` of the first wrong ``struct page``."""
        return self.word(self.expected.page.flags)

    def word(self, offset: int) -> int:
        """Return the word at an offset in bytes of the first wrong ``struct page``."""
        return int(self.words[offset // 8])

    def pages_that(self, one: str, several: str) -> str:
        """Return how many of its ``struct page``s violate a rule, in words."""
        which = part(self.wrong, self.pages, "struct pages")
        return f"{which} checked in {self.name} {agree(self.wrong, one, several)}"


class WrongPages(NamedTuple):
    """``struct page``s that violate a rule, and how they are reported."""

    #: mask (bool), shape ``(rows, struct pages)``
    where: NDArray[np.bool_]
    #: returns a clause without a full stop
    sentence: Callable[[Affected], str]
    expected: Value | Callable[[Affected], Value] = None
    observed: Value | Callable[[Affected], Value] = None
    #: page frames between where a row was found and where it is reported (int64), shape ``(rows,)``
    moved: NDArray[np.int64] | None = None

    def violation(self, one: Affected, frame: int) -> Violation:
        """
        Return the violation.

        :param frame: backing frame of the first wrong ``struct page``
        """
        expected, observed = (
            value(one) if callable(value) else value for value in (self.expected, self.observed)
        )
        address = one.expected.geometry.page_address(one.pfn)
        return Violation(self.sentence(one), address, frame, expected, observed)


#: what a rule about struct pages returns
FoundPages = WrongPages | Skip | Iterable[WrongPages]


class PageRule(Rule, frozen=True, kw_only=True):
    """A rule about ``struct page``s. Its check takes the violations as added up."""

    #: returns the violating pages, or why the rule does not apply
    find: Callable[[StructPages], FoundPages]

    def wrong(self, pages: StructPages) -> Iterable[WrongPages]:
        """Return the ``struct page``s that violate it."""
        found = self.find(pages)
        if isinstance(found, Skip):
            return ()
        return (found,) if isinstance(found, WrongPages) else found

    def why_not(self, expected: Expected, kind: PageKind) -> str | None:
        """Return why it does not apply to a pagemap's pages, ``None`` if it does."""
        found = self.find(StructPages.none(expected, kind))
        return found.reason if isinstance(found, Skip) else None


def page_rule(
    id: str, severity: Severity, **about: Any
) -> Callable[[Callable[[StructPages], FoundPages]], PageRule]:
    """
    Make a function a rule about ``struct page``s.

    :param about: the members of :class:`~.rule.Rule`
    """

    def as_added_up(violations: Violations) -> Violations:
        return violations

    return lambda find: PageRule(id=id, severity=severity, **about, check=as_added_up, find=find)


class _Wrong(NamedTuple):
    """Violations of a rule, at most one of a row; all have length ``n``."""

    #: as :attr:`.page_rows.Rows.head` (int64)
    head: NDArray[np.int64]
    #: page frame of the first ``struct page`` that is wrong (int64)
    pfn: NDArray[np.int64]
    #: its backing frame (uint64)
    frame: NDArray[np.uint64]
    #: how many are wrong (int64)
    several: NDArray[np.int64]
    #: the words of that first one, shape ``(n, words)`` (uint64)
    words: NDArray[np.uint64]


class PageViolations:
    """
    Sums violations of rules about ``struct page``s of one kind, and reports them.

    :param title: what they are in words, if they are of no single compound page
    """

    def __init__(self, expected: Expected, kind: PageKind, title: str | None = None) -> None:
        self._expected, self._kind, self._title = expected, kind, title
        self._per_page = expected.geometry.row
        #: for each rule its sentence and its violations
        self._wrong: dict[PageRule, tuple[WrongPages, list[_Wrong]]] = {}
        self._records = 0

    def __contains__(self, rule: PageRule) -> bool:
        """Return whether any ``struct page`` violates a rule."""
        return rule in self._wrong

    def check(self, pages: StructPages, rules: Iterable[PageRule]) -> None:
        """Evaluate rules, and add their violations."""
        for rule in rules:
            for wrong in rule.wrong(pages):
                self._add(rule, wrong, pages)

    def _add(self, rule: PageRule, wrong: WrongPages, pages: StructPages) -> None:
        where = wrong.where
        which = np.flatnonzero(where.any(axis=1))
        if not len(which):
            return
        slot = where[which].argmax(axis=1)
        pfn = pages.pfn[which, slot]
        if wrong.moved is not None:
            pfn = pfn + wrong.moved[which]
        rows = pages.rows
        # Only the words are kept of it, not the masks.
        words = wrong._replace(where=_NOWHERE, moved=None)
        self._wrong.setdefault(rule, (words, []))[1].append(
            _Wrong(
                rows.head[which],
                pfn,
                rows.frame[which],
                where[which].sum(axis=1),
                rows.words[which, slot],
            )
        )
        self._records += len(which)
        if self._records > _GATHERED:
            for _, parts in self._wrong.values():
                parts[:] = [_by_head(parts)]
            self._records = 0

    def report(self, findings: Collector, checked: Callable[[int], tuple[int, int]]) -> None:
        """
        Report the violations as findings, and drop them.

        :param checked: :attr:`.page_rows.Rows.head` -> the number of tail pages, and of all
            ``struct page``s, that were checked
        """
        for rule, (words, parts) in self._wrong.items():
            findings.check(rule, self._violations(words, _by_head(parts), checked))
        self._wrong = {}
        self._records = 0

    def _violations(
        self, words: WrongPages, wrong: _Wrong, checked: Callable[[int], tuple[int, int]]
    ) -> Violations:
        # Neighbouring rows of base pages are reported as one.
        apart = np.ones(len(wrong.head), dtype=np.bool_)
        gap = 0 if self._kind is PageKind.COMPOUND else self._per_page
        apart[1:] = np.diff(wrong.head) > gap
        first = np.append(np.flatnonzero(apart), len(wrong.head))

        def make(row: int) -> Violation:
            at, end = first[row : row + 2].tolist()
            several = [checked(head) for head in wrong.head[at:end].tolist()]
            one = Affected(
                self._expected,
                self._kind,
                int(wrong.head[at]),
                int(wrong.pfn[at]),
                wrong.words[at],
                wrong=int(wrong.several[at:end].sum()),
                tails=sum(tails for tails, _ in several),
                pages=sum(pages for _, pages in several),
                title=self._title,
            )
            return words.violation(one, int(wrong.frame[at]))

        return Violations.each(np.arange(len(first) - 1), make)


def _by_head(parts: list[_Wrong]) -> _Wrong:
    """Return the sum of violations of each compound page, in order, with the first place."""
    wrong = join(parts)
    wrong = select(wrong, np.lexsort((wrong.pfn, wrong.head)))
    first = np.flatnonzero(np.concatenate(([True], wrong.head[1:] != wrong.head[:-1])))
    total = np.add.reduceat(wrong.several, first)
    return select(wrong, first)._replace(several=total)
