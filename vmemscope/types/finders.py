# SPDX-License-Identifier: LGPL-2.1-or-later
"""
drgn finders over BTF and kallsyms
----------------------------------

drgn asks its finders for types, objects and symbols by name. These finders answer
from the kernel's memory: types from its BTF (:class:`~vmemscope.types.btf.Btf`),
symbols from its kallsyms, and objects from the two together. They make a type when it
is first used, also that of a member, so an audit makes about 200 of the 125,000 types
of a kernel.

drgn helpers take "name not found" for "old kernel" or "option off". So these finders
find exactly what vmlinux has (no constants, functions or variables of modules), and
damage is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from drgn import (
    FindObjectFlags,
    Object,
    Program,
    Qualifiers,
    SymbolBinding,
    SymbolKind,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
)

from ..errors import TypesError
from ._hints import GIVE_VMLINUX
from .btf import Btf
from .btf_records import BtfKind, Record
from .btf_sections import BtfError
from .globals import Variables, variables_of

__all__ = ("FINDER_NAME", "BtfTypes", "ObjectFinder", "TypeFinder", "register_types")

logger = logging.getLogger(__name__)

#: Name that the finders are registered with; drgn may use ``btf``.
FINDER_NAME: Final = "vmemscope"

# Longest chain of pointers, typedefs, qualifiers and arrays. The C standard asks
# for 12 declarators; damaged BTF can have one as long as itself.
_MAX_DEPTH: Final = 64

_QUALIFIERS: Final = {
    BtfKind.CONST: Qualifiers.CONST,
    BtfKind.VOLATILE: Qualifiers.VOLATILE,
    BtfKind.RESTRICT: Qualifiers.RESTRICT,
}

# BTF_INT_* of the word that follows an INT.
_INT_SIGNED: Final = 1 << 24
_INT_BOOL: Final = 1 << 26

# DWARF's names for the type that an enum is stored as.
_ENUM_TYPES: Final = {
    1: ("signed char", "unsigned char"),
    2: ("short", "unsigned short"),
    4: ("int", "unsigned int"),
    8: ("long", "unsigned long"),
}


def _spelling(name: str) -> tuple[str, ...]:
    # The same for all spellings of a base type: "unsigned long", "long unsigned int"
    # and "int long unsigned" are ("long", "unsigned").
    words = name.split()
    if "long" in words or "short" in words:
        words = [word for word in words if word not in ("int", "signed")]
    elif words == ["unsigned"]:
        words = ["unsigned", "int"]
    elif set(words) == {"signed", "int"} or words == ["signed"]:
        words = ["int"]
    return tuple(sorted(words))


class BtfTypes:
    """
    Makes drgn types of the types of a BTF, each once.

    :param prog: program that gets the types
    :param btf: BTF of vmlinux, or of a module
    :param base: types of the BTF that *btf* continues
    """

    def __init__(self, prog: Program, btf: Btf, base: BtfTypes | None = None) -> None:
        self.btf: Final = btf
        self._prog: Final = prog
        self._base: Final = base
        self._types: Final[dict[int, Type]] = {}
        self._depth = 0
        self._base_types: dict[tuple[str, ...], int] | None = None
        self._found: dict[tuple[frozenset[TypeKind], str], Type | None] = {}

    def type(self, type_id: int) -> Type:
        """
        Return the type with an id.

        :raises BtfError: if its BTF is damaged
        """
        if type_id < self.btf.start_id and self._base is not None:
            return self._base.type(type_id)
        found = self._types.get(type_id)
        if found is None:
            record = self.btf.record(type_id)
            if self._depth >= _MAX_DEPTH:
                raise self._error(record, "is part of a chain of types without end")
            self._depth += 1
            try:
                found = self._make(record)
            except (OverflowError, TypeError, ValueError) as e:
                # drgn's errors for a negative size, an array of functions, ...
                raise self._error(record, str(e)) from e
            finally:
                self._depth -= 1
            self._types[type_id] = found
        return found

    def _error(self, record: Record, what: str) -> BtfError:
        name = f" ({record.name})" if record.name else ""
        return BtfError(f"BTF of {self.btf.name} is damaged: type {record.id}{name}: {what}")

    def _make(self, record: Record) -> Type:
        kind = record.kind
        if kind in _QUALIFIERS:
            referenced = self.type(record.size_or_type)
            return referenced.qualified(referenced.qualifiers | _QUALIFIERS[kind])
        if kind == BtfKind.PTR:
            return self._prog.pointer_type(self.type(record.size_or_type))
        if kind in (BtfKind.STRUCT, BtfKind.UNION):
            return self._compound(record)
        if kind == BtfKind.TYPEDEF:
            return self._prog.typedef_type(self._name(record), self.type(record.size_or_type))
        if kind == BtfKind.ARRAY:
            element, length = self.btf.array(record)
            # BTF encodes [0] and [] alike. drgn takes any index of an array of
            # unknown length.
            return self._prog.array_type(self.type(element), length or None)
        if kind == BtfKind.INT:
            encoding = self.btf.word(record)
            name = self._name(record)
            if encoding & _INT_BOOL:
                return self._prog.bool_type(name, record.size_or_type)
            return self._prog.int_type(name, record.size_or_type, bool(encoding & _INT_SIGNED))
        if kind in (BtfKind.ENUM, BtfKind.ENUM64):
            return self._enum(record)
        if kind == BtfKind.FWD:
            return self._forward(record)
        if kind == BtfKind.FUNC_PROTO:
            return self._function(record)
        if kind in (BtfKind.FUNC, BtfKind.VAR, BtfKind.TYPE_TAG, BtfKind.DECL_TAG):
            # These name or annotate the next type of the chain.
            return self.type(record.size_or_type)
        if kind == BtfKind.FLOAT:
            return self._prog.float_type(self._name(record), record.size_or_type)
        if kind == BtfKind.VOID:
            return self._prog.void_type()
        raise self._error(record, f"{kind.name} is no type")

    def _name(self, record: Record) -> str:
        if record.name is None:
            raise self._error(record, f"{record.kind.name} has no name")
        return record.name

    def _compound(self, record: Record) -> Type:
        # A member's type is made when it is used: it may refer to this structure, as
        # in struct list_head.
        members = []
        for member in self.btf.members(record):
            bits, offset = member.bit_field_size, member.bit_offset
            if bits is None and not record.kind_flag:
                bits, offset = self._old_bit_field(member.type_id, offset)
            make: Callable[[], Type | Object]
            if bits is None:
                make = partial(self.type, member.type_id)
            else:
                make = partial(self._bit_field, member.type_id, bits)
            members.append(TypeMember(make, member.name, offset))
        make_type = (
            self._prog.struct_type if record.kind == BtfKind.STRUCT else self._prog.union_type
        )
        return make_type(record.name, record.size_or_type, members)

    def _bit_field(self, type_id: int, bits: int) -> Object:
        try:
            return Object(self._prog, self.type(type_id), bit_field_size=bits)
        except (TypeError, ValueError) as e:
            raise self._error(self.btf.record(type_id), f"as bit-field: {e}") from e

    def _old_bit_field(self, type_id: int, offset: int) -> tuple[int | None, int]:
        # Without kind_flag (pahole 1.12), a bit-field is a member whose INT has fewer
        # bits than its size (BTF_INT_BITS, BTF_INT_OFFSET).
        bits = self.btf.partial_ints.get(type_id)
        return (None, offset) if bits is None else (bits[1], offset + bits[0])

    def _enum(self, record: Record) -> Type:
        if not record.vlen:
            # The encoding of a forward declaration of an enum.
            return self._prog.enum_type(record.name)
        size = record.size_or_type
        if size not in _ENUM_TYPES:
            raise self._error(record, f"enum of {size} bytes")
        signed = self.btf.is_signed(record)
        compatible = self._prog.int_type(_ENUM_TYPES[size][0 if signed else 1], size, signed)
        enumerators = [TypeEnumerator(*item) for item in self.btf.enumerators(record)]
        return self._prog.enum_type(record.name, compatible, enumerators)

    def _forward(self, record: Record) -> Type:
        # Take the definition if there is just one, as drgn does with DWARF.
        kind = BtfKind.UNION if record.kind_flag else BtfKind.STRUCT
        if record.name is not None:
            definitions = self._definitions(record.name, kind)
            if len(definitions) == 1:
                return definitions[0]
        if record.kind_flag:
            return self._prog.union_type(record.name)
        return self._prog.struct_type(record.name)

    def _definitions(self, name: str, kind: BtfKind) -> list[Type]:
        found = [self.type(type_id) for type_id in self.btf.find_all(name, kind)]
        if self._base is not None:
            found += self._base._definitions(name, kind)
        return found

    def _function(self, record: Record) -> Type:
        parameters = self.btf.parameters(record)
        # The last parameter of a variadic function is void, without a name.
        variadic = bool(parameters) and parameters[-1] == (None, 0)
        if variadic:
            parameters.pop()
        return self._prog.function_type(
            self.type(record.size_or_type),
            [TypeParameter(partial(self.type, p.type_id), p.name) for p in parameters],
            variadic,
        )

    def find(self, kinds: TypeKindSet, name: str) -> Type | None:
        """
        Find a type by name or tag; not in the base.

        :param kinds: kinds of types to find
        :raises BtfError: if its BTF is damaged
        """
        # drgn asks each time that a name is used.
        key = frozenset(kinds), name
        if key not in self._found:
            self._found[key] = self._find(kinds, name)
        return self._found[key]

    def _find(self, kinds: TypeKindSet, name: str) -> Type | None:
        if kinds & _BASE_KINDS:
            if self._base_types is None:
                self._base_types = self._index_base_types()
            type_id = self._base_types.get(_spelling(name))
            if type_id is not None:
                found = self.type(type_id)
                if found.kind in kinds:
                    return found
        wanted = [
            btf_kind
            for kind, btf_kinds in _KINDS.items()
            if kind in kinds
            for btf_kind in btf_kinds
        ]
        incomplete = None
        for type_id in self.btf.find_all(name, *wanted) if wanted else ():
            found = self.type(type_id)
            # A FWD is of a struct or of a union.
            if found.kind not in kinds:
                continue
            if found.kind == TypeKind.TYPEDEF or found.is_complete():
                return found
            incomplete = incomplete or found
        return incomplete

    def _index_base_types(self) -> dict[tuple[str, ...], int]:
        result: dict[tuple[str, ...], int] = {}
        for type_id in self.btf.ids(BtfKind.INT, BtfKind.FLOAT):
            name = self.btf.record(type_id).name
            if name is not None:
                result.setdefault(_spelling(name), type_id)
        return result


_BASE_KINDS: Final = TypeKindSet((TypeKind.INT, TypeKind.BOOL, TypeKind.FLOAT))
_KINDS: Final = {
    TypeKind.STRUCT: (BtfKind.STRUCT, BtfKind.FWD),
    TypeKind.UNION: (BtfKind.UNION, BtfKind.FWD),
    TypeKind.ENUM: (BtfKind.ENUM, BtfKind.ENUM64),
    TypeKind.TYPEDEF: (BtfKind.TYPEDEF,),
}


class TypeFinder:
    """
    Finds types by name: in vmlinux, then in the modules.

    :param vmlinux: types of vmlinux
    :param modules: returns the types of the modules; called once, when a type is not
        in vmlinux
    """

    def __init__(self, vmlinux: BtfTypes, modules: Callable[[], Sequence[BtfTypes]]) -> None:
        self._vmlinux: Final = vmlinux
        self._load_modules: Final = modules
        self._modules: Sequence[BtfTypes] | None = None

    def __call__(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: str | None
    ) -> Type | None:
        """Find a type, as :meth:`drgn.Program.register_type_finder()` asks."""
        if filename:
            # BTF does not say which file a type is from.
            return None
        found = self._vmlinux.find(kinds, name)
        if found is not None:
            return found
        # All base types are in vmlinux.
        if not kinds & _MODULE_KINDS:
            return None
        if self._modules is None:
            # Loading them asks for types of vmlinux, and must not recurse.
            self._modules = ()
            self._modules = self._load_modules()
        for module in self._modules:
            found = module.find(kinds, name)
            if found is not None:
                return found
        return None


_MODULE_KINDS: Final = TypeKindSet(_KINDS)


class ObjectFinder:
    """
    Finds constants, functions and variables of vmlinux by name.

    :param types: types of vmlinux; ``None`` to add only *variables* to another finder
    :param variables: C types of variables
    """

    def __init__(self, types: BtfTypes | None, variables: Variables) -> None:
        self._types: Final = types
        self._variables: Final = variables

    def __call__(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: str | None
    ) -> Object | None:
        """Find an object, as :meth:`drgn.Program.register_object_finder()` asks."""
        if filename:
            return None
        if flags & (FindObjectFlags.VARIABLE | FindObjectFlags.FUNCTION):
            found = self._located(prog, name, flags)
            if found is not None:
                return found
        if self._types is not None and flags & FindObjectFlags.CONSTANT:
            enumerator = self._types.btf.find_enumerator(name)
            if enumerator is not None:
                type_id, value = enumerator
                return Object(prog, self._types.type(type_id), value)
        return None

    def _located(self, prog: Program, name: str, flags: FindObjectFlags) -> Object | None:
        variable = self._variables.get(name) if flags & FindObjectFlags.VARIABLE else None
        type_id = None
        if variable is None and self._types is not None:
            kinds = []
            if flags & FindObjectFlags.VARIABLE:
                kinds.append(BtfKind.VAR)
            if flags & FindObjectFlags.FUNCTION:
                kinds.append(BtfKind.FUNC)
            type_id = self._types.btf.find(name, *kinds)
        if variable is None and type_id is None:
            return None
        address = _address(prog, name, is_function=self._is_function(type_id))
        if address is None:
            return None
        if type_id is not None and self._types is not None:
            return Object(prog, self._types.type(type_id), address=address)
        return None if variable is None else _variable(prog, name, variable, address)

    def _is_function(self, type_id: int | None) -> bool:
        if type_id is None or self._types is None:
            return False
        return self._types.btf.record(type_id).kind == BtfKind.FUNC


def _variable(prog: Program, name: str, types: tuple[str, ...], address: int) -> Object:
    for candidate in types:
        try:
            return Object(prog, candidate, address=address)
        except LookupError:
            pass
    # A LookupError would say that the kernel lacks the variable.
    raise TypesError(
        f"the kernel has a variable {name}, but lacks its type, {' or '.join(types)}",
        GIVE_VMLINUX,
    )


def _address(prog: Program, name: str, *, is_function: bool) -> int | None:
    # Static functions and variables can share a name. The kind of a symbol is only a
    # preference: kallsyms of 7.2 has most of .data as text.
    kinds = (SymbolKind.FUNC if is_function else SymbolKind.OBJECT, SymbolKind.UNKNOWN)
    symbols = prog.symbols(name)
    symbols = [s for s in symbols if s.kind in kinds] or symbols
    symbols = [s for s in symbols if s.binding == SymbolBinding.GLOBAL] or symbols
    addresses = {symbol.address for symbol in symbols}
    if not addresses:
        return None
    if len(addresses) > 1:
        logger.warning(
            "the kernel has %d symbols %s; taking the one at 0x%x",
            len(addresses),
            name,
            symbols[0].address,
        )
    return int(symbols[0].address)


def register_types(
    prog: Program, btf: Btf, modules: Callable[[BtfTypes], Sequence[BtfTypes]]
) -> None:
    """
    Register a type finder and an object finder with a program, before all others.

    The object finder needs a symbol finder.

    :param btf: BTF of vmlinux
    :param modules: returns the types of the modules; called when first needed
    """
    types = BtfTypes(prog, btf)
    prog.register_type_finder(
        FINDER_NAME, TypeFinder(types, partial(modules, types)), enable_index=0
    )
    prog.register_object_finder(
        FINDER_NAME, ObjectFinder(types, variables_of(prog.platform)), enable_index=0
    )
