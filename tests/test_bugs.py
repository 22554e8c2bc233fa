# SPDX-License-Identifier: LGPL-2.1-or-later
"""Known bugs of kernels are recognised by all of their symptoms, and by nothing less."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from vmemscope.cli.main import main
from vmemscope.report import schema_text
from vmemscope.rules import RULES
from vmemscope.rules.bugs import BUGS, Symptoms, known_bugs

from .kernels import EARLY, FIXTURES, KERNELS, Dumps


def fault(compound: int, kind: str = "early-uninitialised") -> str:
    return f'[[fault]]\nkind = "{kind}"\npagemap = "dax0.0"\ncompound = {compound}\n'


def test_the_list() -> None:
    assert len({bug.id for bug in BUGS}) == len(BUGS)
    docs = (FIXTURES.parent / "docs" / "rules.md").read_text(encoding="utf-8")
    for bug in BUGS:
        assert {*bug.needs, *bug.explains} <= RULES.keys()
        assert set(bug.needs) <= set(bug.explains)
        assert f"`{bug.id}`" in docs


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("scenario", "bugs"),
    [
        ("mixed", {"7.2": "mask-unaligned"}),
        ("unaligned-1g", {"7.2": "mask-unaligned"}),
        ("unaligned-section-1g", dict.fromkeys(KERNELS, "section-unaligned")),
        ("early-1g", dict.fromkeys(KERNELS, "section-early")),
        ("devdax-2m", {}),
        ("early-section", {}),
        ("several-faults", {}),
        ("tail-wrong-head", {}),
        ("frame-poisoned", {}),
    ],
)
def test_layouts_that_kernels_get_wrong(
    dumps: Dumps, scenario: str, bugs: dict[str, str], kernel: str
) -> None:
    report = dumps.audited(scenario, kernel).pgmap
    found = [one.bug for one in report.bugs]
    assert found == ([bugs[kernel]] if kernel in bugs else [])
    for bug in report.bugs:
        (owner,) = [one for one in report.pagemaps if one.address == bug.pgmap]
        outcomes = {one.rule: one.violations for one in owner.outcomes}
        assert bug.symptoms
        assert {s.rule: s.violations for s in bug.symptoms}.items() <= outcomes.items()


@pytest.mark.parametrize("kind", ["early-uninitialised", "early-stale"])
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_all_compound_pages_of_a_section_from_boot(
    dumps: Dumps, kernel: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = EARLY + "".join(fault(compound, kind) for compound in range(32))
    report = dumps.audited(scenario, kernel).pgmap
    (bug,) = report.bugs
    assert bug.bug == "early-uninitialised"
    rules = {one.rule: one.violations for one in bug.symptoms}
    stale = {"compound-head": 32, "page-refcount": 32}
    assert rules == (stale if kind == "early-stale" else {"page-zone": 32})
    core = str(dumps.core(scenario, kernel))
    assert main(["pgmap", "--all", "-c", core]) == 1
    text = capsys.readouterr().out
    lines = [line for line in text.splitlines() if line.startswith("kernel bug ")]
    assert len(lines) == 1
    assert "fixed in 7.2, 6.12.97 and 6.1.184" in lines[0]
    # One line in place of many; the details stay where one asks for them.
    assert "error " not in text
    assert "findings that this explains are not listed" in text
    main(["pgmap", "dax0.0", "-c", core])
    text = capsys.readouterr().out
    assert text.count("error ") == 16 * len(rules)
    assert text.index(lines[0]) < text.index("error ")
    for form, start in (("ktap", "# "), ("markdown", "")):
        for which in ("--all", "dax0.0"):
            main(["pgmap", which, "-c", core, "--format", form])
            assert f"\n{start}{lines[0]}\n" in capsys.readouterr().out
    main(["pgmap", "--all", "-c", core, "--format", "json"])
    document = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(json.loads(schema_text("vmemscope.pgmap/1"))).validate(document)
    assert len(document["pgmaps"][0]["findings"]) == 16 * len(rules)
    assert document["bugs"][0]["bug"] == "early-uninitialised"


@pytest.mark.parametrize(
    "compounds", [range(1), range(31), (*range(16), *range(17, 32))], ids=["1", "31", "gap"]
)
def test_some_of_them_have_another_cause(dumps: Dumps, compounds: tuple[int, ...]) -> None:
    scenario = EARLY + "".join(fault(compound) for compound in compounds)
    report = dumps.audited(scenario, "6.12").pgmap
    assert report.bugs == ()
    assert len(report.pagemaps[0].findings) == min(len(compounds), 16)


def test_what_another_fault_breaks_is_still_listed(
    dumps: Dumps, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = (
        EARLY + "".join(fault(compound) for compound in range(32)) + fault(3, "head-flag-lost")
    )
    core = str(dumps.core(scenario, "6.12"))
    assert main(["pgmap", "--all", "-c", core]) == 1
    text = capsys.readouterr().out
    assert "kernel bug early-uninitialised" in text
    assert "error head-flag dax0.0" in text


def test_conditions() -> None:
    def found(symptoms: Symptoms) -> list[str]:
        return [bug.id for bug, _ in known_bugs(symptoms)]

    mask = {"mask-alignment": 1, "compound-head": 3}
    assert found(Symptoms(mask, 3)) == ["mask-unaligned"]
    assert found(Symptoms(mask, 4)) == []
    assert found(Symptoms({"mask-alignment": 1}, 3)) == []
    zone = {"page-zone": 30, "page-uninitialised": 2}
    assert found(Symptoms(zone, 32, 32, True)) == ["early-uninitialised"]
    assert found(Symptoms(zone, 32, 32, False)) == []
    ppc64 = {"page-uninitialised": 256, "not-deduplicated": 256}
    assert found(Symptoms(ppc64, 256, 0, True, True)) == ["radix-population"]
    assert found(Symptoms(ppc64, 256, 0, True, False)) == []
    assert found(Symptoms(ppc64, 256, 0, False, True)) == []
    assert found(Symptoms(ppc64, 257, 0, True, True)) == []
    assert found(Symptoms({"page-uninitialised": 256}, 256, 0, True, True)) == []
    stale = {"page-zone": 1, "compound-head": 31}
    assert found(Symptoms(stale, 32, 32, True)) == ["early-uninitialised"]
    assert found(Symptoms(stale, 32, 32, False)) == []
    assert found(Symptoms(zone, 40, 40, True)) == []
    tails = {"hugetlb-shared-tail": 2}
    assert found(Symptoms(tails, gigantic_tails=1)) == ["hugetlb-gigantic-boot"]
    assert found(Symptoms(tails, gigantic_tails=2)) == []
    assert found(Symptoms({"hugetlb-shared-tail": 3}, gigantic_tails=1)) == []
    assert found(Symptoms(tails)) == []
    assert found(Symptoms({})) == []


def test_hugetlb(dumps: Dumps) -> None:
    fixture: Path = FIXTURES / "hugetlb-restore.toml"
    text = '[[hugetlb]]\ncount = 3\n[[hugetlb_fault]]\nkind = "restore"\n'
    assert not fixture.exists()
    report = dumps.audited(text, "6.12").hugetlb
    assert [one.bug for one in report.bugs] == ["hugetlb-restore"]
    assert dumps.audited("[[hugetlb]]\ncount = 3\n", "6.12").hugetlb.bugs == ()


GIGANTIC = """
ram = "5G"
[[hugetlb]]
size = "1G"
[[hugetlb]]
"""


def shared_tail(what: str, folio: int = 0) -> str:
    return f'[[hugetlb_fault]]\nkind = "shared-tail"\nwhat = "{what}"\nfolio = {folio}\n'


@pytest.mark.parametrize("kernel", ["7.2", "next"])
@pytest.mark.parametrize(
    ("faults", "bugs"),
    [
        # Each has a reference and a list of its own, as in a real 7.2.13.
        ([("again", 0)], ["hugetlb-gigantic-boot"]),
        # Other damage to it, or more, has another cause.
        *(([(what, 0)], []) for what in ("one", "order", "refcount", "zone", "freed")),
        *(([("again", 0), (what, 0)], []) for what in ("one", "order", "zone", "freed")),
        # So has what no gigantic folio shares.
        *(([(what, 1)], []) for what in ("one", "refcount", "again")),
        ([("again", 0), ("one", 1)], []),
    ],
)
def test_gigantic_pages_from_boot(
    dumps: Dumps, kernel: str, faults: list[tuple[str, int]], bugs: list[str]
) -> None:
    scenario = GIGANTIC + "".join(shared_tail(*fault) for fault in faults)
    report = dumps.audited(scenario, kernel).hugetlb
    assert [one.bug for one in report.bugs] == bugs
    assert {one.rule for one in report.findings} >= {"hugetlb-shared-tail"}
