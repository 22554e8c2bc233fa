# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``vmemscope hugetlb`` on simulated kernels.

Sound ones give no finding, and numbers as real kernels have them; in each of the
others what was planted is found, by its rule and at its address, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from msgspec.structs import replace

from tests.test_confirm import after_passes
from vmemscope.audits.hugetlb import DIVISION, audit
from vmemscope.machine import Kernel
from vmemscope.report import schema_text, to_document
from vmemscope.report.documents.hugetlb import HugetlbReport
from vmemscope.report.hugetlb import render_hugetlb
from vmemscope.rules import rules_of
from vmemscope.rules.findings import NOT_EVALUATED, Outcome
from vmemscope.rules.rule import Scope
from vmemscope.sim.faults import HUGETLB_FAULTS, Planted
from vmemscope.sim.image import Image

from .kernels import KERNELS, PAGE, SIMULATED, Dumps, View, image, write
from .patched import damaged

BASE = Path(__file__).parent.parent / "vmemscope/sim/scenarios/hugetlb.toml"
#: folios of the scenario: not optimized, optimized; and on a second node, optimized
PLAIN, FIRST, SECOND = 2, 5, 3
#: pages of vmemmap of a folio
PAGES = 8

Audit = Callable[[str, str], tuple[HugetlbReport, list[Planted]]]


