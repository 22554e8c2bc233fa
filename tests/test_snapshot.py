# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading documents back: what was written comes back, what is not sound is refused in a line."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from vmemscope.errors import TargetError
from vmemscope.report import read_report, render_json, to_document
from vmemscope.report.documents.pgmap import Report
from vmemscope.sim.image import Image

from .report.builders import (
    ALTMAP,
    OUTCOMES,
    finding,
    hostile,
    of_every_kind,
    pagemap_report,
    report,
)

Audited = Callable[[str, str], tuple[Report, Image]]
FIXTURES = Path(__file__).parent.parent / "fixtures"


def document() -> dict[str, Any]:
    one = pagemap_report(findings=(finding(),), outcomes=OUTCOMES, altmap=ALTMAP)
    whole = report(one, findings=(finding("xarray"),), outcomes=OUTCOMES[:1], not_read=("a: 1",))
    loaded: dict[str, Any] = json.loads(render_json(whole))
    return loaded


def written(whole: Report) -> Report:
    """Leave out what no document has."""
    return replace(whole, pagemaps=tuple(replace(one, detail=UNSET) for one in whole.pagemaps))


def read(value: object) -> object:
    return read_report(json.dumps(value).encode(), "a.json")


def complaint(data: bytes) -> str | None:
    """Get what is said of a document, ``None`` if it can be read."""
    try:
        read_report(data, "a.json")
    except TargetError as e:
        return str(e)
    return None


def refused(data: bytes) -> str:
    text = complaint(data)
    assert text is not None
    assert text.startswith("a.json is no report: ")
    assert "\n" not in text
    assert len(text) < 300
    return text


def test_what_was_written_comes_back() -> None:
    whole = report(
        *of_every_kind(),
        pagemap_report(None, ranges=(), shift=None, state="unreadable", reason="gone", first=()),
        findings=(finding("xarray", vaddr=None, pfn=None, expected=None, observed=-1),),
        outcomes=OUTCOMES,
        not_read=("page tables: 3",),
    )
    assert read_report(render_json(whole).encode(), "vmcore") == written(whole)


@pytest.mark.parametrize("scenario", ["mixed", "several-faults", "unreadable-table", "empty"])
def test_real_reports_come_back(audited: Audited, scenario: str) -> None:
    path = FIXTURES / f"{scenario}.toml"
    whole, _ = audited(str(path) if path.exists() else scenario, "7.2")
    back = read_report(render_json(whole).encode(), whole.target.path)
    assert back == written(whole)


def test_first_documents_had_no_rules() -> None:
    old = document()
    del old["rules"], old["pgmaps"][0]["rules"]
    for name in ("rules_checked", "rules_skipped", "rules_failed"):
        del old["summary"][name]
    back = read_report(json.dumps(old).encode(), "a.json")
    assert back.outcomes == back.pagemaps[0].outcomes == ()
    assert back.pagemaps[0].findings


def test_fields_of_the_future_are_ignored() -> None:
    newer = document()
    newer["more"] = newer["pgmaps"][0]["more"] = {"deep": [1, None]}
    newer["pgmaps"][0]["type"] = "cxl"
    assert read(newer) != read(document())


def test_document_of_one_pagemap_is_refused() -> None:
    several = of_every_kind()
    text = json.dumps(to_document(report(*several), several[0]))
    assert "it has 1 of 5 pagemaps" in refused(text.encode())


def test_text_is_escaped() -> None:
    bad = document()
    bad["pgmaps"][0]["name"] = bad["target"]["osrelease"] = hostile()
    bad["pgmaps"][0]["findings"][0]["observed"] = hostile()
    back = read_report(json.dumps(bad).encode(), "a.json")
    [one] = back.pagemaps
    assert one.name is not None
    assert one.name.isprintable()
    assert back.target.osrelease.isprintable()
    assert str(one.findings[0].observed).isprintable()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"null",
        b'"text"',
        b"\xff\xfe{",
        b"\x00" * 100,
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"schema": NaN}',
        b'{"schema": 1e999}',
        b'{"schema": ' + b"9" * 10_000 + b"}",
        b'{"schema": "vmemscope.pgmap/2"}',
        b'{"schema": "' + b"a" * 100_000 + b'"}',
        b'{"schema": "a\\u001b[2J\\ud800"}',
        b'{"schema": "vmemscope.pgmap/1", "target": []}',
    ],
    ids=repr,
)
def test_no_document(data: bytes) -> None:
    refused(data)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(child, (*path, key))


PLACES = list(places(document()))
NASTY = [
    None, True, False, 0, -1, 1 << 64, -(1 << 64), 1.5, 10**400, "", "0x", "0xg", "0X10", "-0x1",
    "0x" + "f" * 17, "\x1b[2J", "\ud800", "error", [], {}, [[]], [None], {"a": 1}, [{}] * 3,
]  # fmt: skip


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_any_value_anywhere_is_read_or_refused(path: tuple[Any, ...]) -> None:
    refusals = 0
    for value in NASTY:
        changed = document()
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = copy.deepcopy(value)
        if complaint(json.dumps(changed).encode()) is not None:
            refused(json.dumps(changed).encode())
            refusals += 1
    # What is compared is refused when it is something else.
    compared = path[0] in ("schema", "pgmaps", "findings", "rules") or path[:2] in (
        ("target", "osrelease"), ("summary", "pagemaps"), ("summary", "not_read"),
    )  # fmt: skip
    ignored = {"altmap", "compound_size", "expected", "sharing", "leaf_sizes", "pages"}
    if compared and not ignored & set(path):
        assert refusals > 3


def test_missing_fields_are_named() -> None:
    for path in PLACES:
        changed = document()
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        if not isinstance(holder, dict):
            continue
        del holder[path[-1]]
        text = complaint(json.dumps(changed).encode())
        assert text is None or repr(path[-1]) in text or "pagemaps" in text


def test_mutilated_bytes_are_read_or_refused() -> None:
    rng = random.Random(4)
    whole = json.dumps(document()).encode()
    read, not_read = 0, 0
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(0, 3)] = rng.randbytes(rng.randrange(0, 3))
        text = complaint(bytes(data))
        read += text is None
        not_read += text is not None and text.startswith("a.json is no report: ")
    assert read + not_read == 2000
    assert min(read, not_read) > 100
