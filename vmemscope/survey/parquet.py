# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records as Parquet: a row for each dump, with the fields of ``vmemscope.survey/1``."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from msgspec import inspect

from ..errors import UsageError
from ..report.document import to_document
from ..report.documents.survey import SurveyRecord
from ..report.words import safe

try:
    import pyarrow
    from pyarrow import parquet
except ImportError as e:
    raise UsageError("a file .parquet needs pyarrow", "pip install 'vmemscope[parquet]'") from e

__all__ = ("read_parquet", "schema", "write_parquet")


def schema() -> Any:
    """Return the schema, which is made from the fields of a record."""
    (kind,) = inspect.multi_type_info([SurveyRecord])
    return pyarrow.schema([("schema", pyarrow.string()), *_fields(kind)])


def _fields(kind: Any) -> list[tuple[str, Any]]:
    return [(one.encode_name, _arrow(one.type)) for one in kind.fields]


def _arrow(kind: Any) -> Any:
    """Return the Arrow type of a type of a field."""
    if isinstance(kind, inspect.Metadata):
        return _arrow(kind.type)
    if isinstance(kind, inspect.UnionType):
        (some,) = (one for one in kind.types if not isinstance(one, inspect.NoneType))
        return _arrow(some)
    if isinstance(kind, inspect.StructType):
        return pyarrow.struct(_fields(kind))
    if isinstance(kind, inspect.VarTupleType):
        return pyarrow.list_(_arrow(kind.item_type))
    if isinstance(kind, inspect.IntType):
        return pyarrow.int64()
    if isinstance(kind, inspect.FloatType):
        return pyarrow.float64()
    # Addresses are text here as in JSON: 64 bits do not fit the numbers of every reader.
    return pyarrow.string()


def write_parquet(path: str, records: Iterable[SurveyRecord]) -> None:
    """
    Write records, whole or not at all.

    :raises UsageError: if they can't be written
    """
    rows = [to_document(one) for one in records]
    table = pyarrow.Table.from_pylist(rows, schema=schema())
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        parquet.write_table(table, temporary, compression="zstd")
        os.replace(temporary, path)
    except (OSError, OverflowError, pyarrow.ArrowException) as e:
        with suppress(OSError):
            os.unlink(temporary)
        raise UsageError(f"can't write {safe(path)}: {getattr(e, 'strerror', None) or e}") from e


def read_parquet(path: str) -> Iterator[dict[str, Any]]:
    """
    Return the rows of a file.

    :raises ValueError: if it is no Parquet, or has other columns
    """
    try:
        with parquet.ParquetFile(path) as file:
            if not file.schema_arrow.equals(schema()):
                raise ValueError("it has other columns")
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowException as e:
        raise ValueError(str(e)) from e
