# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line as its user meets it: a process, its output and its exit status."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmemscope.cli.main import main
from vmemscope.cli.progress import shown_progress
from vmemscope.sim import build, load_scenario
from vmemscope.target import live

FIXTURES = Path(__file__).parent.parent / "fixtures"
ENVIRONMENT = {**os.environ, "NO_COLOR": "1"}


def run(*arguments: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vmemscope", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
        **kwargs,  # type: ignore[call-overload]
    )


def assert_one_line(result: subprocess.CompletedProcess[str], status: int) -> str:
    assert result.returncode == status
    (line,) = result.stderr.splitlines()
    assert line.startswith("vmemscope: error: ")
    return line


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "vmcore"
    build(load_scenario("mixed"), kernel="6.1").write(path)
    return path


class TestExitStatus:
    def test_sound(self) -> None:
        result = run("pgmap", "--all", "--sim", "devdax-2m")
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines()[-1] == "sound"

    def test_errors(self) -> None:
        result = run("pgmap", "--all", "--sim", str(FIXTURES / "hole.toml"))
        assert (result.returncode, result.stderr) == (1, "")
        assert result.stdout.splitlines()[-1] == "1 error"

    def test_warnings_and_notes_are_no_errors(self) -> None:
        assert run("pgmap", "--sim", str(FIXTURES / "base-pages.toml")).returncode == 0

    def test_errors_elsewhere_count_when_one_pagemap_is_shown(self) -> None:
        result = run("pgmap", "dax1.0", "--sim", str(FIXTURES / "tail-other-pagemap.toml"))
        assert result.returncode == 1

    def test_partial(self) -> None:
        result = run("pgmap", "--all", "--sim", str(FIXTURES / "unreadable-table.toml"))
        assert (result.returncode, result.stderr) == (4, "")
        assert "not read: " in result.stdout

    def test_no_pagemaps_are_sound(self) -> None:
        result = run("pgmap", "--all", "--sim", "empty")
        assert result.returncode == 0
        assert "no pagemaps" in result.stdout

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["nothing"],
            ["pgmap", "-c"],
            ["pgmap", "-c", "vmcore", "--qemu", "sock"],
            ["pgmap", "--all", "dax0.0"],
            ["pgmap", "--types", "stabs"],
            ["pgmap", "--format", "xml"],
        ],
    )
    def test_wrong_usage(self, arguments: list[str]) -> None:
        result = run(*arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("usage: ")
        assert result.stdout == ""


class TestErrors:
    def test_no_such_core(self) -> None:
        line = assert_one_line(run("pgmap", "-c", "/nowhere/vmcore"), 3)
        assert line == "vmemscope: error: cannot open /nowhere/vmcore: No such file or directory"

    def test_no_kernel_dump(self) -> None:
        assert "is not a kernel dump" in assert_one_line(run("pgmap", "-c", __file__), 3)

    def test_path_with_a_newline_stays_on_one_line(self) -> None:
        assert_one_line(run("pgmap", "-c", "/nowhere/a\nb\x1b[2J"), 3)

    def test_no_kcore(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(live, "_KCORE", str(tmp_path / "kcore"))
        assert main(["pgmap"]) == 3
        out, err = capsys.readouterr()
        assert out == ""
        assert all(option in err for option in ("-c", "--qemu", "--sim"))

    def test_no_such_scenario(self) -> None:
        line = assert_one_line(run("pgmap", "--sim", "nothing"), 2)
        assert "devdax-2m" in line

    def test_no_such_pagemap(self, vmcore: Path) -> None:
        line = assert_one_line(run("pgmap", "dax7.0", "-c", str(vmcore)), 2)
        assert "dax0.0, dax3.0, dax1.0, pmem4, dax2.0" in line

    def test_symbols_that_are_not_used(self, vmcore: Path) -> None:
        result = run("pgmap", "-c", str(vmcore), "--types", "btf", "-s", "vmlinux")
        assert "-s" in assert_one_line(result, 2)

    def test_symbols_that_do_not_fit(self, vmcore: Path) -> None:
        result = run("pgmap", "-c", str(vmcore), "-s", sys.executable)
        assert sys.executable in assert_one_line(result, 3)

    def test_output_that_can_not_be_written(self, vmcore: Path) -> None:
        result = run("pgmap", "-c", str(vmcore), "-o", "/nowhere/report")
        assert "/nowhere/report" in assert_one_line(result, 2)

    @pytest.mark.parametrize("before", [True, False])
    def test_debug_shows_the_traceback(self, before: bool) -> None:
        arguments = ["pgmap", "-c", "/nowhere/vmcore"]
        arguments.insert(0 if before else 3, "--debug")
        result = run(*arguments)
        assert "Traceback" in result.stderr
        assert result.returncode != 0

    def test_reader_that_goes_away(self, vmcore: Path) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as gone:
            result = subprocess.run(
                [sys.executable, "-m", "vmemscope", "pgmap", "-c", str(vmcore)],
                stdout=gone,
                stderr=subprocess.PIPE,
                text=True,
                timeout=120,
            )
        assert result.stderr == ""
        assert result.returncode == 141


#: what writes little and what writes much, text and bytes, and what argparse writes
WRITERS = [
    ["--version"],
    ["--help"],
    ["pgmap", "--help"],
    ["rules"],
    ["rules", "tail-frame"],
    ["sim", "--list"],
    ["sim", "devdax-2m", "-o", "-"],
    ["pgmap", "--sim", "devdax-2m"],
    ["memmap", "--sim", "devdax-2m", "--format", "json"],
    ["report", "--sim", "devdax-2m", "--format", "html"],
]


@pytest.mark.parametrize(
    ("arguments", "redirection"),
    [
        *(
            (arguments, redirection)
            for arguments in WRITERS
            for redirection in (">/dev/full", ">&-")
        ),
        # Then what is opened first has the number of standard input or output: here, a dump.
        *((arguments, "<&- >&-") for arguments in WRITERS if "devdax-2m" in arguments),
    ],
    ids=lambda one: one if isinstance(one, str) else " ".join(one),
)
def test_standard_output_that_can_not_be_written(arguments: list[str], redirection: str) -> None:
    """It is not taken for a result, nor for a fault of vmemscope."""
    command = [sys.executable, "-m", "vmemscope", *arguments]
    result = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        stderr=subprocess.PIPE, text=True, timeout=120, env=ENVIRONMENT,
    )  # fmt: skip
    reason = os.strerror(errno.ENOSPC if "full" in redirection else errno.EBADF)
    assert assert_one_line(result, 2).endswith(f"can't write standard output: {reason}")


def test_closed_output_that_is_not_needed(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    arguments = ["pgmap", "--sim", "devdax-2m", "--format", "json", "-o", str(path)]
    command = [sys.executable, "-m", "vmemscope", *arguments]
    script = 'exec "$@" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", script, "sh", *command], timeout=120).returncode == 0
    assert json.loads(path.read_text())["summary"]["errors"] == 0


@pytest.mark.parametrize("arguments", [["pgmap", "-c", "/nonexistent"], ["sim", "nosuch"]])
def test_errors_do_not_go_to_the_output(arguments: list[str]) -> None:
    """Not even if nobody listens to them."""
    command = [sys.executable, "-m", "vmemscope", *arguments]
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, timeout=120
    )
    assert result.returncode in (2, 3)
    assert result.stdout == b""


class TestOutput:
    def test_json_to_a_file(self, vmcore: Path, tmp_path: Path) -> None:
        path = tmp_path / "report.json"
        result = run("pgmap", "-c", str(vmcore), "--format", "json", "-o", str(path))
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        document = json.loads(path.read_text())
        assert [one["name"] for one in document["pgmaps"]] == [
            "dax0.0", "dax3.0", "dax1.0", "pmem4", "dax2.0"
        ]  # fmt: skip
        assert set(document["timings"]) == {
            "attach",
            "types",
            "pagemaps",
            "walk",
            "frames",
            "contents",
            "audit",
        }

    def test_table_fits_its_terminal(self, vmcore: Path) -> None:
        for columns in (80, 100, 160):
            lines = in_terminal(columns, "pgmap", "--all", "-c", str(vmcore)).splitlines()
            table = lines[lines.index("") + 1 : lines.index("", lines.index("") + 1)]
            assert len(table) == 6
            assert max(map(len, table)) <= columns

    def test_simulated_kernels_path_names_the_scenario(self) -> None:
        document = json.loads(run("pgmap", "--sim", "fsdax", "--format", "json").stdout)
        assert document["target"]["path"] == "sim:fsdax"
        assert document["target"]["kind"] == "core"

    def test_one_pagemap_by_each_kind_of_number(self, vmcore: Path) -> None:
        whole = json.loads(run("pgmap", "-c", str(vmcore), "--format", "json").stdout)
        one = whole["pgmaps"][2]
        names = (
            one["name"],
            one["address"],
            one["vmemmap"]["start"],
            one["ranges"][0]["end"],
            str(int(one["ranges"][0]["start"], 16) // 4096),
        )
        outputs = {run("pgmap", name, "-c", str(vmcore)).stdout for name in names}
        assert len(outputs) == 1
        assert "virt_to_page" in outputs.pop()


class TestHelp:
    def test_names_everything_there_is(self) -> None:
        text = run("--help").stdout
        assert all(command in text for command in ("pgmap", "sim"))
        assert all(f"\n  {status}  " in text for status in range(5))

    def test_pgmap(self) -> None:
        text = run("pgmap", "--help").stdout
        for option in ("--all", "-c", "-k", "--qemu", "--sim", "-s", "--types", "--format", "-o"):
            assert option in text
        assert "examples:" in text

    def test_imports_neither_numpy_nor_drgn(self) -> None:
        code = (
            "import sys\nfrom vmemscope.cli.main import main\n"
            "try: main(['pgmap', '--help'])\n"
            "except SystemExit: pass\n"
            "print([m for m in ('numpy', 'drgn', 'tabulate', 'kdumpling') if m in sys.modules])"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout.splitlines()[-1] == "[]"

    def test_version(self) -> None:
        import vmemscope

        assert run("--version").stdout.startswith(f"vmemscope {vmemscope.__version__} (")


class TestSim:
    def test_list(self) -> None:
        names = run("sim", "--list").stdout.split()
        assert {"devdax-2m", "devdax-1g", "altmap", "fsdax", "empty"} <= set(names)

    def test_write(self, tmp_path: Path) -> None:
        path = tmp_path / "vmcore"
        assert run("sim", "devdax-1g", "--release", "7.2", "-o", str(path)).returncode == 0
        result = run("pgmap", "--format", "json", "-c", str(path))
        assert json.loads(result.stdout)["target"]["osrelease"].startswith("7.2")

    def test_write_to_stdout(self, tmp_path: Path) -> None:
        path = tmp_path / "vmcore"
        with path.open("wb") as file:
            command = [sys.executable, "-m", "vmemscope", "sim", "devdax-2m", "-o", "-"]
            subprocess.run(command, stdout=file, check=True, timeout=120)
        assert not Path("-").exists()
        assert run("pgmap", "-c", str(path)).stdout.splitlines()[-1] == "sound"

    def test_says_what_was_planted(self, tmp_path: Path) -> None:
        result = run("sim", str(FIXTURES / "hole.toml"), "-o", str(tmp_path / "vmcore"))
        assert result.returncode == 0
        assert "planted: hole in dax0.0 at 0x" in result.stderr

    def test_escapes_names_of_a_scenario(self, tmp_path: Path) -> None:
        path, name = tmp_path / "its.toml", r'"p\u001b[31m\n\u202e"'
        path.write_text(
            f'[[pagemap]]\nname = {name}\ntype = "p2pdma"\nstart = 0x140000000\nsize = "64M"\n'
            f'[[fault]]\nkind = "page-refcount"\npagemap = {name}\n'
        )
        result = run("sim", str(path), "-o", str(tmp_path / "vmcore"))
        (line,) = result.stderr.splitlines()
        assert line.startswith(r"planted: page-refcount in p\x1b[31m\n\u202e at 0x")

    def test_nothing_to_write(self) -> None:
        assert_one_line(run("sim", "devdax-2m"), 2)
        assert_one_line(run("sim", "devdax-2m", "-o", "/nowhere/vmcore"), 2)


def in_terminal(columns: int, *arguments: str) -> str:
    """Run the command line in a terminal of some width; return what it shows."""
    main_fd, terminal = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "vmemscope", *arguments],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**ENVIRONMENT, "COLUMNS": str(columns)},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(main_fd, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(main_fd)
    process.wait()
    return shown.decode().replace("\r\n", "\n")


class TestProgress:
    class Arguments:
        quiet = False

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def test_not_where_nobody_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with shown_progress(self.Arguments(), "walk", " pages") as progress:  # type: ignore[arg-type]
            assert progress is None

    def test_only_when_the_work_is_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = self.Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: now)
        with shown_progress(self.Arguments(), "vmemmap", " pages") as progress:  # type: ignore[arg-type]
            assert progress is not None
            progress(10, 1000)
            assert terminal.getvalue() == ""
            now = 2.0
            progress(250, 1000)
            assert "vmemmap:  25%" in terminal.getvalue()


class TestEachAuditLeavesALine:
    """``--format ndjson``: a line for a sound target, and for one that can't be audited."""

    @pytest.mark.parametrize("command", ["pgmap", "hugetlb", "memmap"])
    def test_sound(self, command: str) -> None:
        result = run(command, "--sim", "devdax-2m", "--format", "ndjson")
        assert (result.returncode, result.stderr) == (0, "")
        (line,) = map(json.loads, result.stdout.splitlines())
        assert (line["audit"], line["status"], line["verdict"]) == (command, 0, "sound")

    @pytest.mark.parametrize("command", ["pgmap", "hugetlb", "memmap"])
    def test_not_opened(self, command: str, tmp_path: Path) -> None:
        lines = tmp_path / "lines"
        result = run(command, "-c", "/nowhere/vm\ncore", "--format", "ndjson", "-o", str(lines))
        error = assert_one_line(result, 3)
        (line,) = map(json.loads, lines.read_text().splitlines())
        assert (line["audit"], line["status"], line["verdict"]) == (command, 3, "not audited")
        assert line["target"]["path"] == "/nowhere/vm\\ncore"
        assert error == f"vmemscope: error: {line['error']}"

    def test_findings_of_the_memory_map(self) -> None:
        result = run("memmap", "--sim", str(FIXTURES / "leak.toml"), "--format", "ndjson")
        summary, *findings = map(json.loads, result.stdout.splitlines())
        assert (
            [one["rule"] for one in findings]
            == ["vmemmap-leak"]
            == [one["rule"] for one in summary["found"]]
        )
        assert (summary["status"], findings[0]["pagemap"]) == (result.returncode, None)

    def test_wrong_usage_leaves_none(self) -> None:
        result = run("pgmap", "--sim", "nothing", "--format", "ndjson")
        assert_one_line(result, 2)
        assert result.stdout == ""

    def test_a_bug_of_vmemscope_leaves_one(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vmcore: Path
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise IndexError("a\nb")

        monkeypatch.setattr("vmemscope.audits.pagemaps.audit", broken)
        assert main(["pgmap", "-c", str(vmcore), "--format", "ndjson"]) == 3
        out, err = capsys.readouterr()
        assert json.loads(out)["error"].startswith("internal error: IndexError: a b; ")
        assert err.count("\n") == 1
