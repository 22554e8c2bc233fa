# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What two looks are compared by (:mod:`vmemscope.report.diff`): of this run, or read from a document.

A document may be anybody's, so nothing in it is gone by before it has been
looked at: :func:`read_snapshot` returns sound values or says what is not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import TargetError
from ..rules.findings import Finding, Outcome, RuleOutcome
from ..rules.rule import Severity
from ..text import printable

if TYPE_CHECKING:
    from .documents.pgmap import PagemapReport, Report

__all__ = ("MAX_DOCUMENT", "PagemapState", "Snapshot", "read_snapshot", "snapshot_of")

#: bytes of a document that are read; ten times what a hundred broken pagemaps take
MAX_DOCUMENT = 32 << 20

#: the documents that can be read
_SCHEMA = "vmemscope.pgmap/1"
#: what all of a document is called in messages
_TOP = "the document"
_STATES = ("deduplicated", "partial", "not-optimized", "unreadable")


@dataclass(frozen=True)
class PagemapState:
    """What of a pagemap is compared; units as in :mod:`vmemscope.report.documents.pgmap`."""

    address: int
    name: str | None
    type: str
    vmemmap_shift: int | None
    #: physical ranges in bytes, the end inclusive
    ranges: tuple[tuple[int, int], ...]
    #: virtual addresses of its part of the vmemmap, the end exclusive; 0 and 0 if it has none
    start: int
    end: int
    mapped: int
    unmapped: int
    unreadable: int
    frames: int
    saved_bytes: int
    state: str
    reason: str | None
    findings: tuple[Finding, ...] = ()
    outcomes: tuple[RuleOutcome, ...] = ()

    @property
    def label(self) -> str:
        """What it is called: its name, or the address of its structure."""
        return self.name or f"{self.address:#x}"


@dataclass(frozen=True)
class Snapshot:
    """What of a look at a target is compared."""

    #: what the user named: a file, or the target
    source: str
    kind: str
    osrelease: str
    arch: str
    page_size: int
    pagemaps: tuple[PagemapState, ...]
    #: findings of no single pagemap
    findings: tuple[Finding, ...] = ()
    outcomes: tuple[RuleOutcome, ...] = ()
    #: what could not be read, in words
    not_read: tuple[str, ...] = ()


def snapshot_of(report: Report, source: str | None = None) -> Snapshot:
    """
    Take what is compared from a report.

    :param source: what the user called it, the target's path by default
    """
    target = report.target
    return Snapshot(
        source=target.path if source is None else source,
        kind=target.kind,
        osrelease=target.osrelease,
        arch=target.arch,
        page_size=target.page_size,
        pagemaps=tuple(_state_of(one) for one in report.pagemaps),
        findings=report.findings,
        outcomes=report.outcomes,
        not_read=report.summary.not_read,
    )


def _state_of(one: PagemapReport) -> PagemapState:
    # A pagemap without a valid range has no part of the vmemmap.
    known = one.vmemmap.pages > 0
    return PagemapState(
        address=one.address,
        name=one.name,
        type=one.pagemap.type,
        vmemmap_shift=one.pagemap.vmemmap_shift,
        ranges=tuple((r.start, r.end) for r in one.pagemap.ranges),
        start=one.vmemmap.start if known else 0,
        end=one.vmemmap.end if known else 0,
        mapped=one.vmemmap.mapped,
        unmapped=one.vmemmap.unmapped,
        unreadable=one.vmemmap.unreadable,
        frames=one.frames.backing,
        saved_bytes=one.saved_bytes,
        state=one.state,
        reason=one.reason,
        findings=one.findings,
        outcomes=one.outcomes,
    )


def read_snapshot(data: bytes, source: str) -> Snapshot:
    """
    Take what is compared from a JSON document.

    :param source: what the user called it
    :raises TargetError: if it is no document that this version can read
    """
    try:
        document = json.loads(data, parse_constant=_no_constant)
    except RecursionError:
        raise TargetError(f"{source} is no report: it is nested too deeply") from None
    except ValueError as e:
        raise TargetError(f"{source} is no report: it is not JSON ({e})") from None
    try:
        return _snapshot(document, source)
    except _MalformedError as e:
        raise TargetError(
            f"{source} is no report: {e}", "write one with vmemscope pgmap --format json"
        ) from None


