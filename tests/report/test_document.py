# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JSON document: names, units, nulls, and that the schema says the same."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace

from vmemscope import __version__
from vmemscope import report as reports
from vmemscope.report.documents.pgmap import Altmap, FrameCounts, Range
from vmemscope.report.schema import FILES, schema_of
from vmemscope.rules.rule import Severity

from .builders import (
    ALTMAP,
    OUTCOMES,
    TARGET,
    finding,
    hostile,
    of_every_kind,
    pagemap_report,
    report,
)

DOCS = Path(__file__).parents[2] / "docs" / "json.md"
SCHEMA = json.loads(reports.schema_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def only_pgmap(**changes: Any) -> dict[str, Any]:
    document = reports.to_document(report(pagemap_report(**changes)))
    VALIDATOR.validate(document)
    [pgmap] = document["pgmaps"]
    assert isinstance(pgmap, dict)
    return pgmap


def objects(schema: Any) -> list[dict[str, Any]]:
    """Get all schemas of objects with properties in a schema."""
    found = [schema] if isinstance(schema, dict) and "properties" in schema else []
    children = schema.values() if isinstance(schema, dict) else schema
    if isinstance(schema, (dict, list)):
        found += [one for child in children for one in objects(child)]
    return [one for one in found if "type" in one]


def example() -> Any:
    match = re.search(r"## Example.*?```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    assert match is not None
    return json.loads(match[1])


#: fields that documents of some kernels do not have
OPTIONAL = {"device_frames", "device_tails", "shared_pages"}


def test_schema_itself_is_sound() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert SCHEMA["$defs"]["Report"]["properties"]["schema"] == {"enum": ["vmemscope.pgmap/1"]}


@pytest.mark.parametrize("name", FILES)
def test_schemas_are_made_of_the_types(name: str) -> None:
    # python -m vmemscope.report.schema --write
    assert FILES[name].read_text("utf-8") == schema_of(name)
    for one in objects(json.loads(schema_of(name))):
        assert one["additionalProperties"] is False
        assert sorted(one["required"]) == sorted(one["properties"].keys() - OPTIONAL)


def test_schema_is_strict_everywhere() -> None:
    found = objects(SCHEMA)
    assert len(found) == 17
    for one in found:
        assert one["additionalProperties"] is False
        assert sorted(one["required"]) == sorted(one["properties"].keys() - OPTIONAL)


def test_document_has_the_fields_that_were_agreed_on() -> None:
    document = reports.to_document(report(*of_every_kind(), findings=(finding("xarray"),)))
    VALIDATOR.validate(document)
    assert list(document) == [
        "schema", "tool", "target", "pgmaps", "no_pagemaps", "bugs", "findings", "rules",
        "summary", "timings",
    ]  # fmt: skip
    assert document["schema"] == "vmemscope.pgmap/1"
    assert document["tool"] == {"name": "vmemscope", "version": __version__}
    assert document["target"] == {
        "kind": "core",
        "path": "vmcore",
        "osrelease": "6.1.0-56-amd64",
        "arch": "x86_64",
        "page_size": 4096,
        "struct_page_size": 64,
        "types": "btf",
    }
    assert document["timings"] == {
        "attach": 0.02, "types": 0.1, "pagemaps": 0.06, "walk": 0.03, "frames": 0.04,
        "contents": 0.05, "audit": 0.01,
    }  # fmt: skip
    assert [f["rule"] for f in document["findings"]] == ["xarray"]


def test_pagemap() -> None:
    one = pagemap_report(findings=(finding(),), outcomes=OUTCOMES)
    [pgmap] = reports.to_document(report(one))["pgmaps"]
    assert pgmap == {
        "address": "0xffff888101234000",
        "name": "dax0.0",
        "type": "generic",
        "vmemmap_shift": 9,
        "compound_size": 2 << 20,
        "altmap": None,
        "ranges": [{"start": "0x140000000", "end": "0x15fffffff"}],
        "vmemmap": {
            "start": "0xffffea0005000000",
            "end": "0xffffea0005800000",
            "pages": 2048,
            "mapped": 2048,
            "unmapped": 0,
            "unreadable": 0,
            "leaf_sizes": {"4096": 2048},
        },
        "frames": {
            "backing": 512,
            "expected": 512,
            "sharing": {"1": 256, "7": 256},
            "on_device": 0,
            "elsewhere": 0,
        },
        "saved_bytes": 6 << 20,
        "state": "deduplicated",
        "reason": None,
        "findings": [
            {
                "rule": "refcount-low",
                "severity": "error",
                "vaddr": "0xffffea0005001000",
                "pfn": 0x11,
                "expected": 7,
                "observed": 6,
                "message": "7 entries map the frame, its reference count is 6",
            }
        ],
        "rules": [
            {"rule": "hole", "outcome": "checked", "reason": None, "violations": 0},
            {
                "rule": "altmap-frame",
                "outcome": "skipped",
                "reason": "no altmap",
                "violations": 0,
            },
            {"rule": "refcount-low", "outcome": "failed", "reason": None, "violations": 1},
        ],
    }


def test_altmap() -> None:
    pgmap = only_pgmap(altmap=ALTMAP, state="not-optimized", reason="altmap")
    assert pgmap["altmap"] == {
        "base_pfn": 0x120000, "end_pfn": 0x14FFFF, "reserve": 2,
        "free": 0xDFE, "align": 0x1FE, "alloc": 0xC00,
    }  # fmt: skip


def test_counts_are_in_order_of_their_numbers() -> None:
    pgmap = only_pgmap(
        sharing={4095: 1, 7: 1, 1: 3, 10: 2}, leaf_sizes={2 << 20: 3, 4096: 5, 1 << 30: 1}
    )
    assert list(pgmap["frames"]["sharing"].items()) == [("1", 3), ("7", 1), ("10", 2), ("4095", 1)]
    assert list(pgmap["vmemmap"]["leaf_sizes"]) == ["4096", str(2 << 20), str(1 << 30)]


def test_all_ranges_are_there_and_not_just_those_that_make_sense() -> None:
    one = pagemap_report()
    broken = Range(0xFFFFFFFFFFFFF000, 0xFFF)
    one = replace(one, ranges=(*one.ranges, broken))
    document = reports.to_document(report(one))
    VALIDATOR.validate(document)
    assert document["pgmaps"][0]["ranges"] == [
        {"start": "0x140000000", "end": "0x15fffffff"},
        {"start": "0xfffffffffffff000", "end": "0xfff"},
    ]


def test_unreadable_pagemap_has_nulls_and_a_reason() -> None:
    one = pagemap_report(
        None,
        ranges=(),
        shift=None,
        sharing={},
        leaf_sizes={},
        kind="unknown",
        state="unreadable",
        reason="struct dev_pagemap can't be read",
        first=(),
    )
    one = replace(one, compound_size=None, frames=FrameCounts(0, None, {}, 0, 0))
    document = reports.to_document(report(one, not_read=("struct dev_pagemap can't be read: 1",)))
    VALIDATOR.validate(document)
    [pgmap] = document["pgmaps"]
    assert [key for key, value in pgmap.items() if value is None] == [
        "name", "vmemmap_shift", "compound_size", "altmap",
    ]  # fmt: skip
    assert pgmap["vmemmap"]["start"] is pgmap["vmemmap"]["end"] is None
    assert pgmap["frames"] == {
        "backing": 0, "expected": None, "sharing": {}, "on_device": 0, "elsewhere": 0,
    }  # fmt: skip
    assert pgmap["reason"] == "struct dev_pagemap can't be read"
    assert document["summary"]["not_read"] == ["struct dev_pagemap can't be read: 1"]


def test_finding_without_a_place() -> None:
    bare = finding(vaddr=None, pfn=None, expected=None, observed="0x10")
    document = reports.to_document(report(findings=(bare,)))
    VALIDATOR.validate(document)
    [told] = document["findings"]
    assert (told["vaddr"], told["pfn"], told["expected"], told["observed"]) == (
        None, None, None, "0x10",
    )  # fmt: skip


def test_summary() -> None:
    document = reports.to_document(report(*of_every_kind(), refcounts_unreadable=3))
    assert document["summary"]["vmemmap_pages"] == 2048 + 2048 + 11264 + 3072 + 1536
    assert document["summary"]["refcounts_unreadable"] == 3
    assert document["summary"]["errors"] == 2


def test_rules_are_counted_for_each_pagemap_and_for_the_target() -> None:
    several = [pagemap_report(outcomes=OUTCOMES), pagemap_report(outcomes=OUTCOMES[:2])]
    document = reports.to_document(report(*several, outcomes=OUTCOMES[1:2]))
    VALIDATOR.validate(document)
    summary = document["summary"]
    counts = [summary[f"rules_{outcome}"] for outcome in ("checked", "skipped", "failed")]
    assert counts == [2, 3, 1]
    assert [one["rule"] for one in document["rules"]] == ["altmap-frame"]


def test_phases_that_were_not_timed_took_no_time() -> None:
    document = reports.to_document(report(timings={"walk": 0.1234567890, "other": 1.0}))
    VALIDATOR.validate(document)
    assert document["timings"] == {
        "attach": 0.0, "types": 0.0, "pagemaps": 0.0, "walk": 0.123457, "frames": 0.0,
        "contents": 0.0, "audit": 0.0,
    }  # fmt: skip


def test_one_pagemap_alone() -> None:
    one, other, *_ = of_every_kind()
    document = json.loads(reports.render_json(report(one, other), other))
    VALIDATOR.validate(document)
    assert [pgmap["name"] for pgmap in document["pgmaps"]] == ["namespace1.0"]
    assert document["summary"]["pagemaps"] == 2


def test_nothing_hostile_gets_through() -> None:
    bad = hostile()
    one = pagemap_report(
        bad,
        state="partial",
        reason=bad,
        findings=(finding(message=bad, expected=bad, observed=bad),),
    )
    target = replace(TARGET, path=bad, osrelease=bad)
    document = reports.to_document(report(one, target=target, not_read=(bad,)))
    VALIDATOR.validate(document)
    escaped = r"a\x1b[2J\nb\x9b1m\u202e\x7f\xff"
    assert document["target"]["path"] == document["target"]["osrelease"] == escaped
    assert document["summary"]["not_read"] == [escaped]
    [pgmap] = document["pgmaps"]
    assert pgmap["name"] == pgmap["reason"] == escaped
    assert {pgmap["findings"][0][key] for key in ("message", "expected", "observed")} == {escaped}
    text = reports.render_json(report(one, target=target))
    assert text.isascii()
    assert all(char.isprintable() or char == "\n" for char in text)


def test_text_is_the_document_and_ends_in_a_newline() -> None:
    whole = report(*of_every_kind())
    text = reports.render_json(whole)
    assert text.endswith("}\n")
    assert json.loads(text) == reports.to_document(whole)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema",), "vmemscope.pgmap/2"),
        (("extra",), 1),
        (("target", "kind"), "sim"),
        (("target", "types"), "ctf"),
        (("pgmaps", 0, "address"), 0xFFFF888101234000),
        (("pgmaps", 0, "address"), "ffff888101234000"),
        (("pgmaps", 0, "address"), "0xFFFF888101234000"),
        (("pgmaps", 0, "ranges", 0, "end"), "0x10000000000000000"),
        (("pgmaps", 0, "ranges", 0, "start"), "0x0140000000"),
        (("pgmaps", 0, "type"), "devdax"),
        (("pgmaps", 0, "state"), "sound"),
        (("pgmaps", 0, "reason"), "sound pagemaps have no reason"),
        (("pgmaps", 0, "vmemmap", "pages"), -1),
        (("pgmaps", 0, "vmemmap", "pages"), 1.5),
        (("pgmaps", 0, "vmemmap", "leaf_sizes"), {"0x1000": 1}),
        (("pgmaps", 0, "frames", "sharing"), {"0": 1}),
        (("pgmaps", 0, "name"), "a\x1bb"),
        (("findings", 0, "severity"), "fatal"),
        (("findings", 0, "rule"), "Refcount low"),
        (("findings", 0, "pfn"), "0x11"),
        (("timings", "walk"), None),
    ],
)
def test_schema_refuses(path: tuple[str | int, ...], value: Any) -> None:
    document = reports.to_document(report(pagemap_report(), findings=(finding(),)))
    VALIDATOR.validate(document)
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert not VALIDATOR.is_valid(document)


