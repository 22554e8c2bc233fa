# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The JSON document ``vmemscope.pgmap/1``, described in ``docs/json.md``.

Addresses, virtual and physical, are hex strings; page frame numbers, counts
and sizes in bytes are integers; what could not be read is null.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any, TextIO

from .. import __version__
from ..text import hexadecimal
from .words import safe

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..findings import Finding
    from ..kernel.dev_pagemap import Altmap
    from ..model import PagemapReport, Report, Summary, TargetInfo, VmemmapCounts

__all__ = ("SCHEMA", "dump_json", "render_json", "schema_text", "to_document")

#: identifier of this version of the document
SCHEMA = "vmemscope.pgmap/1"

_SCHEMA_FILE = "pgmap-1.schema.json"
_PHASES = ("attach", "types", "walk", "frames", "audit")


def schema_text() -> str:
    """Get the JSON Schema (2020-12) of the document, as text."""
    schema = resources.files(__package__) / "schema" / _SCHEMA_FILE
    return schema.read_text(encoding="utf-8")


def to_document(report: Report, only: PagemapReport | None = None) -> dict[str, Any]:
    """
    Turn a report into the JSON document, as plain dictionaries and lists.

    :param only: leave all other pagemaps out; all else still is of the whole audit
    """
    return {
        "schema": SCHEMA,
        "tool": {"name": "vmemscope", "version": __version__},
        "target": _target(report.target),
        "pgmaps": [_pgmap(one) for one in (report.pagemaps if only is None else (only,))],
        "findings": [_finding(finding) for finding in report.findings],
        "summary": _summary(report.summary),
        "timings": {phase: round(report.timings.get(phase, 0.0), 6) for phase in _PHASES},
    }


def _target(target: TargetInfo) -> dict[str, Any]:
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
            "sharing": _counts(one.frames.sharing),
        },
        "saved_bytes": one.saved_bytes,
        "state": one.state,
        "reason": None if one.reason is None else safe(one.reason),
        "findings": [_finding(finding) for finding in one.findings],
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
        "leaf_sizes": _counts(vmemmap.leaf_sizes),
    }


def _counts(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(key): counts[key] for key in sorted(counts)}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "rule": finding.rule,
        "severity": str(finding.severity),
        "vaddr": hexadecimal(finding.vaddr),
        "pfn": finding.pfn,
        "expected": _value(finding.expected),
        "observed": _value(finding.observed),
        "message": safe(finding.message),
    }


def _value(value: str | int | None) -> str | int | None:
    return safe(value) if isinstance(value, str) else value


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "pagemaps": summary.pagemaps,
        "vmemmap_pages": summary.vmemmap_pages,
        "backing_frames": summary.backing_frames,
        "saved_bytes": summary.saved_bytes,
        "savable_bytes": summary.savable_bytes,
        "errors": summary.errors,
        "warnings": summary.warnings,
        "notes": summary.notes,
        "refcounts_checked": summary.refcounts_checked,
        "refcounts_unreadable": summary.refcounts_unreadable,
        "compounds": summary.compounds,
        "compounds_checked": summary.compounds_checked,
        "compounds_unreadable": summary.compounds_unreadable,
        "not_read": [safe(what) for what in summary.not_read],
    }


def dump_json(document: dict[str, Any], file: TextIO) -> None:
    """Write a document to an open text file, ended by a newline."""
    file.write(_text(document))


def render_json(report: Report, only: PagemapReport | None = None) -> str:
    """
    Turn a report into the text of the JSON document.

    :param only: leave all other pagemaps out; all else still is of the whole audit
    """
    return _text(to_document(report, only))


def _text(document: dict[str, Any]) -> str:
    # ASCII, so that no locale and no terminal makes anything else of it.
    return json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
