# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The process that audits one dump: ``python -m vmemscope.survey.child PATH SIZE MODIFIED LIMITS``.

It writes one line, the record of the dump. It limits itself, so it ends even if the process that
started it does not see to that.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ExitStatus, UsageError, VmemscopeError, internal_error
from ..timing import Stopwatch

if TYPE_CHECKING:
    from ..machine import Kernel
    from ..report.documents.common import TargetReport
    from ..report.documents.survey import SurveyAudit, SurveyRecord
    from ..rules.findings import Finding

__all__ = ("audit_dump", "main")

#: pages that the audit of single pages reads: the first of that many pagemaps
_PAGES = 16
#: findings, pagemaps, and things not read in a record, at most: a dump may have any number
_LIMIT = 1000
#: seconds after which the process ends by itself, beyond the time limit
_GRACE = 5


def main(argv: list[str]) -> int:
    """
    Write the record of a dump.

    :param argv: path, size, time of the last change, and limits in JSON: seconds, bytes of memory
    """
    path, size, modified, limits = argv[0], int(argv[1]), int(argv[2]), json.loads(argv[3])
    signal.alarm(int(limits["seconds"]) + _GRACE)
    resource.setrlimit(resource.RLIMIT_DATA, (limits["memory"], limits["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What is printed is no record.
    out = os.dup(1)
    os.dup2(2, 1)
    from ..report.document import json_text, to_document
    from ..target import without_plugins

    without_plugins()

    text = json_text(to_document(audit_dump(path, size, modified)))
    with os.fdopen(out, "w", encoding="ascii") as file:
        file.write(text)
    return 0


def audit_dump(path: str, size: int, modified: int) -> SurveyRecord:
    """
    Audit a dump, and return its record.

    :param size, modified: of the file, as its record has them
    """
    from ..report.documents.summary import timestamp
    from ..report.documents.survey import SurveyRecord
    from ..report.words import safe
    from ..target import open_core

    watch = Stopwatch()
    try:
        target = open_core(path)
        # Most files that are no good dumps do not come here, which numpy's import would slow down.
        from ..machine import Kernel

        kernel = Kernel.open(lambda: target)
    except Exception as e:
        time = timestamp(watch.started)
        return SurveyRecord.failed(
            safe(path), size, modified, error=_error(e), time=time, seconds=watch.seconds
        )
    return _record(kernel, safe(path), size, modified, watch)


def _record(kernel: Kernel, path: str, size: int, modified: int, watch: Stopwatch) -> SurveyRecord:
    from ..audits import hugetlb, memmap, page, pagemaps
    from ..report.documents.memmap import MemmapReport
    from ..report.documents.pgmap import Report
    from ..report.documents.summary import timestamp
    from ..report.documents.survey import SurveyAudit, SurveyRecord
    from ..report.words import verdict
    from ..rules.rule import Severity

    reports: list[TargetReport] = []
    audits: list[SurveyAudit] = []

    def make(name: str, audit: Callable[[], TargetReport]) -> TargetReport | None:
        part, error, report = Stopwatch(), None, None
        try:
            report = audit()
            reports.append(report)
        except Exception as e:
            error = _error(e)
        audits.append(SurveyAudit(audit=name, seconds=round(part.seconds, 6), error=error))
        return report

    pgmap: Any = make("pgmap", lambda: pagemaps.audit(kernel))
    make("hugetlb", lambda: hugetlb.audit(kernel))
    memory: Any = make("memmap", lambda: memmap.audit(kernel))
    assert pgmap is None or isinstance(pgmap, Report)
    assert memory is None or isinstance(memory, MemmapReport)
    part, error, reader = Stopwatch(), None, None
    numbers = _first_pages(pgmap)
    for number in numbers:
        try:
            # One walk over the vmemmap serves all of them.
            reader = reader or page.reader_of(kernel, numbers)
            reports.append(page.audit(kernel, number, "pfn", reader=reader))
        except UsageError:
            # The pagemap is wrong about it, which is a finding.
            continue
        except Exception as e:
            error = error or _error(e)
    audits.append(SurveyAudit(audit="page", seconds=round(part.seconds, 6), error=error))
    findings = _findings(reports)
    counted = {s: sum(one.severity is s for one in findings) for s in Severity}
    failed = [f"{one.audit}: {one.error}" for one in audits if one.error]
    not_read = tuple(dict.fromkeys(what for one in reports for what in one.not_read))
    if not reports:
        status = ExitStatus.CANNOT_AUDIT
    elif counted[Severity.ERROR]:
        status = ExitStatus.FINDINGS
    else:
        status = ExitStatus.PARTIAL if not_read or failed else ExitStatus.SOUND
    partial = bool(not_read or failed)
    return SurveyRecord(
        path=path,
        size=size,
        modified=modified,
        time=timestamp(watch.started),
        status=int(status),
        verdict=verdict(counted, partial) if reports else "not audited",
        error="; ".join(failed) or None,
        osrelease=kernel.target.osrelease,
        arch=kernel.arch.name,
        errors=counted[Severity.ERROR],
        warnings=counted[Severity.WARNING],
        notes=counted[Severity.NOTE],
        bugs=tuple(sorted({bug.bug for one in reports for bug in getattr(one, "bugs", ())})),
        findings=tuple(sorted(findings, key=lambda one: one.severity)[:_LIMIT]),
        pagemaps=() if pgmap is None else _pagemaps(pgmap),
        not_read=not_read[:_LIMIT],
        memmap_bytes=None if memory is None else memory.summary.frame_bytes,
        saved_bytes=None if memory is None else memory.summary.saved_bytes,
        audits=tuple(audits),
        seconds=round(watch.seconds, 6),
        memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
    )


def _first_pages(pgmap: Any) -> list[int]:
    """Return the first pfn of some pagemaps."""
    if pgmap is None:
        return []
    size = pgmap.target.page_size
    return [one.detail.ranges[0].start // size for one in pgmap.pagemaps if one.detail.ranges][
        :_PAGES
    ]


def _pagemaps(pgmap: Any) -> Any:
    from ..report.documents.survey import SurveyPagemap

    return tuple(
        SurveyPagemap(
            name=one.name,
            type=one.type,
            state=one.state,
            pages=one.vmemmap.pages,
            frames=one.frames.backing,
            saved_bytes=one.saved_bytes,
            savable_bytes=one.detail.savable_bytes,
        )
        for one in pgmap.pagemaps[:_LIMIT]
    )


def _findings(reports: list[TargetReport]) -> list[Any]:
    """Return the findings of all reports, each once: single pages have some of the others'."""
    from ..report.documents.page import PageReport
    from ..report.documents.pgmap import Report
    from ..report.documents.survey import SurveyFinding

    found: dict[tuple[object, ...], SurveyFinding] = {}
    for report in reports:
        if isinstance(report, Report):
            several: list[tuple[str | None, str | None, Finding]] = [
                (one.name, one.type, f) if one else (None, None, f)
                for one, f in report.all_findings()
            ]
        else:
            place = report.place if isinstance(report, PageReport) else None
            name, kind = (place.name, place.type) if place else (None, None)
            several = [(name, kind, f) for f in report.findings]
        for name, kind, f in several:
            key = f.rule, f.vaddr, f.pfn, *(() if f.vaddr or f.pfn else (report.audit, f.message))
            one = SurveyFinding(
                audit=report.audit,
                rule=f.rule,
                severity=f.severity,
                pagemap=name,
                type=kind,
                vaddr=f.vaddr,
                pfn=f.pfn,
                message=f.message,
            )
            found.setdefault(key, one)
    return list(found.values())


def _error(e: Exception) -> str:
    if isinstance(e, MemoryError):
        return "its audit needs more memory than the limit"
    text = str(e) if isinstance(e, VmemscopeError) else internal_error(e)
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
