# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The JSON document ``vmemscope.pgmap/1``, described in ``docs/json.md``.

Addresses, virtual and physical, are hex strings; page frame numbers, counts
and sizes in bytes are integers; what could not be read is null.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TextIO

from .. import __version__
from ..rules.findings import Outcome
from ..text import hexadecimal
from .words import safe, tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..kernel.dev_pagemap import Altmap
    from ..rules.findings import Finding, RuleOutcome
    from .documents.pgmap import PagemapReport, Report, TargetInfo, VmemmapCounts

__all__ = (
    "SCHEMA",
    "closing_object",
    "counts_object",
    "dump_json",
    "finding_object",
    "head_object",
    "json_text",
    "outcome_object",
    "render_json",
    "schema_text",
    "target_object",
    "timings_object",
    "to_document",
)

#: identifier of this version of the document
SCHEMA = "vmemscope.pgmap/1"

_PHASES = ("attach", "types", "pagemaps", "walk", "frames", "contents", "audit")


def schema_text(schema: str = SCHEMA) -> str:
    """
    Get the JSON Schema (2020-12) of a document, as text.

    :param schema: identifier of the document, ``vmemscope.NAME/VERSION``
    """
    from importlib import resources

    name, version = schema.removeprefix("vmemscope.").split("/")
    file = resources.files(__package__) / "schema" / f"{name}-{version}.schema.json"
    return file.read_text(encoding="utf-8")


def to_document(report: Report, only: PagemapReport | None = None) -> dict[str, Any]:
    """
    Turn a report into the JSON document, as plain dictionaries and lists.

    :param only: leave all other pagemaps out; all else still is of the whole audit
    """
    return {
        **head_object(SCHEMA),
        "target": target_object(report.target),
        "pgmaps": [_pgmap(one) for one in (report.pagemaps if only is None else (only,))],
        "findings": [finding_object(finding) for finding in report.findings],
        "rules": [outcome_object(outcome) for outcome in report.outcomes],
        "summary": _summary(report),
        "timings": timings_object(report.timings, _PHASES),
    }


def head_object(schema: str) -> dict[str, Any]:
    """
    Say what a document is, and what wrote it: how each starts.

    :param schema: its identifier
    """
    return {"schema": schema, "tool": {"name": "vmemscope", "version": __version__}}


def closing_object(findings: Iterable[Finding], not_read: Iterable[str]) -> dict[str, Any]:
    """Count findings and say what could not be read: how the summary of a document ends."""
    counted = tally(findings)
    return {
        **{f"{severity}s": counted[severity] for severity in counted},
        "not_read": [safe(what) for what in not_read],
    }


def timings_object(timings: Mapping[str, float], phases: Iterable[str]) -> dict[str, float]:
    """Turn seconds per phase into an object, with 0 for a phase that was not come to."""
    return {phase: round(timings.get(phase, 0.0), 6) for phase in phases}


def target_object(target: TargetInfo) -> dict[str, Any]:
    """Turn what was looked at into its object in a document."""
    return {
        "kind": target.kind,
        "path": safe(target.path),
        "osrelease": safe(target.osrelease),
        "arch": target.arch,
        "page_size": target.page_size,
        "struct_page_size": target.struct_page_size,
        "types": target.types,
    }


def _pgmap(one: PagemapReport) -> dict[str, Any]:
    return {
        "address": hexadecimal(one.address),
        "name": None if one.name is None else safe(one.name),
        "type": one.pagemap.type,
        "vmemmap_shift": one.pagemap.vmemmap_shift,
        "compound_size": one.compound_size,
        "altmap": None if one.altmap is None else _altmap(one.altmap),
        "ranges": [
            {"start": hexadecimal(r.start), "end": hexadecimal(r.end)} for r in one.pagemap.ranges
        ],
        "vmemmap": _vmemmap(one.vmemmap),
        "frames": {
            "backing": one.frames.backing,
            "expected": one.frames.expected,
            "sharing": counts_object(one.frames.sharing),
        },
        "saved_bytes": one.saved_bytes,
        "state": one.state,
        "reason": None if one.reason is None else safe(one.reason),
        "findings": [finding_object(finding) for finding in one.findings],
        "rules": [outcome_object(outcome) for outcome in one.outcomes],
    }


