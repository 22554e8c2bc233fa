# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a rule is: its text, the kernel source it comes from, and its check, in one place.

A rule is a function under :func:`rule`. It takes facts, arrays as a rule, and
returns :class:`Violations`, or yields a :class:`Violation` each, or a :class:`Skip`
where the facts do not suffice. It never limits, counts or formats:
:meth:`~.findings.Collector.check` does that for all rules alike::

    @rule(
        "refcount-low",
        Severity.ERROR,
        holds="a frame has at least as many references as entries that map it",
        source="mm/sparse-vmemmap.c: vmemmap_pte_populate(), get_page()",
        meaning="...",
        look_at="...",
    )
    def refcount_low(facts: FrameFacts) -> Violations:
        return facts.violations(facts.refcounts < facts.frames.entries, ...)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import Enum, Flag, auto
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = (
    "Rule",
    "Scope",
    "Severity",
    "Skip",
    "Value",
    "Violation",
    "Violations",
    "rule",
)

Value = str | int | None


class Severity(Enum):
    """How bad a finding is, worst first."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    def __str__(self) -> str:
        return self.value

    def __lt__(self, other: Severity) -> bool:
        order = list(Severity)
        return order.index(self) < order.index(other)


class Scope(Flag):
    """What a rule is evaluated for."""

    #: each pagemap
    PAGEMAP = auto()
    #: the structures of the target that lead to all pagemaps
    TARGET = auto()
    #: all of the memory map, whatever it describes
    MEMORY_MAP = auto()
    #: HugeTLB's folios
    HUGETLB = auto()


class Violation(NamedTuple):
    """One place where a rule does not hold."""

    #: a clause without a full stop
    sentence: str
    #: virtual address in bytes
    vaddr: int | None = None
    #: page frame that backs ``vaddr``
    pfn: int | None = None
    expected: Value = None
    observed: Value = None


class Skip(NamedTuple):
    """Why a rule was not evaluated."""

    #: a clause without a full stop
    reason: str
    #: it was evaluated for the rest
    partly: bool = False


class Violations:
    """
    Rows of a table of facts for which a rule does not hold.

    A value is the same for all rows, an array with an element for each row, or a function of
    a row's number. Only the rows that are reported one by one are asked for.

    :param where: the rows: a mask (bool), or their numbers (int64), shape ``(n,)``
    :param sentence: a clause without a full stop
    :param vaddr: virtual address in bytes
    :param pfn: page frame that backs it
    :param more: violations that have no row, and are only counted
    """

    def __init__(
        self,
        where: NDArray[Any],
        sentence: str | Callable[[int], str],
        *,
        vaddr: int | NDArray[Any] | Callable[[int], int | None] | None = None,
        pfn: int | NDArray[Any] | Callable[[int], int | None] | None = None,
        expected: Value | NDArray[Any] | Callable[[int], Value] = None,
        observed: Value | NDArray[Any] | Callable[[int], Value] = None,
        more: int = 0,
    ) -> None:
        values = sentence, vaddr, pfn, expected, observed
        self._rows = where.nonzero()[0] if where.dtype == bool else where
        self._more = more
        self._make = lambda row: Violation(*(_value_of(one, row) for one in values))

    @classmethod
    def each(cls, where: NDArray[Any], make: Callable[[int], Violation]) -> Violations:
        """
        Return violations whose values are found together.

        :param where: as above
        :param make: number of a row -> its violation
        """
        violations = cls(where, "")
        violations._make = make
        return violations

    def __len__(self) -> int:
        """Return the number of violations."""
        return len(self._rows) + self._more

    def first(self, count: int) -> Iterator[Violation]:
        """Yield the violations of the first rows."""
        yield from map(self._make, self._rows[:count].tolist())


def _value_of(value: Any, row: int) -> Any:
    if callable(value):
        return value(row)
    return value[row].item() if hasattr(value, "dtype") else value


#: what a check returns: violations and reasons, none where the rule holds
Found = Violations | Iterable[Violation | Violations | Skip]


class Rule(Struct, frozen=True, kw_only=True):
    """One rule."""

    #: identifier, as it stands in reports
    id: str
    severity: Severity
    #: what must hold, a clause without a full stop
    holds: str
    #: where the kernel makes it so, ``file: function()``
    source: str
    #: what it means for the kernel and its user when it does not hold
    meaning: str
    #: what to check next
    look_at: str
    #: first and last release that it holds for; ``None``: no such bound is known
    since: str | None = None
    until: str | None = None
    #: architectures that it holds for, as ``uname -m`` prints them; none: all
    archs: tuple[str, ...] = ()
    #: ways to share tail pages that it is about (:attr:`.Scheme.id`); none: all
    schemes: tuple[str, ...] = ()
    scope: Scope = Scope.PAGEMAP
    #: facts -> violations
    check: Callable[..., Found]

    @property
    def versions(self) -> str:
        """Return the releases that it holds for, in words."""
        if self.since is None and self.schemes:
            return "kernels that share tail pages so: " + ", ".join(self.schemes)
        if self.since is None:
            return "all versions" if self.until is None else f"up to {self.until}"
        return f"{self.since}+" if self.until is None else f"{self.since} to {self.until}"


def rule(id: str, severity: Severity, **about: Any) -> Callable[[Callable[..., Found]], Rule]:
    """
    Make a function a rule.

    :param about: the members of :class:`Rule`
    """
    return lambda check: Rule(id=id, severity=severity, **about, check=check)
