# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reports to JSON and back, by the fields of their types.

Addresses, virtual and physical, are hex strings; pfn, counts and sizes in bytes are
integers; null stands for unreadable values. Text is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args

import msgspec
from msgspec.structs import fields, replace

from ..errors import TargetError
from ..fields import Address, Facts
from ..text import hexadecimal, printable
from .documents.pgmap import Report
from .words import safe

if TYPE_CHECKING:
    from .documents.pgmap import PagemapReport

__all__ = (
    "MAX_DOCUMENT",
    "json_text",
    "read_as",
    "read_report",
    "render_json",
    "schema_text",
    "to_document",
)

_F = TypeVar("_F", bound=Facts)

#: bytes of a document that are read; ten times what a hundred broken pagemaps take
MAX_DOCUMENT = 32 << 20


def schema_text(schema: str = "vmemscope.pgmap/1") -> str:
    """
    Return the JSON Schema (2020-12) of a document, as text.

    :param schema: identifier of the document, ``vmemscope.NAME/VERSION``
    """
    from importlib import resources

    name, version = schema.removeprefix("vmemscope.").split("/")
    file = resources.files(__package__) / "schema" / f"{name}-{version}.schema.json"
    return file.read_text(encoding="utf-8")


def render_json(report: Facts, only: PagemapReport | None = None) -> str:
    """
    Return the text of a report's JSON document, ended by a newline.

    :param only: leave out all other pagemaps; the rest is of the whole audit
    """
    return json_text(to_document(report, only), indent=2)


def json_text(value: object, indent: int | None = None) -> str:
    """Return JSON text, ended by a newline; on one line by default."""
    # ASCII, independent of locale and terminal.
    return json.dumps(value, indent=indent, ensure_ascii=True, allow_nan=False) + "\n"


def to_document(report: Facts, only: PagemapReport | None = None) -> dict[str, Any]:
    """
    Return a report's JSON document, as plain dictionaries and lists.

    :param only: leave out all other pagemaps; the rest is of the whole audit
    """
    if only is not None:
        report = replace(report, pagemaps=(only,))
    document: dict[str, Any] = _plain(report)
    return document


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, Facts):
        head, names = _names(type(value))
        found: dict[str, Any] = dict(head)
        for attribute, name, is_address in names:
            one = getattr(value, attribute)
            if one is msgspec.UNSET:
                continue
            found[name] = hexadecimal(one) if is_address else _plain(one)
        return found
    if isinstance(value, Mapping):
        return {safe(str(key)): _plain(value[key]) for key in sorted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return value.value if isinstance(value, Enum) else value


@cache
def _names(cls: type[Facts]) -> tuple[dict[str, str], list[tuple[str, str, bool]]]:
    """
    Return how a type is written.

    :return: the tag; for each written field the attribute, the name in JSON, and whether
        it is an address
    """
    config = cls.__struct_config__
    head = {} if config.tag_field is None else {config.tag_field: str(config.tag)}
    return head, [
        (one.name, one.encode_name, Address in (one.type, *get_args(one.type)))
        for one in fields(cls)
        if one.type is not msgspec.UnsetType
    ]


def read_report(data: bytes, source: str) -> Report:
    """
    Return the report of a JSON document ``vmemscope.pgmap/1``, which may be hostile.

    :param source: the user's name of it
    :raises TargetError: if this version can't read it
    """
    try:
        document = json.loads(data, parse_constant=_no_constant)
        wrong = _misfit(document)
        if wrong is None:
            report = read_as(Report, document)
            if report.summary.pagemaps == len(report.pagemaps):
                return report
            wrong = f"it has {len(report.pagemaps)} of {report.summary.pagemaps} pagemaps"
    except RecursionError:
        raise TargetError(f"{source} is no report: it is nested too deeply") from None
    except msgspec.ValidationError as e:
        wrong = str(e).replace("`", "'")
    except ValueError as e:
        wrong = f"it is not JSON ({e})"
    shown = printable(wrong[:200].encode("utf-8", "backslashreplace"))
    raise TargetError(
        f"{source} is no report: {shown}", "write one with vmemscope pgmap --format json"
    )


def read_as(kind: type[_F], value: object) -> _F:
    """
    Return the record that plain dictionaries and lists stand for; they may be hostile.

    :raises ValueError: if they do not fit the type
    """
    return msgspec.convert(_plain(value), kind, dec_hook=_address, str_keys=True)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _misfit(document: Any) -> str | None:
    """Return why a document is wrong where its types do not show it, else ``None``."""
    schema = document.get("schema") if isinstance(document, dict) else None
    known = Report.__struct_config__.tag
    if not isinstance(schema, str):
        return "it has no 'schema'"
    if schema != known:
        return f"its schema is {schema[:60]!r}, and not {known!r}"
    return "it has a number of more than 64 bits" if _largest(document) >> 64 else None


def _largest(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return max(map(_largest, value), default=0)
    return abs(value) if isinstance(value, int) else 0


def _address(kind: type, value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch("0x[0-9a-f]{1,16}", value):
        raise ValueError("Expected an address such as 0x1000")
    return kind(int(value, 16))
