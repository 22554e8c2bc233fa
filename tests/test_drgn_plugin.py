# SPDX-License-Identifier: LGPL-2.1-or-later
"""
vmemscope in drgn's own command line, and the helpers for its prompt.

drgn runs in a process of its own, on a dump of a simulated kernel. Helpers are compared
with drgn's own, and with a walk of the page tables entry by entry.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drgn import Object, Program
from drgn.helpers.linux.mm import pfn_to_page

import vmemscope
from vmemscope.cli.main import main

from .kernels import KERNELS, STRUCT_PAGE, Dumps, image, write

#: seconds that drgn has
TIMEOUT = 120


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(image("mixed", "7.2"), tmp_path_factory.mktemp("plugin"))


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which drgn has no history, no colours and no debuginfod."""
    hidden = ("DRGN_PLUGINS", "DRGN_DISABLE_PLUGINS", "DEBUGINFOD_URLS")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "TERM": "dumb", "PAGER": "cat", **more}


def drgn(core: str, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run code in drgn's command line."""
    words = [sys.executable, "-m", "drgn", "-q", "-c", core, "-e", code]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=TIMEOUT, env=environment(**more)
    )


def command(core: str, *commands: str) -> subprocess.CompletedProcess[str]:
    """Run commands as drgn's prompt does."""
    lines = ["from drgn.commands import run_command, _write_command_error", "import sys"]
    lines += [
        f"run_command(prog, {one!r}, onerror=lambda e: _write_command_error(sys.stderr, e))"
        for one in commands
    ]
    return drgn(core, "\n".join(lines))


@pytest.mark.parametrize(
    ("command_", "form"),
    [("pgmap", "json"), ("memmap", "json"), ("hugetlb", "json"), ("page 0x100003", "json"),
     ("pgmap dax0.0", "table"), ("report", "text")],
)  # fmt: skip
def test_commands_say_what_the_command_line_says(
    core: str, command_: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([*command_.split(), "-c", core, "--format", form, "-q"])
    assert status in (0, 1)
    expected = capsys.readouterr().out
    done = command(core, f"vmemscope {command_} --format {form}")
    assert done.stderr == ""
    assert done.returncode == 0
    if form == "json":
        ours, theirs = json.loads(expected), json.loads(done.stdout)
        del ours["timings"], theirs["timings"]
        assert ours == theirs
    else:
        assert done.stdout == expected


def test_redirections_pipes_and_files(core: str, tmp_path: Path) -> None:
    done = command(
        core,
        f"vmemscope pgmap > {tmp_path}/redirected",
        f"vmemscope report -o {tmp_path}/report.html",
        "vmemscope pgmap | wc -l",
    )
    assert done.stderr == ""
    text = (tmp_path / "redirected").read_text()
    assert "dax1.0" in text
    assert done.stdout.split() == [str(len(text.splitlines()))]
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("vmemscope", "the following arguments are required: COMMAND"),
        ("vmemscope nothing", "invalid choice: 'nothing'"),
        ("vmemscope pgmap dax9.9", "no pagemap is called 'dax9.9'"),
        ("vmemscope page nothing", "neither a page frame number nor an address"),
        ("vmemscope pgmap --watch 1", "a dump does not change"),
        ("vmemscope pgmap -c /etc/passwd", "unrecognized arguments: -c"),
        ("vmemscope report -o /nowhere/there", "can't write /nowhere/there"),
    ],
)
def test_what_is_wrong_is_one_line_and_drgn_goes_on(core: str, line: str, error: str) -> None:
    done = command(core, line, "vmemscope page 0x100003 | tail -1")
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.returncode == 0
    assert "its struct page lies in" in done.stdout


def test_help(core: str) -> None:
    done = command(core, "vmemscope --help", "vmemscope page -h")
    assert done.stderr == ""
    assert done.stdout.count("show everything about one page") == 1
    assert "audit the kernel's memory map" in done.stdout
    # There is a target already.
    assert "--qemu" not in done.stdout


def test_types_that_the_program_has_are_used(core: str) -> None:
    code = """
import vmemscope
from drgn.commands import run_command
vmemscope.attach_btf(prog)
before = prog.registered_type_finders(), prog.registered_object_finders()
run_command(prog, "vmemscope pgmap > /dev/null")
assert (prog.registered_type_finders(), prog.registered_object_finders()) == before
assert vmemscope.audit(prog).target.types == "program"
print(prog["pgmap_array"].type_.type_name())
"""
    done = drgn(core, code)
    assert done.stderr == ""
    assert done.stdout == "struct xarray\n"


def test_no_command_for_other_programs() -> None:
    words = [sys.executable, "-m", "drgn", "-q", "-p", "0", "-e"]
    code = (
        "from drgn.commands import run_command\n"
        "run_command(prog, 'vmemscope pgmap', onerror=lambda e: print(e))"
    )
    done = subprocess.run(
        [*words, code], capture_output=True, text=True, timeout=TIMEOUT, env=environment()
    )
    assert done.stdout == "vmemscope: command not found\n"


