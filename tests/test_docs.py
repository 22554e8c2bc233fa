# SPDX-License-Identifier: LGPL-2.1-or-later
"""Examples in the manual show what the commands really print."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import Program
from drgn.helpers.linux.mm import pfn_to_page

from vmemscope.cli.main import main
from vmemscope.sim import load_scenario
from vmemscope.sim.scenario_toml import parse_scenario

from .kernels import FIXTURES, built, image

DOCS = Path(__file__).parent.parent / "docs"
#: pages whose examples can be run one after another, in an empty directory
PAGES = (
    "../README",
    "index",
    "tutorial",
    "pgmap",
    "sim",
    "diff",
    "memmap",
    "page",
    "rules",
    "survey",
)


def read(page: str) -> str:
    return (DOCS / f"{page}.md").read_text(encoding="utf-8")


def examples(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """Return the commands of a page, each with the lines that it is said to print."""
    command: list[str] | None = None
    shown: list[str] = []
    # Blocks are indented, or fenced.
    text = re.sub(
        r"```console\n(.*?)```",
        lambda block: re.sub(r"(?m)^(?=.)", "    ", block[1]),
        read(page),
        flags=re.S,
    )
    for line in [*text.splitlines(), "end"]:
        inside = line.startswith("    ")
        if command is not None and ((line and not inside) or line.startswith("    $ ")):
            yield command, shown
            command = None
        if line.startswith("    $ vmemscope ") and "|" not in line:
            command, shown = shlex.split(line[6:])[1:], []
        elif command is not None and line:
            shown.append(line[4:])


def make(directory: Path, page: str) -> None:
    """Make what the examples of a page take to be there."""
    if page in ("memmap", "page"):
        built(load_scenario("mixed"), "6.12").write(directory / "vmcore")
    if page == "survey":
        dumps = directory / "var/crash"
        for number, name in enumerate(("mixed@7.2", "devdax-2m@6.1", "hole@6.1"), 1):
            scenario, _, kernel = name.partition("@")
            (dumps / f"host{number}").mkdir(parents=True)
            image(scenario, kernel).write(dumps / f"host{number}/vmcore")
        (dumps / "host9").mkdir()
        (dumps / "host9/vmcore").write_bytes(b"")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to run examples in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_examples(page: str, directory: Path) -> None:
    make(directory, page)
    for scenario in re.findall(r"```toml\n(.*?)```", read(page), flags=re.S):
        Path("my.toml").write_text(scenario, encoding="utf-8")
    ran = 0
    for command, shown in examples(page):
        out = io.StringIO()
        # Only this directory can be written to.
        arguments = [re.sub("^/var/", f"{directory}/var/", one) for one in command]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            status = main(arguments)
        assert status in (0, 1), command
        lines = iter(out.getvalue().replace(f"{directory}/var/", "/var/").splitlines())
        for line in shown:
            # Three dots stand for any lines. Others are there, in this order.
            assert line.strip() == "..." or line in lines, (command, line)
        ran += 1
    assert ran >= (1 if page in ("memmap", "page", "rules", "survey") else 2)


def run_block(code: str, **names: Any) -> str:
    """Run a program of the manual; return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "manual", "exec"), names)
    return out.getvalue()


def blocks(page: str) -> list[str]:
    """Return the programs of a page."""
    return re.findall(r"```python\n(.*?)```", read(page), flags=re.S)


@pytest.mark.parametrize("page", ["api", "../README"])
def test_programs_that_audit_a_dump(page: str, directory: Path) -> None:
    built(load_scenario("devdax-2m"), "6.12").write(directory / "vmcore")
    code = blocks(page) or [
        block.replace("    ", "", 1).replace("\n    ", "\n")
        for block in re.findall(r"(?m)(?:^    .*\n)+", read(page))
        if block.startswith("    import ")
    ]
    assert len(code) == 1
    prog = Program()
    prog.set_core_dump("vmcore")
    assert run_block(code[0], prog=prog) == f"dax0.0 deduplicated {6 << 20}\n"


def test_a_survey_by_a_program(directory: Path) -> None:
    make(directory, "survey")
    (code,) = blocks("survey")
    out = run_block(code.replace("/var/", f"{directory}/var/"))
    errors = [f"{directory}/var/crash/host{number}/vmcore" for number in (1, 3)]
    assert out == f"{errors}\n"


def test_what_is_typed_at_a_prompt(directory: Path) -> None:
    """Of Python, and of drgn, which has its helpers by name."""
    (code,) = blocks("json")
    failed, tried = doctest.DocTestRunner().run(
        doctest.DocTestParser().get_doctest(code, {}, "json", None, 0)
    )
    assert (failed, tried) == (0, 2)
    built(load_scenario("mixed"), "7.2").write(directory / "vmcore")
    prog = Program()
    prog.set_core_dump("vmcore")
    lines = [
        one[8:] for one in read("drgn").splitlines() if re.match(r"    (>>>|\.\.\.) [^%]", one)
    ]
    *statements, last = "\n".join(lines).splitlines()
    names = {"prog": prog, "pfn_to_page": pfn_to_page}
    # A Kernel has what drgn's prompt has: types.
    import vmemscope

    vmemscope.attach_btf(prog)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec("\n".join(statements), names)
        owners = eval(last, names)
    assert len(out.getvalue().splitlines()) == 5
    assert [name for *_, name in owners] == ["dax1.0"]


def documents(page: str) -> list[dict[str, Any]]:
    """Return the JSON documents of a page."""
    found = re.findall(r"```json\n(.*?)```", read(page), flags=re.S)
    return [json.loads(one) for one in found]


def test_documents_are_those_of_a_lost_reference(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a device of 512 MiB. Times differ, and of the rules there are a few."""
    fixture = (FIXTURES / "refcount-low.toml").read_text(encoding="utf-8")
    built(parse_scenario(fixture.replace("128M", "512M"), "inline"), "6.1").write(
        directory / "vmcore"
    )
    (shown,) = documents("json")
    main(["pgmap", "--format", "json", "-c", "vmcore"])
    real = json.loads(capsys.readouterr().out)
    for part, whole in ((shown, real), (shown["pgmaps"][0], real["pgmaps"][0])):
        rules = part.pop("rules")
        assert rules
        assert all(one in whole["rules"] for one in rules)
        del whole["rules"]
    assert shown.pop("timings").keys() == real.pop("timings").keys()
    assert shown == real
    main(["pgmap", "--format", "ndjson", "-c", "vmcore"])
    lines = list(map(json.loads, capsys.readouterr().out.splitlines()))
    for one in (*lines, *(examples := documents("formats"))):
        for field in ("time", "seconds"):
            one.pop(field, None)
    assert examples == lines


def test_findings_that_are_left_out(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ignore file of the manual, before and after its entry expires."""
    built(load_scenario("mixed"), "7.2").write(directory / "vmcore")
    text = read("selection")
    (ignored,) = re.findall(r"```toml\n(.*?)```", text, flags=re.S)
    for start, year in (("left out: ", "2999"), ("ignored no more: ", "2001")):
        Path("ignore.toml").write_text(ignored.replace("2027", year), encoding="utf-8")
        main(["pgmap", "-c", "vmcore", "--ignore", "ignore.toml"])
        (said,) = [one for one in capsys.readouterr().out.splitlines() if one.startswith(start)]
        assert f"    {said.replace(year, '2027')}" in text.splitlines()


def test_lines_that_are_not_printed_are_found() -> None:
    lines = iter(["a", "b"])
    assert "b" in lines
    assert "a" not in lines
