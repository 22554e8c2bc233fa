# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said of the kernel in Debian's experimental, which ``.ci/full`` looks at."""

from __future__ import annotations

import json
import subprocess

import pytest

from .guests import news
from .guests.packages import Candidate, KernelNotFoundError


@pytest.mark.parametrize(
    ("release", "new"),
    [
        ("7.4-rc1-amd64", True),
        ("8.0~rc3-amd64", True),
        ("7.10-amd64", True),
        ("7.3-amd64", False),
        ("7.3.4+deb13-amd64", False),
        ("6.19-amd64", False),
    ],
)
def test_newer_than_all_that_is_tested(release: str, new: bool) -> None:
    assert news.is_new(release) is new


def test_what_a_command_found() -> None:
    finding = {"severity": "error", "rule": "hole", "message": "1 page of the vmemmap not mapped"}
    document = {
        "findings": [],
        "pgmaps": [{"name": "dax0.0", "state": "partial", "findings": [finding]}],
        "summary": {"not_read": ["page tables: 1"]},
    }
    done = subprocess.CompletedProcess([], 1, json.dumps(document), "")
    assert news.summed(done) == [
        "dax0.0: partial",
        "page tables: 1",
        "error hole dax0.0: 1 page of the vmemmap not mapped",
    ]
    failed = subprocess.CompletedProcess([], 3, "", "vmemscope: error: no types\n")
    assert news.summed(failed) == ["vmemscope: error: no types"]


@pytest.mark.parametrize("failure", [KernelNotFoundError("no mirror"), OSError("no room")])
def test_no_failure_breaks_a_build(
    failure: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(found: Candidate) -> None:
        raise failure

    one = Candidate("experimental", "99.0-rc1-amd64", "99.0~rc1-1", ())
    monkeypatch.setattr(news, "newest_of", lambda suite: one)
    monkeypatch.setattr(news, "look_at", fail)
    assert news.main() == 0
    assert f"news: {failure}" in capsys.readouterr().out
    monkeypatch.setattr(news, "newest_of", lambda suite: None)
    assert news.main() == 0
    assert "experimental has no kernel" in capsys.readouterr().out
