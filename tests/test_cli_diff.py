# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope diff`` as a user runs it: documents, vmcores, and what is neither."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jsonschema
import pytest

from vmemscope.cli.main import main
from vmemscope.report import schema_text
from vmemscope.report.document import MAX_DOCUMENT
from vmemscope.sim import build, load_scenario

from .test_cli import FIXTURES, assert_one_line, run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make vmcores of a sound and of a faulty kernel, and a document of each."""
    directory = tmp_path_factory.mktemp("diff")
    for name, scenario in (("sound", "devdax-2m"), ("faulty", str(FIXTURES / "hole.toml"))):
        build(load_scenario(scenario), kernel="6.12").write(directory / name)
        document = str(directory / f"{name}.json")
        main(["pgmap", "-c", str(directory / name), "--format", "json", "-o", document])
    return directory


def diff(
    capsys: pytest.CaptureFixture[str], before: Path | str, after: Path | str, *options: str
) -> tuple[int, str]:
    status = main(["diff", str(before), str(after), *options])
    out, err = capsys.readouterr()
    assert err == ""
    return status, out


@pytest.mark.parametrize("before", ["sound", "sound.json"])
@pytest.mark.parametrize("after", ["faulty", "faulty.json"])
def test_worse(files: Path, capsys: pytest.CaptureFixture[str], before: str, after: str) -> None:
    status, out = diff(capsys, files / before, files / after)
    assert status == 1
    assert "new: error hole dax0.0 at 0x" in out
    assert "worse: dax0.0: 1 new error of rule hole\n" in out


def test_better(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = diff(capsys, files / "faulty.json", files / "sound.json")
    assert (status, out.splitlines()[-1]) == (0, "nothing got worse")


@pytest.mark.parametrize("name", ["sound", "faulty"])
def test_dump_and_its_document_are_the_same(
    files: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    status, out = diff(capsys, files / name, files / f"{name}.json")
    assert (status, out.splitlines()[-1]) == (0, "no difference")


def test_json(files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "diff.json"
    options = ("--format", "json", "-o", str(path))
    assert diff(capsys, files / "sound.json", files / "faulty.json", *options) == (1, "")
    document = json.loads(path.read_text())
    jsonschema.Draft202012Validator(json.loads(schema_text("vmemscope.diff/1"))).validate(document)
    assert document["before"]["source"] == str(files / "sound.json")
    [changed] = document["pgmaps"]["changed"]
    assert [one["rule"] for one in changed["findings"]["new"]] == ["hole"]


def test_document_through_a_pipe(
    files: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(
        target=lambda: fifo.write_bytes(b"\n " + (files / "sound.json").read_bytes())
    )
    writer.start()
    status, out = diff(capsys, fifo, files / "sound.json")
    writer.join()
    assert (status, out.splitlines()[-1]) == (0, "no difference")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing of the kind",
        b"{",
        b"{}",
        b"[1]",
        b"[" * 200_000,
        b'{"schema": "vmemscope.memmap/1"}',
        b'{"schema": "\\u001b[2J\\n"}',
        b"\x7fELF",
        b"KDUMP   ",
    ],
    ids=repr,
)
def test_what_is_neither(files: Path, tmp_path: Path, content: bytes, which: int) -> None:
    bad = tmp_path / "bad\n\x1b[2J"
    bad.write_bytes(content)
    paths = [str(files / "sound.json")] * 2
    paths[which] = str(bad)
    line = assert_one_line(run("diff", *paths), 3)
    assert line.isprintable()


def test_what_is_too_large(files: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.write(b"[")
        file.truncate(MAX_DOCUMENT + 1)
    line = assert_one_line(run("diff", str(files / "sound.json"), str(large)), 3)
    assert "larger" in line


def test_what_is_not_there(files: Path) -> None:
    assert "No such file" in assert_one_line(run("diff", "/nowhere/a", "/nowhere/b"), 3)
    assert "directory" in assert_one_line(run("diff", "/", "/"), 3)


def test_wrong_usage(files: Path) -> None:
    assert run("diff", "a").returncode == 2
    assert_one_line(run("diff", "a", "b", "--types", "btf", "-s", "vmlinux"), 2)


def test_documents_need_neither_numpy_nor_drgn(files: Path) -> None:
    code = (
        "import sys\nfrom vmemscope.cli.main import main\n"
        f"main(['diff', {str(files / 'sound.json')!r}, {str(files / 'faulty.json')!r}])\n"
        "print([m for m in ('numpy', 'drgn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_help_says_what_its_exit_statuses_mean() -> None:
    text = run("diff", "--help").stdout
    assert "1  something got worse" in text
    assert "examples:" in text
