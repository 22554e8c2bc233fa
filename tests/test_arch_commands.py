# SPDX-License-Identifier: LGPL-2.1-or-later
"""``diff`` and ``pgmap --watch`` on simulated kernels of other architectures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

import vmemscope.target
from vmemscope.cli.main import main
from vmemscope.cli.watch import watch
from vmemscope.target import Target, open_core

from .kernels import DEVICE, image, write

ARCHS = ("arm64", "arm64-16k", "arm64-64k", "ppc64le", "ppc64le-64k", "riscv64", "s390x")
FAULT = '[[fault]]\nkind = "wrong-pgmap"\npagemap = "dax0.0"\ncompound = 3\n'


@pytest.fixture(params=ARCHS)
def dumps(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A sound kernel, and the same with a fault."""
    for name, scenario in (("sound", DEVICE), ("faulty", DEVICE + FAULT)):
        (tmp_path / name).mkdir()
        write(image(scenario, f"7.2@{request.param}"), tmp_path / name)
    return tmp_path / "sound/vmcore", tmp_path / "faulty/vmcore"


def test_diff(dumps: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Of dumps and of a document, in both directions."""
    sound, faulty = dumps
    document = sound.with_suffix(".json")
    assert main(["pgmap", "-c", str(sound), "--format", "json", "-o", str(document)]) == 0
    assert main(["diff", str(sound), str(faulty)]) == 1
    out = capsys.readouterr().out
    assert "new: error pgmap-link dax0.0 at 0x" in out
    assert "worse: dax0.0: 1 new error of rule pgmap-link\n" in out
    assert main(["diff", str(faulty), str(document)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing got worse"
    assert main(["diff", str(sound), str(document)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no difference"


def test_diff_of_two_architectures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same device, deduplicated by one kernel and not by the other: less is saved."""
    cores = []
    for arch in ("riscv64", "s390x"):
        (tmp_path / arch).mkdir()
        cores.append(write(image(DEVICE, f"7.2@{arch}"), tmp_path / arch))
    assert main(["diff", *cores, "--format", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    (changed,) = document["pgmaps"]["changed"]
    changes = {one["field"]: (one["before"], one["after"]) for one in changed["changes"]}
    assert changes["state"] == ("deduplicated", "not-optimized")


def test_watch(
    dumps: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Memory that changes between two audits: what is new, and what is gone."""
    sound, faulty = dumps
    states = [faulty.read_bytes(), sound.read_bytes()]
    assert len(states[0]) == len(states[1])

    def open_live(vmcoreinfo: str | None = None) -> Target:
        return replace(open_core(str(sound)), kind="live", path="/proc/kcore")

    def sleep(seconds: float) -> None:
        if not states:
            raise KeyboardInterrupt
        with sound.open("r+b") as file:
            file.write(states.pop(0))

    clock: Callable[[], time.struct_time] = lambda: time.gmtime(0)  # noqa: E731
    monkeypatch.setattr(vmemscope.target, "open_live", open_live)
    monkeypatch.setattr(
        watch, "__kwdefaults__", dict(watch.__kwdefaults__ or {}, sleep=sleep, clock=clock)
    )
    assert main(["pgmap", "--watch", "3"]) == 0
    _, first, second, third = capsys.readouterr().out.split("1970-01-01")
    assert "since the last audit" not in first
    assert "new: error pgmap-link dax0.0 at 0x" in second
    assert "gone: error pgmap-link dax0.0 at 0x" in third