def test_schema_wants_a_reason_for_all_that_is_not_deduplicated() -> None:
    document = reports.to_document(report(pagemap_report(state="partial", reason=None)))
    assert not VALIDATOR.is_valid(document)


@pytest.mark.parametrize("severity", list(Severity))
def test_severities(severity: Severity) -> None:
    document = reports.to_document(report(findings=(finding(severity=severity),)))
    VALIDATOR.validate(document)
    assert document["findings"][0]["severity"] == severity.name.lower()


def test_extreme_numbers() -> None:
    largest = (1 << 64) - 1
    altmap = Altmap(**dict.fromkeys(Altmap.__struct_fields__, largest))
    one = pagemap_report(altmap=altmap, state="not-optimized", reason="altmap")
    one = replace(one, address=largest, vmemmap_shift=largest, compound_size=None)
    document = reports.to_document(report(one))
    VALIDATOR.validate(document)
    [pgmap] = json.loads(json.dumps(document))["pgmaps"]
    assert pgmap["address"] == "0xffffffffffffffff"
    assert pgmap["vmemmap_shift"] == pgmap["altmap"]["alloc"] == largest


def test_example_in_the_docs_fits_the_schema() -> None:
    """tests/test_docs.py compares it with what is written."""
    VALIDATOR.validate(example())


def test_docs_tell_of_every_field() -> None:
    text = DOCS.read_text(encoding="utf-8")
    names = {name for one in objects(SCHEMA) for name in one["properties"]}
    assert len(names) > 50
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def test_reports_need_nothing_heavy_until_they_are_asked() -> None:
    code = (
        "import sys, vmemscope.report as r; r.schema_text(); [getattr(r, x) for x in r.__all__];"
        " print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "vmemscope.report.table" in loaded
    assert not {"numpy", "drgn", "tabulate", "jsonschema"} & set(loaded)