def audited_dump(built: Image, directory: Path, folios: bool = False) -> HugetlbReport:
    """Write a dump, audit it and remove it."""
    core = write(built, directory)
    report = audit(Kernel.open_core(core), folios=folios)
    Path(core).unlink()
    return report


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Look at the scenario with something added to it, once for each kernel and addition."""
    done: dict[tuple[str, str], tuple[HugetlbReport, list[Planted]]] = {}

    def run(added: str, kernel: str) -> tuple[HugetlbReport, list[Planted]]:
        if (added, kernel) not in done:
            built = image(BASE.read_text() + added, kernel)
            report = audited_dump(built, tmp_path_factory.mktemp("hugetlb"), folios=True)
            done[added, kernel] = report, built.planted
        return done[added, kernel]

    return run


def fault(kind: str, **options: object) -> str:
    """Write a fault down as a scenario has it; the third folio is the first optimized one."""
    if any(option.name == "folio" for option in HUGETLB_FAULTS[kind].options):
        options = {"folio": PLAIN, **options}
    lines = [f"{key} = {json.dumps(value)}" for key, value in options.items()]
    return "\n".join(["", "[[hugetlb_fault]]", f'kind = "{kind}"', *lines, ""])


def found(report: HugetlbReport) -> set[tuple[str, int | None]]:
    """Return findings as (rule, address)."""
    return {(finding.rule, finding.vaddr) for finding in report.findings}


@pytest.mark.parametrize("kernel", KERNELS)
class TestSound:
    def test_nothing_is_found(self, audited: Audit, kernel: str) -> None:
        report, _ = audited("", kernel)
        assert report.findings == ()
        assert not report.partial
        assert report.present

    def test_counts(self, audited: Audit, kernel: str) -> None:
        report, _ = audited("", kernel)
        small, gigantic = report.hstates
        optimized = FIRST + SECOND
        assert (small.name, small.size) == ("hugepages-2048kB", 2 << 20)
        assert (gigantic.name, gigantic.folios) == ("hugepages-1048576kB", 0)
        assert small.folios == small.nr_huge_pages == PLAIN + optimized
        assert (small.free, small.in_use, small.elsewhere) == (7, 3, 0)
        assert small.flagged == small.optimized == optimized
        assert small.pages == small.mapped == (PLAIN + optimized) * PAGES
        assert small.read_only == report.summary.read_only == optimized * (PAGES - 1)
        # A frame for each zone that the tail pages of 7.1+ share.
        shared = 2 if kernel == "7.2" else 0
        assert small.frames == PLAIN * PAGES + optimized + shared
        assert small.saved_bytes == (small.pages - small.frames) * 4096
        assert small.savable_bytes == PLAIN * (PAGES - 1) * 4096
        assert [(one.node, one.folios, one.free, one.optimized) for one in small.nodes] == [
            (0, 7, 5, 5), (1, 3, 2, 3)
        ]  # fmt: skip

    def test_generation(self, audited: Audit, kernel: str) -> None:
        report, _ = audited("", kernel)
        assert report.hvo.built_in
        assert report.hvo.enabled
        assert report.hvo.shared_tails == (kernel == "7.2")
        assert report.hvo.key == (None if kernel == "7.2" else FIRST + SECOND)
        assert [(one.node, one.zone, one.order, one.folios) for one in report.shared_tails] == (
            [(0, "DMA32", 9, FIRST), (1, "Normal", 9, SECOND)] if kernel == "7.2" else []
        )

    def test_folios(self, audited: Audit, kernel: str) -> None:
        report, _ = audited("", kernel)
        assert [one.flagged for one in report.folios] == [False] * 2 + [True] * 8
        shared = {one.node: one.pfn for one in report.shared_tails}
        for one in report.folios:
            assert one.read_only == (PAGES - 1 if one.flagged else 0)
            if not one.flagged:
                assert one.tail_pfn is None
            elif kernel == "7.2":
                assert one.tail_pfn == shared[one.node or 0] != one.head_pfn
            else:
                assert one.tail_pfn == one.head_pfn

    def test_every_rule_has_an_outcome(self, audited: Audit, kernel: str) -> None:
        report, _ = audited("", kernel)
        outcomes = {one.rule: one for one in report.outcomes}
        assert list(outcomes) == [rule.id for rule in rules_of(Scope.HUGETLB, "x86_64")]
        skipped = {name for name, one in outcomes.items() if one.outcome is Outcome.SKIPPED}
        assert skipped == (
            {"hugetlb-key", "hugetlb-restore"} if kernel == "7.2" else {"hugetlb-shared-tail"}
        )
        assert all(outcomes[name].reason for name in skipped)

    def test_gigantic_pages(self, tmp_path: Path, kernel: str) -> None:
        text = 'ram = "5G"\n[[hugetlb]]\nsize = "1G"\n[[hugetlb]]\nsize = "1G"\noptimized = false\n'
        report = audited_dump(image(text, kernel), tmp_path)
        assert report.findings == ()
        one = report.hstates[1]
        assert (one.size, one.folios, one.optimized) == (1 << 30, 2, 1)
        assert (one.pages, one.read_only) == (2 * 4096, 4095)
        assert one.frames == 4096 + 1 + (kernel == "7.2")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("wrong", "reported"), [((), False), ((9,), True), ((3, 40), True)])
def test_gigantic_pages_without_tail_mapping(
    tmp_path: Path, kernel: str, wrong: tuple[int, ...], reported: bool
) -> None:
    """As up to 6.6, and to 6.11 at run time: in all tail pages alike it is no fault."""
    text = 'ram = "5G"\n[[hugetlb]]\nsize = "1G"\n'
    built = image(text, kernel)
    memmap = built.kernel.memmap
    (folio,) = built.kernel.hugetlb.folios
    mapping = built.kernel.layouts.offsetof("page", "mapping")
    for number in range(4, 64):
        memmap.poke(folio.pfn + number, mapping, 0)
    for number in wrong:
        memmap.poke(folio.pfn + number, mapping, 0xDEAD000000000400)
    # Of a folio that goes over three or four struct pages.
    memmap.poke(folio.pfn + 3, mapping, 0x1000 if 3 in wrong else 0)
    report = audited_dump(built, tmp_path)
    assert {one.rule for one in report.findings} == ({"hugetlb-tail-page"} if reported else set())


#: sections are of 128 MiB: the second has parts of both nodes
STRADDLING = """
[[node]]
start = 0
size = "160M"

[[node]]
start = 0xa000000
size = "224M"
nid = 1

[[hugetlb]]
count = 1

