# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The records of a survey: a journal while dumps are audited, one file in the end.

Each record goes to the journal as soon as it is there, so a survey that was ended in any way goes
on where it was. The file is then written anew, whole or not at all, and the journal removed.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO

from ..errors import TargetError, UsageError
from ..report.document import json_text, read_as, to_document
from ..report.documents.survey import SurveyRecord
from ..report.output import write_atomically
from ..report.words import safe
from .worker import parse_record

__all__ = ("Store", "opened_store")

_PARQUET = ".parquet"


class Store:
    """
    Records, the last of each dump.

    :param path: their file, ``None`` to write none
    :param journal: open for appending, ``None`` to write none
    """

    def __init__(self, path: str | None, journal: FileIO | None) -> None:
        self._path = path
        self._journal = journal
        self._records: dict[str, SurveyRecord] = {}

    @property
    def records(self) -> list[SurveyRecord]:
        """All records, by path."""
        return [self._records[path] for path in sorted(self._records)]

    def get(self, path: str) -> SurveyRecord | None:
        """Return the record of a dump."""
        return self._records.get(safe(path))

    def add(self, record: SurveyRecord) -> None:
        """
        Keep a record, in place of an older one of the same dump.

        :raises UsageError: if the journal can't be written
        """
        self._records[record.path] = record
        if self._journal is not None:
            _append(self._journal, json_text(to_document(record)).encode("ascii"))

    def load(self, journal: bytes) -> None:
        """
        Read the file, and then the journal, whose last line may be cut off.

        :raises TargetError: if the file is there and has other things in it
        """
        assert self._path is not None
        for record in _read(self._path):
            self._records[record.path] = record
        for line in journal.splitlines():
            with suppress(ValueError):
                record = parse_record(line)
                self._records[record.path] = record

    def write(self) -> None:
        """
        Write the file.

        :raises UsageError: if it can't be written
        """
        if self._path is None:
            return
        if self._path.endswith(_PARQUET):
            from .parquet import write_parquet

            write_parquet(self._path, self.records)
        else:
            lines = (json_text(to_document(one)) for one in self.records)
            write_atomically(self._path, "".join(lines))


@contextmanager
def opened_store(path: str | None) -> Iterator[Store]:
    """
    Open the records of a survey, and write them at the end, also after an error.

    :param path: their file, which is Parquet if its name ends so, else NDJSON
    :raises UsageError: if it can't be written, or another survey writes it
    :raises TargetError: if it is there and has other things in it
    """
    if path is None:
        yield Store(None, None)
        return
    if path.endswith(_PARQUET):
        # It may not be installed, which the user should read at once.
        from . import parquet  # noqa: F401
    name = f"{path}.journal"
    try:
        # Unbuffered: closing it must not write again what could not be written.
        journal = open(name, "a+b", buffering=0)  # noqa: SIM115
    except OSError as e:
        raise UsageError(f"can't write {safe(name)}: {e.strerror}") from e
    with journal:
        try:
            fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"another survey is writing {safe(path)}") from None
        journal.seek(0)
        data = journal.read()
        if data and not data.endswith(b"\n"):
            # The last line was cut off: what is appended must not continue it.
            _append(journal, b"\n")
        store = Store(path, journal)
        try:
            store.load(data)
        except BaseException:
            if not data:
                os.unlink(name)
            raise
        try:
            yield store
        finally:
            store.write()
            os.unlink(name)


def _append(journal: FileIO, data: bytes) -> None:
    """
    Write data at the end of a journal.

    :raises UsageError: if that fails: the disk is full
    """
    try:
        while data:
            data = data[journal.write(data) :]
    except OSError as e:
        name = safe(os.fsdecode(journal.name))
        raise UsageError(f"can't write {name}: {e.strerror}") from e


def _read(path: str) -> Iterator[SurveyRecord]:
    if not os.path.exists(path):
        return
    try:
        if path.endswith(_PARQUET):
            from .parquet import read_parquet

            for row in read_parquet(path):
                yield read_as(SurveyRecord, row)
            return
        with open(path, "rb") as file:
            for line in file:
                yield parse_record(line)
    except OSError as e:
        raise TargetError(f"cannot open {safe(path)}: {e.strerror or e}") from e
    except ValueError as e:
        raise TargetError(
            f"{safe(path)} has no records of a survey: {safe(str(e))[:200]}",
            "give another file with -o",
        ) from e