class _MalformedError(Exception):
    """A document is not what it should be."""


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _snapshot(document: object, source: str) -> Snapshot:
    top = _Object(document, _TOP)
    schema = top.text("schema")
    if schema != _SCHEMA:
        raise _MalformedError(f"its schema is {schema[:60]!r}, and not {_SCHEMA!r}")
    target = top.object("target")
    summary = top.object("summary")
    pagemaps = tuple(_pagemap(one) for one in top.objects("pgmaps"))
    if summary.count("pagemaps") != len(pagemaps):
        raise _MalformedError(f"it has {len(pagemaps)} of {summary.count('pagemaps')} pagemaps")
    return Snapshot(
        source=source,
        kind=target.text("kind"),
        osrelease=target.text("osrelease"),
        arch=target.text("arch"),
        page_size=target.count("page_size"),
        pagemaps=pagemaps,
        findings=tuple(_finding(one) for one in top.objects("findings")),
        outcomes=_outcomes(top),
        not_read=tuple(summary.texts("not_read")),
    )


def _pagemap(one: _Object) -> PagemapState:
    vmemmap, frames = one.object("vmemmap"), one.object("frames")
    shift = one.value("vmemmap_shift")
    return PagemapState(
        address=one.address("address"),
        name=None if one.value("name") is None else one.text("name"),
        type=one.text("type"),
        vmemmap_shift=None if shift is None else one.count("vmemmap_shift"),
        ranges=tuple((r.address("start"), r.address("end")) for r in one.objects("ranges")),
        start=0 if vmemmap.value("start") is None else vmemmap.address("start"),
        end=0 if vmemmap.value("end") is None else vmemmap.address("end"),
        mapped=vmemmap.count("mapped"),
        unmapped=vmemmap.count("unmapped"),
        unreadable=vmemmap.count("unreadable"),
        frames=frames.count("backing"),
        saved_bytes=one.count("saved_bytes"),
        state=one.choice("state", _STATES),
        reason=None if one.value("reason") is None else one.text("reason"),
        findings=tuple(_finding(f) for f in one.objects("findings")),
        outcomes=_outcomes(one),
    )


def _finding(one: _Object) -> Finding:
    return Finding(
        rule=one.text("rule"),
        severity=Severity[one.choice("severity", [str(s) for s in Severity]).upper()],
        vaddr=None if one.value("vaddr") is None else one.address("vaddr"),
        pfn=None if one.value("pfn") is None else one.count("pfn"),
        expected=one.scalar("expected"),
        observed=one.scalar("observed"),
        message=one.text("message"),
    )


def _outcomes(owner: _Object) -> tuple[RuleOutcome, ...]:
    # The first documents of this version did not have them.
    if "rules" not in owner.fields:
        return ()
    return tuple(
        RuleOutcome(
            rule=one.text("rule"),
            outcome=Outcome(one.choice("outcome", [outcome.value for outcome in Outcome])),
            reason=None if one.value("reason") is None else one.text("reason"),
            violations=one.count("violations"),
        )
        for one in owner.objects("rules")
    )


class _Object:
    """A JSON object, and how it is got to; gives fields that are what they should be."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise _MalformedError(f"{where} is no object")
        self.fields: dict[str, Any] = value
        self.where = where

    def value(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise _MalformedError(f"{self.where} has no {name!r}") from None

    def _wrong(self, name: str, what: str) -> _MalformedError:
        return _MalformedError(f"{name!r} of {self.where} is no {what}")

    def text(self, name: str) -> str:
        value = self.value(name)
        if not isinstance(value, str):
            raise self._wrong(name, "string")
        # It should be escaped already, and what is stays as it is.
        return printable(value.encode("utf-8", "backslashreplace"))

    def texts(self, name: str) -> Iterator[str]:
        for i, value in enumerate(self.array(name)):
            yield _Object({name: value}, f"{name}[{i}]").text(name)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        value = self.text(name)
        if value not in choices:
            raise self._wrong(name, ", ".join(choices))
        return value

    def count(self, name: str) -> int:
        value = self.value(name)
        # True is an int in Python.
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 64:
            raise self._wrong(name, "number of 64 bits")
        return value

    def scalar(self, name: str) -> str | int | None:
        value = self.value(name)
        if value is None:
            return None
        if isinstance(value, str):
            return self.text(name)
        if isinstance(value, bool) or not isinstance(value, int) or not abs(value) < 1 << 64:
            raise self._wrong(name, "string, number of 64 bits or null")
        return value

    def address(self, name: str) -> int:
        value = self.text(name)
        digits = value.removeprefix("0x")
        if value == digits or not 0 < len(digits) <= 16 or set(digits) - set("0123456789abcdef"):
            raise self._wrong(name, "address such as 0x1000")
        return int(digits, 16)

    def array(self, name: str) -> list[Any]:
        value = self.value(name)
        if not isinstance(value, list):
            raise self._wrong(name, "array")
        return value

    def _path(self, name: str) -> str:
        return name if self.where == _TOP else f"{self.where}.{name}"

    def object(self, name: str) -> _Object:
        return _Object(self.value(name), self._path(name))

    def objects(self, name: str) -> Iterator[_Object]:
        for i, value in enumerate(self.array(name)):
            yield _Object(value, f"{self._path(name)}[{i}]")
