# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files: written whole or not at all, and nothing left lying about."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from vmemscope.errors import ExitStatus, UsageError
from vmemscope.report import write_atomically


def test_new_file(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_atomically(str(path), "déjà vu\n")
    assert path.read_bytes() == "déjà vu\n".encode()
    assert os.listdir(tmp_path) == ["report.json"]


def test_old_file_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    path, link = tmp_path / "report.json", tmp_path / "link"
    path.write_text("old and longer than the new\n")
    os.link(path, link)
    write_atomically(str(path), "new\n")
    assert path.read_text() == "new\n"
    assert link.read_text() == "old and longer than the new\n"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_mode_follows_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    path = tmp_path / "report.json"
    before = os.umask(umask)
    try:
        write_atomically(str(path), "")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old\n")

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises((UsageError, KeyboardInterrupt)) as caught:
        write_atomically(str(path), "new\n")
    monkeypatch.undo()
    assert path.read_text() == "old\n"
    assert os.listdir(tmp_path) == ["report.json"]
    if isinstance(error, OSError):
        assert str(caught.value) == f"can't write {path}: No space left on device"


def test_text_is_on_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(fd: int) -> None:
        calls.append("fsync")
        assert os.fstat(fd).st_size == 5
        fsync(fd)

    def noted_replace(source: str, target: str) -> None:
        calls.append("replace")
        assert Path(source).parent == Path(target).parent == tmp_path
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomically(str(tmp_path / "out"), "text\n")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing/report.json", "No such file or directory; name a file in a directory that is"),
        ("file/report.json", "Not a directory; name a file in a directory that is"),
        (".", "Is a directory"),
        ("", "Is a directory"),
        ("nul\0", "embedded null"),
    ],
)
def test_what_can_not_be_written_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        write_atomically(name, "text\n")
    assert str(caught.value).startswith("can't write ")
    assert reason in str(caught.value)
    assert str(caught.value).isprintable()
    assert caught.value.exit_status is ExitStatus.USAGE
    assert os.listdir(tmp_path) == ["file"]


def test_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there/report.json")
    write_atomically(str(link), "one\n")
    write_atomically(str(link), "two\n")
    assert link.is_symlink()
    assert (tmp_path / "there" / "report.json").read_text() == "two\n"
    assert os.listdir(tmp_path / "there") == ["report.json"]


def test_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(path.read_text()))
    reader.start()
    write_atomically(str(path), "text\n")
    reader.join(10)
    assert got == ["text\n"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomically("report.json", "text\n")
    assert (tmp_path / "report.json").read_text() == "text\n"