def _altmap(altmap: Altmap) -> dict[str, int]:
    return {
        "base_pfn": altmap.base_pfn,
        "end_pfn": altmap.end_pfn,
        "reserve": altmap.reserve,
        "free": altmap.free,
        "align": altmap.align,
        "alloc": altmap.alloc,
    }


def _vmemmap(vmemmap: VmemmapCounts) -> dict[str, Any]:
    # A pagemap without a valid range has no part of the vmemmap.
    known = vmemmap.pages > 0
    return {
        "start": hexadecimal(vmemmap.start) if known else None,
        "end": hexadecimal(vmemmap.end) if known else None,
        "pages": vmemmap.pages,
        "mapped": vmemmap.mapped,
        "unmapped": vmemmap.unmapped,
        "unreadable": vmemmap.unreadable,
        "leaf_sizes": counts_object(vmemmap.leaf_sizes),
    }


def counts_object(counts: Mapping[int, int]) -> dict[str, int]:
    """Turn counts by number into an object, in order."""
    return {str(key): counts[key] for key in sorted(counts)}


def finding_object(finding: Finding) -> dict[str, Any]:
    """Turn a finding into its object in a document."""
    return {
        "rule": finding.rule,
        "severity": str(finding.severity),
        "vaddr": hexadecimal(finding.vaddr),
        "pfn": finding.pfn,
        "expected": _value(finding.expected),
        "observed": _value(finding.observed),
        "message": safe(finding.message),
    }


def outcome_object(outcome: RuleOutcome) -> dict[str, Any]:
    """Turn what came of a rule into its object in a document."""
    return {
        "rule": outcome.rule,
        "outcome": outcome.outcome.value,
        "reason": None if outcome.reason is None else safe(outcome.reason),
        "violations": outcome.violations,
    }


def _value(value: str | int | None) -> str | int | None:
    return safe(value) if isinstance(value, str) else value


def _summary(report: Report) -> dict[str, Any]:
    summary, rules = report.summary, report.outcome_counts()
    return {
        "pagemaps": summary.pagemaps,
        "vmemmap_pages": summary.vmemmap_pages,
        "backing_frames": summary.backing_frames,
        "saved_bytes": summary.saved_bytes,
        "savable_bytes": summary.savable_bytes,
        "errors": summary.errors,
        "warnings": summary.warnings,
        "notes": summary.notes,
        "rules_checked": rules[Outcome.CHECKED],
        "rules_skipped": rules[Outcome.SKIPPED],
        "rules_failed": rules[Outcome.FAILED],
        "refcounts_checked": summary.refcounts_checked,
        "refcounts_unreadable": summary.refcounts_unreadable,
        "contents": summary.contents,
        "compounds": summary.compounds,
        "compounds_checked": summary.compounds_checked,
        "compounds_unreadable": summary.compounds_unreadable,
        "base_pages": summary.base_pages,
        "base_pages_checked": summary.base_pages_checked,
        "base_pages_unreadable": summary.base_pages_unreadable,
        "not_read": [safe(what) for what in summary.not_read],
    }


def dump_json(document: dict[str, Any], file: TextIO) -> None:
    """Write a document to an open text file, ended by a newline."""
    file.write(json_text(document))


def render_json(report: Report, only: PagemapReport | None = None) -> str:
    """
    Turn a report into the text of the JSON document.

    :param only: leave all other pagemaps out; all else still is of the whole audit
    """
    return json_text(to_document(report, only))


def json_text(document: dict[str, Any]) -> str:
    """Turn any of the documents into text, ended by a newline."""
    # ASCII, so that no locale and no terminal makes anything else of it.
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
