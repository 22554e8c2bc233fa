# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parts of a survey: which files are dumps, limits, processes that die, records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from vmemscope.cli.main import main
from vmemscope.errors import TargetError, UsageError
from vmemscope.report import schema_text
from vmemscope.report.documents.survey import SurveyRecord
from vmemscope.report.survey import render_survey
from vmemscope.survey import child, worker
from vmemscope.survey.dumps import Dump, find_dumps
from vmemscope.survey.run import survey
from vmemscope.survey.store import Store, opened_store
from vmemscope.survey.worker import ProcessLimits, audited, parse_record

from ..kernels import image
from ..report.builders import hostile


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("survey") / "core"
    image("hole", "6.1").write(path)
    return path


def dump_of(path: Path) -> Dump:
    (found,) = find_dumps([str(path)], print)
    return found


def record(path: str = "/a", **more: Any) -> SurveyRecord:
    fields: dict[str, Any] = {
        "size": 1,
        "modified": 2,
        "error": "why",
        "time": "2026-11-28T04:02:11Z",
    }
    return SurveyRecord.failed(path, **{**fields, "seconds": 0, **more})


def stand_in(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have another process in the place of the one that audits."""
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, "-c", code))


class TestDumps:
    def test_which_files_are_dumps(self, core: Path, tmp_path: Path) -> None:
        (tmp_path / "a" / "b").mkdir(parents=True)
        for name in ("any-name", "a/b/dump.202611280400"):
            os.link(core, tmp_path / name)
        for name in ("vmcore", "a/vmcore-incomplete", "a/b/vmcore.flat"):
            (tmp_path / name).write_bytes(b"nothing")
        for name in ("vmcore-dmesg.txt", "a/vmlinux", "a/empty"):
            (tmp_path / name).write_bytes(
                b"\x7fELF\2\1\1" + bytes(9) + b"\2\0" if "x" in name else b""
            )
        (tmp_path / "kdump").write_bytes(b"KDUMP   " + bytes(100))
        os.symlink(core, tmp_path / "link")
        os.symlink(tmp_path, tmp_path / "a" / "circle")
        os.mkfifo(tmp_path / "vmcore.fifo")
        warnings: list[str] = []
        found = find_dumps([str(tmp_path), str(tmp_path / "any-name")], warnings.append)
        assert [os.path.relpath(one.path, tmp_path) for one in found] == [
            "a/b/dump.202611280400", "a/b/vmcore.flat", "a/vmcore-incomplete", "any-name",
            "kdump", "vmcore",
        ]  # fmt: skip
        assert warnings == []

    def test_a_named_file_is_one_whatever_it_is(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        assert find_dumps([str(missing), str(missing)], print) == [Dump(str(missing), 0, 0)]

    def test_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["survey", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
        assert "there is no vmcore in" in capsys.readouterr().err


class TestWorker:
    def test_record(self, core: Path) -> None:
        found = parse_record(audited(dump_of(core), ProcessLimits()))
        assert (found.path, found.size) == (str(core), core.stat().st_size)
        assert (found.status, found.error, found.osrelease) == (1, None, "6.1.0-56-amd64")
        # What single pages have of it is not counted twice.
        assert sorted(one.rule for one in found.findings) == ["hole", "section-unmapped"]
        assert found.errors == 2
        assert {one.audit for one in found.audits} == {"pgmap", "hugetlb", "memmap", "page"}
        (pagemap,) = found.pagemaps
        assert (pagemap.name, pagemap.type, pagemap.state) == ("dax0.0", "generic", "partial")

    def test_a_record_is_bounded(self, core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path, size, modified = dump_of(core)
        whole = child.audit_dump(path, size, modified)
        monkeypatch.setattr(child, "_LIMIT", 1)
        one = child.audit_dump(path, size, modified)
        assert (len(whole.findings), len(one.findings)) == (2, 1)
        assert one.errors == whole.errors == 2

    def test_a_limit_of_memory(self, core: Path) -> None:
        found = parse_record(audited(dump_of(core), ProcessLimits(memory=8 << 20)))
        assert found.status == 3
        assert found.error is not None

    def test_a_limit_of_time(self, core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stand_in(monkeypatch, "import time; print('{', flush=True); time.sleep(100)")
        found = parse_record(audited(dump_of(core), ProcessLimits(seconds=0.5)))
        assert (found.status, found.error) == (3, "its audit took longer than 0.5 s")
        assert 0.5 <= found.seconds < 30

    def test_the_process_ends_by_itself(self, core: Path) -> None:
        # Whoever started it may be gone.
        code = (
            "import vmemscope.survey.child as child, time\n"
            "child._GRACE = 1\n"
            "child.audit_dump = lambda *args: time.sleep(100)\n"
            "child.main(['/a', '1', '2', '{\"seconds\": 0.5, \"memory\": 4294967296}'])\n"
        )
        done = subprocess.run([sys.executable, "-c", code], timeout=60)
        assert done.returncode == -14

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("import os; os.kill(os.getpid(), 9)", "the process of its audit was ended by SIGKILL"),
            (
                "import os; os.kill(os.getpid(), 11)",
                "the process of its audit was ended by SIGSEGV",
            ),
            ("raise SystemExit('a\\nb')", "the process of its audit failed: b"),
            ("raise SystemExit(7)", "the process of its audit failed: exit status 7"),
            ("bytearray(1 << 62)", "its audit needs more than 4 GiB of memory"),
            ("", "its audit returned no record"),
            ("print('{')", "its audit returned no record"),
        ],
    )
    def test_processes_that_die(
        self, core: Path, monkeypatch: pytest.MonkeyPatch, code: str, error: str
    ) -> None:
        stand_in(monkeypatch, f"{code}\n")
        found = parse_record(audited(dump_of(core), ProcessLimits()))
        assert (found.status, found.error) == (3, error)

    def test_hostile_names(self, core: Path, tmp_path: Path) -> None:
        path = tmp_path / f"{hostile()[:6]}\udcff"
        os.link(core, path)
        found = parse_record(audited(dump_of(path), ProcessLimits()))
        assert found.status == 1
        assert found.path.isprintable()
        store = Store(None, None)
        with ThreadPoolExecutor(1) as executor:
            assert survey([dump_of(path)], executor, store, jobs=1) == 1
            assert survey([dump_of(path)], executor, store, jobs=1) == 0


class Broken(Executor):
    """An executor whose second task is lost."""

    def __init__(self) -> None:
        self.tasks = 0

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.tasks += 1
        future: Future[Any] = Future()
        if self.tasks == 2:
            future.set_exception(RuntimeError("the worker\ndied"))
        else:
            future.set_result(function(*args, **kwargs))
        return future


class TestRun:
    @pytest.fixture
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have records without audits."""
        code = (
            "import sys\n"
            "from vmemscope.survey.worker import Dump, Stopwatch, failure\n"
            "path, size, modified = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n"
            "print(failure(Dump(path, size, modified), 'quick', Stopwatch()), end='')\n"
        )
        stand_in(monkeypatch, code)

    def dumps(self, number: int) -> list[Dump]:
        return [Dump(f"/dump{n}", n, 2 * n) for n in range(number)]

    @pytest.mark.usefixtures("quick")
    def test_a_task_that_the_executor_lost(self) -> None:
        store = Store(None, None)
        assert survey(self.dumps(3), Broken(), store, jobs=1) == 3
        errors = [one.error for one in store.records]
        lost = "its audit could not be run: RuntimeError: the worker died"
        assert errors == ["quick", lost, "quick"]

    @pytest.mark.usefixtures("quick")
    def test_progress(self) -> None:
        seen: list[tuple[int, int]] = []
        store = Store(None, None)
        store.add(record("/dump0", size=0, modified=0))
        with ThreadPoolExecutor(2) as executor:
            survey(self.dumps(4), executor, store, jobs=2, progress=lambda *a: seen.append(a))
        assert (seen[0], seen[-1]) == ((1, 4), (4, 4))

    def test_any_executor(self, core: Path) -> None:
        store = Store(None, None)
        with ProcessPoolExecutor(1) as executor:
            assert survey([dump_of(core)], executor, store, jobs=1) == 1
        assert [one.status for one in store.records] == [1]

    @pytest.mark.usefixtures("quick")
    def test_what_changed_is_done_again(self) -> None:
        store = Store(None, None)
        dumps = self.dumps(3)
        with ThreadPoolExecutor(1) as executor:
            assert survey(dumps, executor, store, jobs=1) == 3
            assert survey(dumps, executor, store, jobs=1) == 0
            dumps[1] = dumps[1]._replace(size=7)
            dumps[2] = dumps[2]._replace(modified=7)
            assert survey(dumps, executor, store, jobs=1) == 2
            assert [(one.size, one.modified) for one in store.records] == [(0, 0), (7, 2), (2, 7)]
            assert survey(dumps, executor, store, jobs=1, again=lambda status: status == 3) == 3
            assert survey(dumps, executor, store, jobs=1, again=lambda status: status == 0) == 0


@pytest.mark.parametrize("suffix", ["ndjson", "parquet"])
class TestStore:
    def test_round_trip(self, tmp_path: Path, suffix: str, core: Path) -> None:
        path = str(tmp_path / f"out.{suffix}")
        real = parse_record(audited(dump_of(core), ProcessLimits()))
        with opened_store(path) as store:
            store.add(record())
            store.add(real)
            store.add(record(error="later"))
        with opened_store(path) as store:
            assert store.records == sorted([record(error="later"), real], key=lambda one: one.path)
            # Records of dumps that are not there any more stay.
            store.add(record("/b"))
        with opened_store(path) as store:
            assert len(store.records) == 3
        assert os.listdir(tmp_path) == [f"out.{suffix}"]

    def test_the_journal_is_what_a_killed_survey_leaves(self, tmp_path: Path, suffix: str) -> None:
        path = str(tmp_path / f"out.{suffix}")
        with opened_store(path) as store:
            store.add(record("/a", error="old"))
        lines = [json.dumps(json_of(record(name, error="new"))) for name in ("/a", "/b")]
        journal = f"{lines[0]}\n\x00garbage\n[1]\n{lines[1]}\n{lines[1][:50]}"
        Path(f"{path}.journal").write_text(journal)
        with opened_store(path) as store:
            assert [(one.path, one.error) for one in store.records] == [
                ("/a", "new"),
                ("/b", "new"),
            ]
            store.add(record("/c"))
            # It can be killed once more.
            last = Path(f"{path}.journal").read_bytes().splitlines()[-1]
            assert parse_record(last).path == "/c"

    def test_other_files_are_left_alone(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"out.{suffix}"
        for data in (b"precious\n", b'{"schema": "vmemscope.pgmap/1"}\n', b"[" * 100000):
            path.write_bytes(data)
            with (
                pytest.raises(TargetError, match="has no records of a survey"),
                opened_store(str(path)),
            ):
                raise AssertionError
            assert path.read_bytes() == data
            assert os.listdir(tmp_path) == [path.name]

    def test_one_at_a_time(self, tmp_path: Path, suffix: str) -> None:
        path = str(tmp_path / f"out.{suffix}")
        with opened_store(path) as store:
            store.add(record())
            with pytest.raises(UsageError, match="another survey is writing"), opened_store(path):
                raise AssertionError
        with opened_store(path) as store:
            assert len(store.records) == 1

    def test_not_written(self, tmp_path: Path, suffix: str) -> None:
        with (
            pytest.raises(UsageError, match="can't write"),
            opened_store(str(tmp_path / "none" / f"out.{suffix}")),
        ):
            raise AssertionError


def json_of(one: SurveyRecord) -> Any:
    from vmemscope.report import to_document

    return to_document(one)


def test_columns_of_parquet_are_the_fields_of_the_schema() -> None:
    from vmemscope.survey.parquet import schema

    properties = json.loads(schema_text("vmemscope.survey/1"))["$defs"]
    assert schema().names == list(properties["SurveyRecord"]["properties"])
    inner = schema().field("findings").type.value_type
    assert [one.name for one in inner] == list(properties["SurveyFinding"]["properties"])


def test_the_manual_names_every_field() -> None:
    text = (Path(__file__).parents[2] / "docs" / "survey.md").read_text(encoding="utf-8")
    for kind in json.loads(schema_text("vmemscope.survey/1"))["$defs"].values():
        assert {name for name in kind.get("properties", ()) if f"`{name}`" not in text} <= {
            "version"
        }


def test_table_of_hostile_records() -> None:
    text = render_survey([record("/a\x1b[2J\n", error=hostile())], 1, 80)
    assert all(line.isprintable() for line in text.splitlines())
    assert "not audited: 1 vmcore: a\\x1b[2J" in text


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--executor", "slurm"], "there is no executor 'slurm'"),
        (["--executor", "dask"], "there is no executor 'dask'"),
        (["--executor", "dask:nonsense://x"], "'nonsense://x' is no address of a Dask scheduler"),
        (["--executor", "dask:x"], "'x' is no address of a Dask scheduler: missing port"),
    ],
)
def test_executors(
    core: Path, capsys: pytest.CaptureFixture[str], args: list[str], why: str
) -> None:
    assert main(["survey", str(core), *args]) in (2, 3)
    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "args", [["-j", "0"], ["--time-limit", "nan"], ["--memory-limit", "4X"], ["--memory-limit", ""]]
)
def test_wrong_usage(core: Path, capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["survey", str(core), *args])
    assert caught.value.code == 2
    assert "usage: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "args"),
    [("pyarrow", ["-o", "out.parquet"]), ("distributed", ["--executor", "dask:tcp://127.0.0.1:1"])],
)
def test_without_an_extra_one_line_says_so(core: Path, module: str, args: list[str]) -> None:
    code = f"import sys; sys.modules[{module!r}] = None\n"
    code += "from vmemscope.cli.main import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "survey", str(core), *args],
        capture_output=True, text=True, cwd=core.parent,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'vmemscope[" in done.stderr
    assert done.stderr.count("\n") == 1
    # Before any dump was audited.
    assert not (core.parent / "out.parquet.journal").exists()
