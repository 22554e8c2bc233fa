# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Types of the fields of documents: allowed values, and their form in JSON.

Documents are written, read and described by the fields of :class:`Facts`
(:mod:`vmemscope.report.document`, :mod:`vmemscope.report.schema`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from msgspec import Meta, Struct

__all__ = (
    "Address",
    "Bytes",
    "Count",
    "Counts",
    "Facts",
    "Name",
    "RuleId",
    "Seconds",
    "Text",
    "one_of",
)

if TYPE_CHECKING:
    Address = int
else:

    class Address(int):
        """A virtual or physical address in bytes: an integer here, a hex string in JSON."""


#: what is counted: pages, frames, findings; page frame numbers too
Count = Annotated[int, Meta(ge=0)]
#: sizes, and numbers of what there is at least one of
Bytes = Annotated[int, Meta(ge=1)]
#: counts by a number; in JSON the numbers are strings, in decimal and in ascending order
Counts = Annotated[
    Mapping[Bytes, Bytes],
    Meta(
        description="Counts by a number, which is written in decimal.",
        extra_json_schema={"propertyNames": {"pattern": "^[1-9][0-9]*$"}},
    ),
]
Seconds = Annotated[float, Meta(ge=0)]
#: in JSON with everything but printable characters escaped
Text = Annotated[str, Meta(pattern="^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
Name = Annotated[str, Meta(min_length=1)]
RuleId = Annotated[str, Meta(pattern="^[a-z]+(-[a-z]+)*$")]


def one_of(*values: str) -> Meta:
    """Return the limit of written text to some values; a reader accepts any."""
    return Meta(extra_json_schema={"enum": list(values)})


_Some = TypeVar("_Some", bound="Facts")


class Facts(Struct, frozen=True):
    """A record of a report and of its document."""

    @classmethod
    def of(cls: type[_Some], other: object, **more: Any) -> _Some:
        """
        Return a record with the attributes of another object of the same names.

        :param more: fields that the object does not have
        """
        names = (name for name in cls.__struct_fields__ if name not in more)
        return cls(**{name: getattr(other, name) for name in names}, **more)
