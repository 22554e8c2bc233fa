# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The names that an audit relies on, checked before anything is read.

drgn helpers and vmemscope take "name not found" for "another kernel version" or
"option off". That is right if the kernel lacks the name, and silently wrong if only
the source of types lacks it. So an audit lists each name that all kernels have in a
:class:`Need`, and :func:`check_needs` resolves all of them first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from ..errors import TypesError
from ._hints import GIVE_VMLINUX
from .sense import NO_SENSE

if TYPE_CHECKING:
    from drgn import Program, Type

__all__ = ("Need", "NeedKind", "Shape", "check_needs", "has_member", "has_symbol")

#: typedefs of typedefs that are followed
_MAX_DEPTH = 64


class NeedKind(Enum):
    """What a :attr:`Need.name` is the name of."""

    #: A variable, with its address and C type: ``pgmap_array``.
    VARIABLE = "variable"
    #: A C type that is complete: ``struct dev_pagemap``, ``pgd_t``.
    TYPE = "type"
    #: A member of a C type, through other members if need be:
    #: ``struct dev_pagemap.altmap.base_pfn``.
    MEMBER = "member"
    #: An enumerator: ``PG_head``.
    ENUMERATOR = "enumerator"


class Shape(Enum):
    """What a member is used as."""

    #: also a bool or an enum
    INTEGER = "an integer"
    POINTER = "a pointer"
    #: or a union
    STRUCT = "a struct"
    ARRAY = "an array"


class Need(NamedTuple):
    """A name that must resolve."""

    name: str
    kind: NeedKind
    #: What it is needed to do, to go after "to": ``find pagemaps``.
    purpose: str
    #: Whether kernels may lack it: then only its shape is checked.
    optional: bool = False
    #: Names that other versions have for the same thing.
    alternatives: tuple[str, ...] = ()
    #: What a member must be, unless only its offset is used.
    shape: Shape | None = None


def check_needs(prog: Program, needs: Iterable[Need]) -> None:
    """
    Check that names resolve, and that members are what they are used as.

    :raises TypesError: if one does not; the message has all that do not, and what
        each is needed for
    """
    needs = tuple(needs)
    absent = [need for need in needs if not _is_met(prog, need)]
    missing = [need for need in absent if not need.optional]
    if missing:
        by_purpose: dict[str, list[str]] = {}
        for need in missing:
            by_purpose.setdefault(need.purpose, []).append(
                " or ".join(f"{need.kind.value} {name}" for name in (need.name, *need.alternatives))
            )
        raise TypesError(
            "the kernel's types lack "
            + "; ".join(
                f"{', '.join(names)} (needed to {purpose})" for purpose, names in by_purpose.items()
            ),
            _hint(prog, missing),
        )
    misshapen = [
        text
        for need in needs
        if need.shape is not None and need not in absent
        for text in _misshapen(prog, need, need.shape)
    ]
    if misshapen:
        raise TypesError(f"{NO_SENSE}: {'; '.join(misshapen)}", GIVE_VMLINUX)


def _misshapen(prog: Program, need: Need, shape: Shape) -> Iterator[str]:
    """Describe the members that are there but not what they are used as."""
    from drgn import TypeKind

    shapes = {
        TypeKind.INT: Shape.INTEGER,
        TypeKind.BOOL: Shape.INTEGER,
        TypeKind.ENUM: Shape.INTEGER,
        TypeKind.POINTER: Shape.POINTER,
        TypeKind.STRUCT: Shape.STRUCT,
        TypeKind.UNION: Shape.STRUCT,
        TypeKind.ARRAY: Shape.ARRAY,
    }
    for name in (need.name, *need.alternatives):
        struct, _, path = name.partition(".")
        try:
            type_ = prog.type(struct)
            for part in path.split("."):
                type_ = _stripped(_stripped(type_).member(part).type)
        except LookupError:
            # The kernel has the other name.
            continue
        if shapes.get(type_.kind) is not shape:
            yield f"{name} is {type_.type_name()}, not {shape.value}"


def _stripped(type_: Type) -> Type:
    """Return the type behind typedefs."""
    from drgn import TypeKind

    for _ in range(_MAX_DEPTH):
        if type_.kind != TypeKind.TYPEDEF:
            break
        type_ = type_.type
    return type_


def _hint(prog: Program, missing: list[Need]) -> str:
    kinds = {need.kind for need in missing}
    if kinds == {NeedKind.VARIABLE} and not has_symbol(prog, "init_task"):
        return (
            "the kernel has no symbols of variables (CONFIG_KALLSYMS_ALL is off): "
            "give its vmlinux with -s"
        )
    return GIVE_VMLINUX


def _is_met(prog: Program, need: Need) -> bool:
    return any(_has(prog, need.kind, name) for name in (need.name, *need.alternatives))


def _has(prog: Program, kind: NeedKind, name: str) -> bool:
    try:
        if kind is NeedKind.VARIABLE:
            prog.variable(name)
        elif kind is NeedKind.ENUMERATOR:
            prog.constant(name)
        elif kind is NeedKind.TYPE:
            return bool(prog.type(name).is_complete())
        else:
            return has_member(prog, name)
    except LookupError:
        return False
    return True


def has_symbol(prog: Program, name: str) -> bool:
    """Return whether the kernel has a symbol."""
    try:
        prog.symbol(name)
    except LookupError:
        return False
    return True


def has_member(prog: Program, name: str) -> bool:
    """Return whether a C type has a member: ``struct zone.vmemmap_tails``."""
    from drgn import offsetof

    type_name, _, member = name.partition(".")
    try:
        # offsetof() finds members of anonymous members, and takes "a.b[0].c" as C does.
        offsetof(prog.type(type_name), member)
    except (LookupError, TypeError):
        # No such member, an incomplete type, or one without members.
        return False
    except ValueError:
        # A bit-field, which is there, but not at a byte.
        return True
    return True
