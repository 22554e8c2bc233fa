# SPDX-License-Identifier: LGPL-2.1-or-later
"""``vmemscope survey`` as its user meets it: 40 dumps, damage, interruption, a lost worker."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest

from vmemscope.report import schema_text

from .conftest import Tree

DOCS = Path(__file__).parents[2] / "docs" / "survey.md"
SCHEMA = jsonschema.Draft202012Validator(json.loads(schema_text("vmemscope.survey/1")))


def command(*args: str) -> list[str]:
    return [sys.executable, "-m", "vmemscope", "survey", *args]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=300)


def lines_of(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        SCHEMA.validate(line)
    return lines


def check(lines: list[dict[str, Any]], tree: Tree) -> None:
    """Check that each dump has one record, with what must be in it."""
    assert Counter(line["path"] for line in lines) == Counter(list(tree.expected))
    statuses = {line["path"]: line["status"] for line in lines}
    assert {path: (statuses[path], status) for path, status in tree.expected.items()} == {
        path: (status, status) for path, status in tree.expected.items()
    }
    found = Counter(rule for line in lines for rule in {one["rule"] for one in line["findings"]})
    assert {rule: found[rule] for rule in tree.rules} == tree.rules
    for line in lines:
        assert (line["status"] == 3) == (not line["audits"])
        assert (line["error"] is None) == (line["status"] != 3)


def summary(tree: Tree) -> str:
    """Return the first line of the report on a tree."""
    all_, sound, wrong, partly, not_audited = (tree.times * n for n in (40, 12, 10, 2, 16))
    return (
        f"{all_} vmcores: {sound} sound, {wrong} with errors, {partly} audited in part,"
        f" {not_audited} not audited"
    )


@contextmanager
def running(*args: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        args,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what runs in its background ignore it, and so would this.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as it:
        try:
            yield it
        finally:
            it.kill()


def waited_for(path: Path, lines: int) -> bytes:
    """Wait until a file has that many lines."""
    end = time.monotonic() + 200
    while time.monotonic() < end:
        data = path.read_bytes() if path.exists() else b""
        if data.count(b"\n") >= lines:
            return data
        time.sleep(0.05)
    raise AssertionError(f"{path} has no {lines} lines")


def test_interrupted_killed_and_resumed(tree: Tree, tmp_path: Path) -> None:
    times, number = tree.times, 40 * tree.times
    assert len(tree.expected) == number
    out = tmp_path / "survey.ndjson"
    journal = tmp_path / "survey.ndjson.journal"
    args = command(str(tree.directory), "-o", str(out), "-j", "2")

    # Ended without a chance to write anything, in the middle of a line.
    with running(*args) as it:
        waited_for(journal, 4 * times)
        it.kill()
        it.wait()
    assert not out.exists()
    whole = journal.read_bytes()
    journal.write_bytes(whole[: whole.rindex(b"{") + 40])
    kept = whole.count(b"\n") - 1
    assert kept >= 4 * times - 1

    # Interrupted by its user: all that was done is in the file.
    with running(*args) as it:
        waited_for(journal, kept + 6 * times)
        it.send_signal(signal.SIGINT)
        _, err = it.communicate(timeout=60)
    assert it.returncode == 130
    assert err == "vmemscope: error: interrupted\n"
    assert not journal.exists()
    done = lines_of(out)
    assert kept + 6 * times - 1 <= len(done) < number
    # No audit was cut off by the interrupt and then recorded as a failure.
    assert {line["path"] for line in done if line["status"] == 3} <= {
        path for path, status in tree.expected.items() if status == 3
    }

    result = subprocess.run(args, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (1, "")
    lines = lines_of(out)
    check(lines, tree)
    # What was done was not done again.
    again = {line["path"]: line for line in lines}
    assert all(again[line["path"]] == line for line in done)
    first, second, *_ = result.stdout.splitlines()
    assert first == summary(tree)
    assert second == f"{number - len(done)} audited now, {len(done)} unchanged since before"
    table = [line.split() for line in result.stdout.splitlines()]
    of_each = str(5 * times)
    assert ["hole", "error", "6.1.0-56-amd64", "generic", of_each, of_each] in table
    assert [row[-2:] for row in table if row[:1] == ["refcount-low"]] == [[of_each, of_each]]


class Cluster:
    """A Dask cluster of two workers, each a process of its own."""

    def __init__(self, directory: Path) -> None:
        file = directory / "scheduler.json"
        self._processes = []
        self._start(
            "from distributed.cli.dask_scheduler import main; main()",
            "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", str(file),
        )  # fmt: skip
        end = time.monotonic() + 60
        while not file.exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        self.address = json.loads(file.read_text())["address"]
        self.workers = [
            self._start(
                "from distributed.cli.dask_worker import main; main()",
                self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard",
                "--local-directory", str(directory / f"worker{n}"), "--host", "127.0.0.1",
            )
            for n in range(2)
        ]  # fmt: skip

    def _start(self, code: str, *args: str) -> subprocess.Popen[bytes]:
        it = subprocess.Popen(
            [sys.executable, "-c", code, *args],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._processes.append(it)
        return it

    def stop(self) -> None:
        for it in self._processes:
            it.kill()
            it.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    it = Cluster(tmp_path)
    try:
        import distributed

        with distributed.Client(it.address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield it
    finally:
        it.stop()


def test_a_cluster_that_loses_a_worker(tree: Tree, tmp_path: Path, cluster: Cluster) -> None:
    out = tmp_path / "survey.parquet"
    args = (str(tree.directory), "-o", str(out), "--executor", f"dask:{cluster.address}")
    with running(*command(*args)) as it:
        waited_for(tmp_path / "survey.parquet.journal", 8 * tree.times)
        os.kill(cluster.workers[0].pid, signal.SIGKILL)
        text, err = it.communicate(timeout=300)
    assert (it.returncode, err) == (1, "")
    assert text.splitlines()[0] == summary(tree)

    rows = duckdb.sql(f"select * from '{out}'")
    columns = rows.columns
    lines = [dict(zip(columns, row, strict=True)) for row in rows.fetchall()]
    for line in lines:
        SCHEMA.validate(json.loads(json.dumps(line)))
    check(lines, tree)

    # The query of the manual.
    (query,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.S)
    asked = duckdb.sql(query.replace("survey.parquet", str(out)))
    assert asked.columns == ["rule", "osrelease", "type", "dumps"]
    assert set(asked.fetchall()) >= {
        ("hole", "6.1.0-56-amd64", "generic", 5 * tree.times),
        ("refcount-low", "6.12.117+deb13-amd64", "generic", 5 * tree.times),
    }

    # Nothing is left to do, with or without the cluster.
    cluster.stop()
    result = run(str(tree.directory), "-o", str(out))
    assert f"0 audited now, {40 * tree.times} unchanged since before" in result.stdout
