# SPDX-License-Identifier: LGPL-2.1-or-later
"""The records of a survey as text: findings by rule, release and device type."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ExitStatus
from ..rules.rule import Severity
from ..text import binary_size, count
from .width import fitting_grid
from .words import safe

if TYPE_CHECKING:
    from .documents.survey import SurveyRecord

__all__ = ("render_survey",)

#: vmcores that are named for each reason why they were not audited
_NAMED = 5
_STATUSES = {
    ExitStatus.SOUND: "sound",
    ExitStatus.FINDINGS: "with errors",
    ExitStatus.PARTIAL: "audited in part",
    ExitStatus.CANNOT_AUDIT: "not audited",
}


class _Row(NamedTuple):
    severity: Severity
    rule: str
    release: str
    type: str
    dumps: int
    findings: int


_CELLS: dict[str, Callable[[_Row], str]] = {
    "RULE": lambda one: safe(one.rule),
    "SEVERITY": lambda one: str(one.severity),
    "RELEASE": lambda one: safe(one.release),
    "TYPE": lambda one: safe(one.type),
    "DUMPS": lambda one: str(one.dumps),
    "FINDINGS": lambda one: str(one.findings),
}
_COLUMNS = (
    ("RULE", "SEVERITY", "RELEASE", "TYPE", "DUMPS", "FINDINGS"),
    ("RULE", "RELEASE", "TYPE", "DUMPS", "FINDINGS"),
    ("RULE", "RELEASE", "TYPE", "DUMPS"),
    ("RULE", "DUMPS"),
)
_RIGHT = frozenset({"DUMPS", "FINDINGS"})


def render_survey(records: Sequence[SurveyRecord], audited: int, width: int) -> str:
    """
    Return the records of a survey as text.

    :param audited: how many of the dumps were audited now
    :param width: columns of the table (:mod:`.width`)
    """
    statuses = Counter(one.status for one in records)
    parts = [f"{statuses[one]} {words}" for one, words in _STATUSES.items() if statuses[one]]
    lines = [f"{count(len(records), 'vmcore')}: {', '.join(parts)}"]
    if audited < len(records):
        lines.append(f"{audited} audited now, {len(records) - audited} unchanged since before")
    saved = sum(one.saved_bytes or 0 for one in records)
    taken = sum(one.memmap_bytes or 0 for one in records)
    lines += [f"memory maps: {binary_size(taken)}, {binary_size(saved)} saved", ""]
    rows = _rows(records)
    if rows:
        lines += [*fitting_grid(rows, _CELLS, _COLUMNS, _RIGHT, width, {"RELEASE", "RULE"}), ""]
    lines += _bugs(records)
    lines += _failures(records)
    while not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n"


def _rows(records: Sequence[SurveyRecord]) -> list[_Row]:
    """Return findings by severity, rule, release and device type, worst first."""
    findings: Counter[tuple[Severity, str, str, str]] = Counter()
    dumps: Counter[tuple[Severity, str, str, str]] = Counter()
    for record in records:
        here = Counter(
            (one.severity, one.rule, record.osrelease or "-", one.type or "-")
            for one in record.findings
        )
        findings.update(here)
        dumps.update(here.keys())
    return [_Row(*key, dumps[key], findings[key]) for key in sorted(findings)]


def _bugs(records: Sequence[SurveyRecord]) -> list[str]:
    counted = Counter((bug, one.osrelease or "-") for one in records for bug in one.bugs)
    lines = [
        f"kernel bug {safe(bug)} in {safe(release)}: {count(n, 'vmcore')}"
        for (bug, release), n in sorted(counted.items())
    ]
    return [*lines, ""] if lines else []


def _failures(records: Sequence[SurveyRecord]) -> list[str]:
    """Return why vmcores were not audited, or not in whole, with the names of some."""
    by_error: defaultdict[str, list[str]] = defaultdict(list)
    for one in records:
        if one.error is not None:
            # The same reason for each, but for the name.
            by_error[safe(one.error).replace(safe(one.path), "it")].append(safe(one.path))
    lines = []
    for error, paths in sorted(by_error.items(), key=lambda item: (-len(item[1]), item[0])):
        lines.append(f"not audited: {count(len(paths), 'vmcore')}: {error}")
        lines += [f"  {path}" for path in paths[:_NAMED]]
        if len(paths) > _NAMED:
            lines.append(f"  and {len(paths) - _NAMED} more")
    return lines