[[hugetlb]]
count = 1
nid = 1
"""


@pytest.mark.parametrize(("references", "both", "reported"), [
    (2, False, False), (3, False, True), (3, True, False), (4, True, True), (0, True, True),
])  # fmt: skip
def test_references_from_boot(tmp_path: Path, references: int, both: bool, reported: bool) -> None:
    """
    A frame from boot has one for each node that has a part of its section.

    ``register_page_bootmem_info_node()`` goes from the first page of each node by sections.
    So it was on a 6.1 with ``numa=fake=16``.
    """
    built = image(STRADDLING, "6.1")
    folio = next(one for one in built.kernel.hugetlb.folios if (one.pfn >= 0xA000) == both)
    core = Path(write(built, tmp_path))
    view = View(core)
    frame = view.physical(view.page_va(folio.pfn)) // PAGE
    page = view.prog.type("struct page")
    at = view.physical(view.page_va(frame)) + page.member("_refcount").offset
    reserved = 1 << int(view.prog.constant("PG_reserved").value_())
    # The premise: it is from boot.
    assert view.prog.read_u64(view.physical(view.page_va(frame)), True) & reserved
    with damaged(core, {at: references.to_bytes(4, "little")}):
        report = audit(Kernel.open_core(str(core)))
    assert {one.rule for one in report.findings} == ({"hugetlb-head-frame"} if reported else set())


#: kinds of fault, each with the options that make a difference
FAULTS = (
    ("tail-writable", "{}"),
    ("half-optimized", "{}"),
    ("half-optimized", '{"folio": 3, "pages": 5}'),
    ("half-optimized", '{"pages": 6}'),
    ("half-begun", '{"folio": 0}'),
    ("half-begun", '{"folio": 1, "shared": 1}'),
    ("head-read-only", "{}"),
    ("hole", "{}"),
    ("executable", "{}"),
    ("tail-frame", '{"to": "other-folio"}'),
    ("tail-frame", '{"to": "outside", "page": 7}'),
    ("tail-frame", '{"to": "zero", "page": 1}'),
    ("head-shared", "{}"),
    ("head-freed", "{}"),
    ("poisoned", "{}"),
    ("poisoned", '{"of": "tail"}'),
    ("tail-page", "{}"),
    ("tail-page", '{"what": "head", "number": 63}'),
    ("tail-page", '{"what": "refcount", "number": 4}'),
    ("restore", "{}"),
    ("stray", '{"folio": 6}'),
    ("flag-missing", "{}"),
    ("flag-extra", '{"folio": 0}'),
    ("key", '{"by": -1}'),
    ("count", "{}"),
    ("count", '{"of": "nr_huge_pages", "by": -2}'),
    ("count", '{"of": "nr_huge_pages", "by": 2}'),
    ("list-cycle", "{}"),
    ("list-wild", "{}"),
    ("no-head", "{}"),
    ("no-head", '{"folio": 0}'),
    ("isolated", "{}"),
    ("isolated", '{"folio": 4}'),
    ("shared-tail", '{"what": "one"}'),
    ("shared-tail", '{"what": "order"}'),
    ("shared-tail", '{"what": "refcount"}'),
    ("shared-tail", '{"what": "zone"}'),
    ("shared-tail", '{"what": "freed"}'),
    ("shared-tail", '{"what": "again"}'),
    ("unreadable", "{}"),
    ("unreadable", '{"of": "head"}'),
)
CASES = [
    pytest.param(kind, options, kernel, id=f"{kind}-{options}-{kernel}")
    for kind, options in FAULTS
    for kernel in HUGETLB_FAULTS[kind].kernels or SIMULATED
]


def planted_by(
    audited: Audit, kind: str, options: str, kernel: str
) -> tuple[HugetlbReport, list[Planted]]:
    """Look at the scenario with a fault in it."""
    return audited(fault(kind, **json.loads(options)), kernel)


@pytest.mark.parametrize(("kind", "options", "kernel"), CASES)
def test_fault(audited: Audit, kind: str, options: str, kernel: str) -> None:
    report, (planted,) = planted_by(audited, kind, options, kernel)
    assert found(report) == {(one.rule, one.vaddr) for one in planted.findings}
    assert {(one.command, one.rule) for one in planted.findings} <= set(HUGETLB_FAULTS[kind].rules)
    broken = {one.rule for one in planted.findings}
    for one in report.outcomes:
        assert (one.outcome is Outcome.FAILED) == (one.rule in broken)
        assert one.reason != NOT_EVALUATED
    for finding in report.findings:
        assert "np." not in finding.message
        assert not isinstance(finding.observed, np.generic)
        assert not isinstance(finding.expected, np.generic)


@pytest.mark.parametrize("kernel", KERNELS)
class TestUnreadable:
    def test_page_table(self, audited: Audit, kernel: str) -> None:
        report, _ = planted_by(audited, "unreadable", "{}", kernel)
        # With it go the heads of all folios that it maps.
        assert report.hstates[0].folios == SECOND
        assert any("page tables are missing: 512" in what for what in report.not_read)

    def test_page_table_of_a_part(self, tmp_path: Path, kernel: str) -> None:
        text = 'ram = "5G"\n[[hugetlb]]\nsize = "1G"\n'
        text += fault("unreadable", folio=0, page=1000)
        report = audited_dump(image(text, kernel), tmp_path)
        one = report.hstates[1]
        assert report.findings == ()
        assert (one.folios, one.optimized, one.unreadable) == (1, 1, 512)
        assert (one.mapped, one.read_only) == (4096 - 512, 4095 - 512)
        assert one.savable_bytes == 0

    def test_head_of_a_folio(self, audited: Audit, kernel: str) -> None:
        report, _ = planted_by(audited, "unreadable", '{"of": "head"}', kernel)
        assert report.partial
        assert any("head page" in what for what in report.not_read)
        # The rest of its list is reached from the other end.
        assert report.hstates[0].folios == PLAIN + FIRST + SECOND - 1
        outcomes = {one.rule: one for one in report.outcomes}
        assert outcomes["hugetlb-count"].outcome is Outcome.SKIPPED


def test_two_isolated_folios_side_by_side(audited: Audit) -> None:
    report, planted = audited(fault("isolated", folio=4) + fault("isolated", folio=5), "6.1")
    assert found(report) == {("hugetlb-elsewhere", one.vaddr) for one in planted}
    assert report.hstates[0].elsewhere == 2
    assert report.hstates[0].optimized == FIRST + SECOND


def test_many_findings_are_counted(tmp_path: Path) -> None:
    faults = "".join(fault("tail-writable", folio=i) for i in range(40))
    text = "[[hugetlb]]\ncount = 40\n" + faults
    report = audited_dump(image(text, "6.1"), tmp_path)
    outcomes = {one.rule: one for one in report.outcomes}
    assert outcomes["hugetlb-mapping"].violations == 40
    assert len(report.findings) == 16
    assert "24 more like it" in report.findings[-1].message


def test_a_second_pass_confirms(audited: Audit) -> None:
    sound, _ = audited("", "6.1")
    broken, _ = planted_by(audited, "tail-writable", "{}", "6.1")
    assert after_passes(DIVISION, broken, broken).findings == broken.findings
    passed = after_passes(DIVISION, sound, broken)
    assert passed.findings == ()
    outcomes = {one.rule: one for one in passed.outcomes}
    assert outcomes["hugetlb-mapping"].outcome is Outcome.SKIPPED
    # A counter that differs by another number each time proves nothing.
    other = tuple(replace(one, observed="else") for one in broken.findings)
    assert after_passes(DIVISION, replace(broken, findings=other), broken).findings == ()


def test_kernel_without_folios(tmp_path: Path) -> None:
    report = audited_dump(image("empty", "6.1"), tmp_path)
    assert report.findings == ()
    assert report.summary.folios == 0
    assert not report.hvo.enabled


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("added", ["", fault("tail-writable", folio=2)])
def test_document_has_its_schema(audited: Audit, added: str, kernel: str) -> None:
    report, _ = audited(added, kernel)
    document = json.loads(json.dumps(to_document(report)))
    jsonschema.validate(document, json.loads(schema_text("vmemscope.hugetlb/1")))
    assert document["summary"]["errors"] == len(report.findings)


@pytest.mark.parametrize("width", [200, 100, 60])
def test_table_fits(audited: Audit, width: int) -> None:
    report, _ = audited(fault("isolated", folio=4), "7.2")
    text = render_hugetlb(report, width)
    assert "elsewhere" in text
    tables = [line for line in text.splitlines() if line.startswith((" SIZE", "PFN", "0x"))]
    assert tables
    assert all(len(line) <= width for line in tables)


# Memory blocks that hold their own memory map.


@pytest.mark.parametrize("kernel", KERNELS)
def test_folios_in_such_blocks_are_never_optimized(dumps: Dumps, kernel: str) -> None:
    scenario = """
ram = "128M"
[[block]]
start = 0x140000000
size = "128M"
online = true
map = "self"
[[block]]
start = 0x148000000
size = "128M"
online = true
[[hugetlb]]
count = 140
"""
    report = dumps.audited(scenario, kernel).hugetlb
    assert report.findings == ()
    one = report.hstates[0]
    starts = [folio.pfn for folio in report.folios]
    hosted = sum(0x140000 <= pfn < 0x148000 for pfn in starts)
    assert hosted == 63
    assert len(starts) - hosted > 70
    assert (one.self_hosted, one.optimized) == (hosted, len(starts) - hosted)
    assert one.savable_bytes == 0
    text = render_hugetlb(report, 100)
    assert "63 folios can't be optimized: the memory map lies in the memory block itself" in text
    # Those beside them that could be, and are not.
    off = scenario.replace("count = 140", "count = 140\noptimized = false")
    one = dumps.audited(off, kernel).hugetlb.hstates[0]
    assert (one.self_hosted, one.optimized) == (hosted, 0)
    assert one.savable_bytes == (len(starts) - hosted) * 7 * 4096
