# SPDX-License-Identifier: LGPL-2.1-or-later
"""The catalogue as text and as a document."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from msgspec.structs import replace

from vmemscope.report import (
    render_bug,
    render_rule,
    render_rules,
    rule_list,
    schema_text,
    to_document,
)
from vmemscope.rules import RULES
from vmemscope.rules.bugs import BUGS, KnownBug
from vmemscope.rules.rule import Scope

DOCS = Path(__file__).parents[2] / "docs" / "rules.md"
SCHEMA = json.loads(schema_text("vmemscope.rules/1"))
ALL = list(RULES.values())


def test_document_of_all_rules() -> None:
    document = to_document(rule_list(ALL, BUGS))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    assert [rule["id"] for rule in document["rules"]] == list(RULES)
    by_id = {rule["id"]: rule for rule in document["rules"]}
    assert by_id["xarray"]["scope"] == ["pagemap", "target"]
    assert by_id["tail-frame"]["since"] == "5.19"
    assert by_id["tail-frame"]["archs"] == ["x86_64", "riscv64", "ppc64le"]
    assert [bug["id"] for bug in document["bugs"]] == [bug.id for bug in BUGS]
    by_id = {bug["id"]: bug for bug in document["bugs"]}
    assert by_id["hugetlb-restore"]["versions"] == "since 6.12.114, not fixed in 6.12.118"
    assert by_id["hugetlb-restore"]["seen"] == "6.12.117, 6.12.118"
    assert by_id["mask-unaligned"]["explains"] == ["mask-alignment", "compound-head"]
    assert {rule for bug in document["bugs"] for rule in bug["explains"]} <= set(RULES)


def test_every_scope_has_a_name() -> None:
    every = Scope(0)
    for scope in Scope:
        every |= scope
    [rule] = to_document(rule_list([replace(ALL[0], scope=every)], ()))["rules"]
    assert len(rule["scope"]) == len(Scope)


def test_docs_tell_of_every_field() -> None:
    text = DOCS.read_text(encoding="utf-8")
    fields = SCHEMA["$defs"]["ListedRule"]["properties"]
    for name in (*fields, "bugs", *SCHEMA["$defs"]["ListedBug"]["properties"]):
        assert f"`{name}`" in text, name
    assert [one for one in fields["scope"]["items"]["enum"] if f"`{one}`" not in text] == []


@pytest.mark.parametrize("width", [40, 80, 200])
def test_list_has_a_line_for_each_within_the_width(width: int) -> None:
    lines = render_rules(ALL, BUGS, width).splitlines()
    starts = [line for line in lines if not line.startswith(" ")]
    end = starts.index("")
    assert [line.split()[0] for line in starts[:end]] == list(RULES)
    assert [line.split()[1] for line in starts[:end]] == [str(rule.severity) for rule in ALL]
    assert [line.split()[0] for line in starts[end + 2 :]] == [bug.id for bug in BUGS]
    narrow = max(len(rule.id) for rule in ALL) + 11 + 20
    assert max(map(len, lines)) <= max(width, narrow)


def test_rule_is_explained() -> None:
    rule = RULES["section-alignment"]
    text = render_rule(rule, 80)
    flat = " ".join(text.split())
    for part in (rule.holds, rule.meaning, rule.look_at, rule.source, "5.19+, x86_64, riscv64"):
        assert " ".join(part.split()) in flat
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("bug", BUGS, ids=[bug.id for bug in BUGS])
def test_bug_is_explained(bug: KnownBug) -> None:
    text = render_bug(bug, 80)
    flat = " ".join(text.split())
    for part in (bug.title, bug.versions, bug.seen, bug.meaning, *bug.explains, bug.action[1:]):
        assert " ".join(part.split()) in flat
    assert max(map(len, text.splitlines())) <= 80


def test_documented_bugs_are_those_of_the_catalogue() -> None:
    rows = [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in DOCS.read_text(encoding="utf-8").partition("## Known bugs")[2].splitlines()
        if line.startswith("| `")
    ]
    assert rows == [[bug.id, bug.title, bug.versions, bug.seen] for bug in BUGS]


def test_until_is_told() -> None:
    text = render_rule(replace(RULES["hole"], since="5.19", until="7.0"), 100)
    assert "Linux 5.19 to 7.0, all architectures" in text
