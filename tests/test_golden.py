# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the command line says of simulated kernels, word for word.

The files in ``golden/`` show what a change changed; they do not prove that it is right.

Each file holds one command: its arguments, its exit status, stdout and stderr. The
commands run in this process. A test runs all commands of one dump. To write the files
anew, and to remove those that no command makes any more::

    pytest tests/test_golden.py --regen-all
    git diff tests/golden
"""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pytest_regressions.file_regression import FileRegressionFixture

from vmemscope.cli.main import main
from vmemscope.rules import RULES
from vmemscope.rules.bugs import BUGS
from vmemscope.sim import builtin_scenarios
from vmemscope.sim.faults import HUGETLB_FAULTS as HUGETLB_KINDS

from .kernels import KERNELS, able
from .test_hugetlb import BASE as HUGETLB_BASE
from .test_hugetlb import FAULTS as HUGETLB_FAULTS
from .test_hugetlb import fault as hugetlb_fault

GOLDEN = Path(__file__).parent / "golden"
FIXTURES = Path(__file__).parent.parent / "fixtures"

SCENARIOS = builtin_scenarios()
FAULTS = sorted(path.stem for path in FIXTURES.glob("*.toml"))
#: stands for the address of the first fault that the simulator planted
PLANTED = "PLANTED"
#: stands for the address of the first pagemap
FIRST = "FIRST"

#: dumps of which single pagemaps and pages are shown
MIXED = tuple(f"mixed@{kernel}" for kernel in KERNELS)
#: dumps that are shown in every format
SHOWN = (
    *MIXED,
    "devdax-2m",
    "early-1g",
    "empty",
    "several-ranges",
    "unaligned-section-1g",
    "altmap-data",
    "frame-freed",
    "kernel-entry",
    "name-escape",
    "name-invalid-utf8",
    "name-newline",
    "nr-range-absurd",
    "range-inverted",
    "range-overlap",
    "resource-cycle",
    "several-faults",
    "shift-absurd",
    "unreadable-node",
    "unreadable-struct-page",
    "unreadable-table",
    "xarray-cycle",
)
#: dumps of which there is a report on everything
REPORTED = (
    *MIXED,
    "devdax-2m",
    "early-1g",
    "name-escape",
    "several-faults",
    "unreadable-table",
)
#: dumps of which all struct pages are checked, and none
CONTENTS = (
    *MIXED,
    "early-uninitialised",
    "several-faults",
    "tail-written",
    "tail-wrong-head",
    "uninitialised-zeros",
    "unreadable-struct-page",
    "wrong-zone",
)
#: faults of which "hugetlb" says something particular
HUGETLB_TELLS = ("read-only", "unreadable-node", "unreadable-table", "unreadable-table-pmd")
#: how the faults start that another kernel may report in other words
NEWEST = ("early-", "head-", "missing-", "stray-", "tail-", "uninitialised-", "wrong-")
#: dumps of the coming kernel
COMING = ("mixed", "two-nodes", "hugetlb", "unaligned-section-1g")
#: pagemaps of "mixed"
PAGEMAPS = ("dax0.0", "dax1.0", "dax2.0", "dax3.0", "pmem4")
#: what "page" shows of "mixed": in a file's name -> arguments
PAGES: dict[str, tuple[str, ...]] = {
    "head": ("0x100000",),
    "tail": ("0x100003",),
    "tail-on-shared-frame": ("0x100080",),
    "head-by-address": ("--phys", "0x100200000"),
    "head-1g": ("0x150000",),
    "tail-1g": ("0x150080",),
    "altmap": ("0x120000",),
    "base": ("0x220001",),
    "fsdax": ("0x210001",),
    "ram": ("0x100",),
    "page-table": ("0x1004",),
    "head-frame": ("0x1005",),
    "shared-tail-frame": ("0x1006",),
    "hole": ("--pfn", "0x200000"),
    "nowhere": ("--pfn", "0x7fffffff"),
    "pagemap-structure": (FIRST,),
    "address-not-mapped": ("0xffffffff81000000",),
    "small-address": ("--address", "0x1000"),
}
#: and of "hugetlb-boot"
BOOT_PAGES: dict[str, tuple[str, ...]] = {
    "head": ("--pfn", "0x180000"),
    "tail": ("--pfn", "0x1bfffe"),
    "restored-tail": ("--pfn", "0x14ffc1"),
    "run-time-tail": ("--pfn", "0x110001"),
}
#: what "diff" compares
PAIRS = (
    ("devdax-2m", "devdax-2m"),
    ("devdax-2m", "hole"),
    ("hole", "devdax-2m"),
    ("hole", "several-faults"),
    ("devdax-2m", "name-escape"),
    ("mixed@6.1", "mixed@7.2"),
    ("mixed@6.12", "empty"),
    ("missing-dedup", "refcount-low"),
    ("tail-other-pagemap", "unreadable-table"),
    ("unreadable-node", "tail-other-pagemap"),
)
#: commands that read no dump, or do not come to it
ALONE: dict[str, tuple[str, ...]] = {
    "rules/all.text": ("rules",),
    "rules/all.json": ("rules", "--format", "json"),
    "rules/each.text": ("rules", *RULES),
    "rules/each.json": ("rules", *RULES, "--format", "json"),
    "rules/bugs.text": ("rules", *(bug.id for bug in BUGS)),
    "rules/unknown.text": ("rules", "compound-haed"),
    "sim/list": ("sim", "--list"),
    "sim/unknown": ("sim", "nothing", "-o", "dump"),
    "sim/nothing-to-write": ("sim", "devdax-2m"),
    "sim/unknown-release": ("sim", "devdax-2m", "--release", "5.4", "-o", "dump"),
    "pgmap/error.no-such-core": ("pgmap", "-c", "missing"),
    "pgmap/error.no-such-scenario": ("pgmap", "--sim", "nothing"),
    "pgmap/error.watch-a-dump": ("pgmap", "--sim", "empty", "--watch", "5"),
    "page/error.no-number": ("page", "dax0.0", "--sim", "empty"),
    "pgmap/error.no-such-core.ndjson": ("pgmap", "-c", "missing", "--format", "ndjson"),
    "diff/error.no-such-core": ("diff", "missing", "missing"),
}


class Case(NamedTuple):
    """A command, and the file that holds what it says."""

    file: str
    arguments: tuple[str, ...]

    @property
    def path(self) -> Path:
        return GOLDEN / f"{self.file}.txt"


def hugetlb_scenarios() -> dict[str, str]:
    """Return the faults of the tests of "hugetlb", as scenarios: name of the dump -> TOML."""
    scenarios = {}
    for kind, written in HUGETLB_FAULTS:
        options = json.loads(written)
        kernels = HUGETLB_KINDS[kind].kernels
        text = HUGETLB_BASE.read_text() + hugetlb_fault(kind, **options)
        name = "-".join(["hugetlb", kind, *map(str, options.values())])
        several = [one for one in kernels if one in KERNELS] or kernels or ("6.1", "7.2")
        for kernel in several:
            scenarios[f"{name}@{kernel}"] = text
    return scenarios


HUGETLB_SCENARIOS = hugetlb_scenarios()


def other_kernels() -> list[str]:
    """Return the dumps that are made for other kernels than the scenario says."""
    mixed = [f"{name}@{kernel}" for name in ("mixed", "hugetlb") for kernel in KERNELS]
    scenarios = [name for name in SCENARIOS if name not in ("mixed", "hugetlb")]
    faults = [name for name in FAULTS if name.startswith(NEWEST) and "7.2" in able(name)]
    coming = [f"{name}@next" for name in COMING]
    return [*mixed, *coming, *(f"{name}@7.2" for name in (*scenarios, *faults))]


def case(dump: str, form: str, command: str, *options: str, name: str = "") -> Case:
    """Return a command that reads a dump, in a format; the name sets it apart from others."""
    file = ".".join(part for part in (dump, name, form) if part)
    return Case(f"{command}/{file}", (command, *options, "-c", dump, "--format", form))


def cases(dump: str) -> Iterator[Case]:
    """Return the commands that read a dump."""
    scenario, _, kernel = dump.partition("@")
    if dump in HUGETLB_SCENARIOS:
        yield case(dump, "table", "hugetlb")
        yield case(dump, "json", "hugetlb", "--folios")
        if kernel == "7.2":
            yield case(dump, "text", "page", PLANTED, name="planted")
        return
    yield case(dump, "table", "pgmap", "--all")
    if kernel and scenario not in ("mixed", "hugetlb"):
        # The table shows what differs between kernels.
        return
    yield case(dump, "json", "pgmap", "--all")
    yield case(dump, "table", "pgmap", FIRST, name="detail")
    for form in ("table", "json"):
        yield case(dump, form, "memmap")
        if scenario in SCENARIOS or scenario in HUGETLB_TELLS:
            yield case(dump, form, "hugetlb")
        if scenario in ("hugetlb", "hugetlb-boot"):
            yield case(dump, form, "hugetlb", "--folios", name="folios")
        if dump in CONTENTS:
            for contents in ("all", "none"):
                name = f"contents-{contents}"
                yield case(dump, form, "pgmap", "--contents", contents, name=name)
    if scenario in FAULTS:
        yield case(dump, "text", "page", PLANTED, name="planted")
    if dump in REPORTED:
        yield case(dump, "text", "report")
    if dump == "hugetlb-boot":
        yield case(dump, "text", "report")
        for name, which in BOOT_PAGES.items():
            yield case(dump, "text", "page", *which, name=name)
    if dump == "mixed@7.2":
        yield case(dump, "markdown", "report")
        yield case(dump, "html", "report")
    if dump in SHOWN:
        yield from shown(dump)
    if dump in MIXED:
        yield from of_mixed(dump)


def shown(dump: str) -> Iterator[Case]:
    """Return the commands in all other formats."""
    for form in ("ndjson", "ktap", "markdown"):
        yield case(dump, form, "pgmap", "--all")
    for command in ("memmap", "hugetlb"):
        yield case(dump, "ndjson", command)
    yield case(dump, "json", "pgmap", FIRST, name="detail")
    yield case(dump, "markdown", "pgmap", FIRST, name="detail")
    if dump in FAULTS:
        yield case(dump, "json", "page", PLANTED, name="planted")


def of_mixed(dump: str) -> Iterator[Case]:
    """Return the commands that show one thing of "mixed"."""
    yield case(dump, "ndjson", "pgmap", FIRST, name="detail")
    yield case(dump, "ktap", "pgmap", FIRST, name="detail")
    for name in (*PAGEMAPS, "dax7.0"):
        yield case(dump, "table", "pgmap", name, name=name)
    for name, which in PAGES.items():
        yield case(dump, "text", "page", *which, name=name)
        if dump != "mixed@6.12":
            yield case(dump, "json", "page", *which, name=name)


def groups() -> dict[tuple[str, ...], list[Case]]:
    """Return all commands by the dumps that they read."""
    found: dict[tuple[str, ...], list[Case]] = {
        (): [Case(file, arguments) for file, arguments in ALONE.items()]
    }
    for dump in (*SCENARIOS, *FAULTS, *other_kernels(), *HUGETLB_SCENARIOS):
        found[dump,] = [making(dump), *cases(dump)]
    for pair in PAIRS:
        found[pair] = [
            Case(f"diff/{'--'.join(pair)}.{form}", ("diff", *pair, "--format", form))
            for form in ("text", "json")
        ]
    return found


def making(dump: str) -> Case:
    """Return the command that makes a dump."""
    scenario, _, kernel = dump.partition("@")
    source = scenario
    if dump in HUGETLB_SCENARIOS:
        source = f"{scenario}.toml"
    elif scenario in FAULTS:
        source = str(FIXTURES / f"{scenario}.toml")
    release = ("--release", kernel) if kernel else ()
    return Case(f"sim/{dump}", ("sim", source, *release, "-o", dump))


GROUPS = groups()


class Said(NamedTuple):
    """What a command said."""

    status: int | str | None
    out: str
    err: str


def run(arguments: tuple[str, ...]) -> Said:
    """Run the command line in this process."""
    loggers = [logging.getLogger(name) for name in ("drgn", "vmemscope")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    for logger in loggers:
        # A handler keeps the stderr of the command that made it.
        logger.handlers.clear()
    out, err = io.StringIO(), io.StringIO()
    status: int | str | None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = int(main(arguments))
            except SystemExit as e:
                status = e.code
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)
    return Said(status, out.getvalue(), err.getvalue())


def normalised(text: str) -> str:
    """Replace what differs from run to run and from machine to machine: all of it, here."""
    text = text.replace(f"{FIXTURES}/", "fixtures/")
    text = re.sub(r'("tool": \{\s*"name": "vmemscope",\s*"version": )"[^"]*"', r'\1"-"', text)
    text = re.sub(r"^(\| (?:vmemscope|drgn|Python) \| )`[^`]*`", r"\1`-`", text, flags=re.M)
    text = re.sub(r'"time": "[^"]*"', '"time": "-"', text)
    text = re.sub(r'"seconds": [-+.e\d]+', '"seconds": 0', text)
    text = re.sub(r"<p>vmemscope [^ ]+\. ", "<p>vmemscope -. ", text)
    return re.sub(
        r'"timings": \{[^}]*\}', lambda found: re.sub(r": [-+.e\d]+", ": 0", found[0]), text
    )


def visible(text: str) -> str:
    """Write characters that do not show as their number, but for the ends of lines."""
    return "".join(
        char if char.isprintable() or char == "\n" else f"<U+{ord(char):04X}>" for char in text
    )


def pretty(text: str) -> str:
    """Lay a JSON document out so that differences are short: a line for each small object."""
    document = json.loads(text)
    # Then the layout of the document is known, and all else of it is shown.
    if text != json.dumps(document, indent=2) + "\n":
        raise AssertionError(f"not as json.dumps() writes it: {text[:80]!r}")
    return "".join(f"{line}\n" for line in laid_out(document, ""))


def laid_out(value: Any, indent: str) -> list[str]:
    """Return the lines of a value of a JSON document."""
    if not value or not isinstance(value, (dict, list)):
        return [json.dumps(value)]
    lines = []
    inner = f"{indent} "
    named = value.items() if isinstance(value, dict) else ((None, one) for one in value)
    for name, one in named:
        # An object of a list is one line, if nothing is in it that has parts, or is long.
        small = isinstance(one, dict) and name is None and "message" not in one
        small = small and not any(isinstance(part, (dict, list)) for part in one.values())
        first, *rest = [json.dumps(one)] if small else laid_out(one, inner)
        key = "" if name is None else f"{json.dumps(name)}: "
        lines += [f"{inner}{key}{first}", *rest]
        lines[-1] += ","
    lines[-1] = lines[-1].removesuffix(",")
    start, end = "{}" if isinstance(value, dict) else "[]"
    return [start, *lines, f"{indent}{end}"]


def golden_text(case: Case, said: Said) -> str:
    """Return what the file of a command holds."""
    out = normalised(said.out)
    if case.file.endswith(".json") and out:
        out = pretty(out)
    text = "\n".join(
        [
            f"$ vmemscope {normalised(' '.join(case.arguments))}",
            f"exit status {said.status}",
            "---- stdout",
            f"{out}---- stderr",
            f"{normalised(said.err)}---- end",
        ]
    )
    return visible(text) + "\n"


def compare(obtained: Path, expected: Path) -> None:
    """Fail with the difference of two files."""
    texts = [path.read_text(encoding="utf-8") for path in (expected, obtained)]
    if texts[0] != texts[1]:
        lines = (text.splitlines() for text in texts)
        name = f"golden/{expected.relative_to(GOLDEN)}"
        raise AssertionError("\n".join(difflib.unified_diff(*lines, name, "now", lineterm="")))


@pytest.mark.parametrize("dumps", [pytest.param(one, id="--".join(one) or "-") for one in GROUPS])
def test_golden(
    dumps: tuple[str, ...],
    file_regression: FileRegressionFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    # So no path of this machine is in the arguments.
    (tmp_path / "dumps").mkdir()
    monkeypatch.chdir(tmp_path / "dumps")
    regenerate = is_regenerating(request.config)
    addresses = {PLANTED: "0", FIRST: "0"}
    for dump in dict.fromkeys(dumps):
        if dump in HUGETLB_SCENARIOS:
            name = f"{dump.partition('@')[0]}.toml"
            Path(name).write_text(HUGETLB_SCENARIOS[dump], encoding="utf-8")
        if len(dumps) > 1:
            assert run(making(dump).arguments).status == 0
    failures = []
    for number, case in enumerate(GROUPS[dumps]):
        said = run(tuple(addresses.get(one, one) for one in case.arguments))
        if planted := re.search(r"^planted: .* at (0x[0-9a-f]+)", said.err, flags=re.M):
            addresses[PLANTED] = planted[1]
        if pagemap := re.search(r'"pgmaps": \[\s*\{\s*"address": "(0x[0-9a-f]+)"', said.out):
            addresses[FIRST] = pagemap[1]
        if not case.path.exists() and not regenerate:
            failures.append(f"golden/{case.file}.txt is missing")
            continue
        try:
            file_regression.check(
                golden_text(case, said),
                encoding="utf-8",
                newline="\n",
                fullpath=case.path,
                obtained_filename=tmp_path / f"{number}.txt",
                check_fn=compare,
            )
        except (AssertionError, pytest.fail.Exception) as e:
            failures.append(str(e))
    for dump in dict.fromkeys(dumps):
        # Hundreds of them take gigabytes.
        Path(dump).unlink(missing_ok=True)
    if failures:
        pytest.fail("\n\n".join(failures), pytrace=False)


def test_no_file_is_left_over(request: pytest.FixtureRequest) -> None:
    """Each file is that of a command, and of one only."""
    paths = [case.path for cases in GROUPS.values() for case in cases]
    assert len(paths) == len(set(paths))
    stale = sorted({path for path in GOLDEN.rglob("*") if path.is_file()} - set(paths))
    if is_regenerating(request.config):
        for path in stale:
            path.unlink()
    else:
        assert stale == []


def is_regenerating(config: pytest.Config) -> bool:
    """Return whether the files are to be written."""
    return bool(config.getoption("regen_all") or config.getoption("force_regen"))