def test_at_the_prompt(core: str) -> None:
    """A terminal, as a user has it."""
    words = [sys.executable, "-m", "drgn", "-q", "-c", core]
    terminal, other = pty.openpty()
    # The line editor of Python 3.13 and newer does not run on a dumb one.
    env = environment(TERM="xterm")
    process = subprocess.Popen(words, stdin=other, stdout=other, stderr=other, env=env)
    os.close(other)
    os.write(terminal, b"%vmemscope page 0x100003 | tail -1\n1 + 41\nexit()\n")
    shown = b""
    end = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < end:
            try:
                data = os.read(terminal, 4096)
            except OSError:
                # The other side is closed.
                break
            if not data:
                break
            shown += data
        assert process.wait(TIMEOUT) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert b"its struct page lies in pfn 0x1005 of RAM" in shown
    assert b"42" in shown
    assert b"Traceback" not in shown


def test_the_plugin_takes_nothing_that_drgn_does_not_take(core: str) -> None:
    code = f"import sys, drgn\ndrgn.Program().set_core_dump({core!r})\nprint(*sorted(sys.modules))"

    def loaded(disabled: str) -> set[str]:
        more = environment(DRGN_DISABLE_PLUGINS=disabled)
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=more)
        return set(done.stdout.split())

    with_it, without = loaded(""), loaded("vmemscope")
    assert with_it - without == {"vmemscope", "vmemscope._lazy", "vmemscope.drgn_plugin"}


def test_our_own_command_line_does_not_load_it(core: str) -> None:
    code = (
        "import sys\nfrom vmemscope.cli.main import main\n"
        f"main(['pgmap', '-q', '-o', '/dev/null', '-c', {core!r}])\n"
        "assert not {'vmemscope.drgn_plugin', 'drgn.commands'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


# Helpers.


def program(core: str | Path) -> Program:
    prog = Program()
    prog.set_core_dump(core)
    return prog


@pytest.mark.parametrize("kernel", KERNELS)
def test_pagemaps_are_those_of_the_xarray(dumps: Dumps, kernel: str) -> None:
    prog = program(dumps.core("mixed", kernel))
    expected = list(dumps.view("mixed", kernel).pgmaps())
    found = [one.value_() for one in vmemscope.for_each_dev_pagemap(prog)]
    assert sorted(found) == sorted(expected)
    assert len(found) == len(set(found)) == 5
    # They are objects of the program: drgn goes on from there.
    (first, *_) = vmemscope.for_each_dev_pagemap(prog)
    assert first.nr_range.value_() == 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_pagemap_of_a_page(dumps: Dumps, kernel: str) -> None:
    made = dumps.made("mixed", kernel)
    prog = program(made.core)
    vmemscope.attach_btf(prog)
    by_range = {
        (one.range.start.value_() if one.nr_range == 1 else 0): one
        for one, _ in dumps.view("mixed", kernel).pgmaps().values()
    }
    for ranges in made.ranges.values():
        for start, end in ranges:
            for pfn in (start, (start + end) // 2, end - 1):
                page = pfn_to_page(prog, pfn)
                found = vmemscope.pagemap_of(prog, page)
                assert found is not None
                assert found.value_() == by_range[start << 12].value_()
                assert vmemscope.pagemap_of(prog, page.value_()) == found
            assert vmemscope.pagemap_of(prog, pfn_to_page(prog, start - 1)) != found
    assert vmemscope.pagemap_of(prog, pfn_to_page(prog, 0x300)) is None
    with pytest.raises(vmemscope.VmemscopeError, match="not the address of a struct page"):
        vmemscope.pagemap_of(prog, pfn_to_page(prog, 0x300).value_() + 8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_frame_of_a_struct_page(dumps: Dumps, kernel: str) -> None:
    made, view = dumps.made("mixed", kernel), dumps.view("mixed", kernel)
    prog = program(made.core)
    pfns = [pfn for ranges in made.ranges.values() for start, _ in ranges
            for pfn in range(start, start + 1024, 37)]  # fmt: skip
    for pfn in (*pfns, 0x1, 0x300):
        expected = view.physical(view.page_va(pfn))
        assert expected is not None
        assert vmemscope.vmemmap_frame(prog, pfn) == expected // 4096
    assert vmemscope.vmemmap_frame(prog, 0x7FFF_FFFF) is None
    with pytest.raises(vmemscope.VmemscopeError, match="no page frame number"):
        vmemscope.vmemmap_frame(prog, 1 << 60)


@pytest.mark.parametrize("kernel", KERNELS)
def test_owners_of_a_frame(dumps: Dumps, kernel: str) -> None:
    made, view = dumps.made("mixed", kernel), dumps.view("mixed", kernel)
    prog = program(made.core)
    pages = view.pages()
    start = made.ranges["dax0.0"][0][0]
    for pfn in (start, start + 100, start + 511):
        frame = vmemscope.vmemmap_frame(prog, pfn)
        assert frame is not None
        backs = vmemscope.frame_owners(prog, frame)
        assert backs is not None
        expected = sorted(va for va, (other, _) in pages.items() if other == frame)
        found = [run.address + number * 4096 for run in backs.runs for number in range(run.pages)]
        assert found == expected
        assert backs.pages == len(expected)
        assert {run.name for run in backs.runs} == {"dax0.0"}
        assert backs.runs[0].first_pfn == (expected[0] - view.vmemmap) // STRUCT_PAGE
    assert vmemscope.frame_owners(prog, 0x300) is None


def test_btf_is_attached_once(core: str) -> None:
    prog = program(core)
    vmemscope.attach_btf(prog)
    vmemscope.attach_btf(prog)
    assert isinstance(prog["init_task"], Object)
    other = program(core)
    list(vmemscope.for_each_dev_pagemap(other))
    vmemscope.attach_btf(other)
    assert isinstance(other["init_task"], Object)
