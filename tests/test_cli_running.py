# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command line of kernels that run, and of those that need a System.map: without any."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from vmemscope import target
from vmemscope.cli.main import main
from vmemscope.target import Target


class TestSystemMap:
    @pytest.mark.parametrize("options", [["-s", "vmlinux"], ["--types", "dwarf"]])
    def test_goes_with_btf_only(
        self, options: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["pgmap", "--sim", "empty", "--system-map", "map", *options]) == 2
        assert "--system-map is not used" in capsys.readouterr().err

    def test_missing(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        path = str(tmp_path / "System.map")
        assert main(["pgmap", "--sim", "empty", "--system-map", path]) == 3
        error = capsys.readouterr().err
        assert error == f"vmemscope: error: cannot read {path}: No such file or directory\n"


class TestVmcoreinfo:
    def test_note_is_saved_and_will_do(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        note, core = tmp_path / "note", str(tmp_path / "vmcore")
        assert main(["sim", "devdax-2m", "-o", core]) == 0
        assert main(["vmcoreinfo", "-c", core, "-o", str(note)]) == 0
        assert note.read_text().startswith("OSRELEASE=")
        capsys.readouterr()
        assert main(["pgmap", "-c", core]) == 0
        without = capsys.readouterr()
        assert main(["pgmap", "-c", core, "--vmcoreinfo", str(note)]) == 0
        assert capsys.readouterr() == without

    def test_to_stdout(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["vmcoreinfo", "--sim", "devdax-2m", "-o", "-"]) == 0
        assert capsys.readouterr().out.startswith("OSRELEASE=")
        assert not Path("-").exists()

    def test_takes_a_file(self) -> None:
        with pytest.raises(SystemExit) as raised:
            main(["vmcoreinfo", "--sim", "empty"])
        assert raised.value.code == 2

    def test_has_no_options_for_types(self) -> None:
        with pytest.raises(SystemExit):
            main(["vmcoreinfo", "--sim", "empty", "-o", "note", "--types", "btf"])


@pytest.mark.parametrize("quiet", [False, True])
def test_notes_go_to_stderr(
    quiet: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_core(path: str, vmcoreinfo: str | None) -> Target:
        return replace(original(path, vmcoreinfo), notes=("reads are slow",))

    original = target.open_core
    monkeypatch.setattr(target, "open_core", open_core)
    assert main(["pgmap", "--sim", "empty", *(["--quiet"] if quiet else [])]) == 0
    output = capsys.readouterr()
    assert output.err == ("" if quiet else "vmemscope: note: reads are slow\n")
    assert "slow" not in output.out


def test_log_goes_to_the_stderr_of_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with io.StringIO() as err:
            monkeypatch.setattr(sys, "stderr", err)
            assert main(["pgmap", "--sim", "empty"]) == 0
            logging.getLogger("vmemscope.types").warning("a\nb\x1b[2J")
            assert err.getvalue() == "vmemscope: warning: a b\\x1b[2J\n"
