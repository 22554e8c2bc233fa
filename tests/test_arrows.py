# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Imports of the package go one way, as ``docs/house.md`` says.

The imports are read from the source, those in functions too. A room is a package or a
module of :mod:`vmemscope`; each audit is one.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import vmemscope

PACKAGE = Path(vmemscope.__file__).parent
ORACLE = sorted(Path(__file__).parent.glob("oracle*.py"))

#: every room but the simulator may import these; they import nothing but each other
COMMON = {
    "",
    "_lazy",
    "columns",
    "errors",
    "fields",
    "limits",
    "progress",
    "spans",
    "text",
    "timing",
    "vmcoreinfo",
}
AUDITS = ("audits.pagemaps", "audits.hugetlb", "audits.memmap", "audits.page")
AN_AUDIT = {"types", "kernel", "vmemmap", "rules", "confirm", "report.documents"}

#: room -> the rooms that it may import, besides the common ones
MAY_IMPORT: dict[str, set[str]] = {
    "arch": set(),
    "target": {"arch"},
    "types": {"arch", "target"},
    "kernel": {"target", "types"},
    "vmemmap": {"kernel", "target"},
    "machine": {"arch", "target", "types", "kernel", "vmemmap"},
    "rules": {"vmemmap"},
    "confirm": {"types", "rules"},
    "report.documents": {"rules"},
    "report": {"report.documents", "rules", "vmemmap"},
    **dict.fromkeys(AUDITS, AN_AUDIT),
    "audits": {"machine", *AUDITS},
    "messages": set(),
    "collect": {
        "target",
        "kernel",
        "vmemmap",
        "messages",
        "rules",
        "report.documents",
        "audits",
        *AUDITS,
    },
    "sim": set(),
    "helpers": {"machine", "types", "vmemmap", "audits.page"},
    "drgn_plugin": {"cli"},
    "survey": {"target", "machine", "rules", *AUDITS, "report", "report.documents"},
    "cli": {"helpers", "target", "machine", "rules", *AUDITS, "collect", "report", "sim", "survey"},
    "__main__": {"cli"},
}

#: room -> the rooms of which it may name types as well, in annotations (``TYPE_CHECKING``)
MAY_NAME: dict[str, set[str]] = {
    "": {"audits", "helpers", "machine", "report.documents", "target"},
    "kernel": {"arch"},
    "vmemmap": {"arch"},
    "rules": {"arch", "kernel"},
    "confirm": {"machine"},
    "report.documents": {"kernel", "vmemmap"},
    **{audit: {"machine"} for audit in AUDITS},
    "audits": {"report.documents"},
    "messages": {"kernel"},
    "collect": {"machine"},
    "cli": {"report.documents"},
    "helpers": {"report.documents"},
}


class Import(NamedTuple):
    """An import of one module by another, by their names in the package."""

    by: str
    of: str
    #: it is for annotations only
    named: bool = False


#: imports against the arrows; entries are only removed
EXCEPTIONS: set[Import] = {
    # This audit reads the page tables of processes itself.
    Import("audits.pagemaps.structures", "target.reads"),
    # The target's part of a report is made from a Kernel.
    Import("report.documents.common", "machine", True),
}


def module(path: Path) -> str:
    """Return the name of a file's module in the package, empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(name: str) -> str:
    """Return the room that a module is in."""
    parts = name.split(".")
    return next((found for n in (2, 1) if (found := ".".join(parts[:n])) in MAY_IMPORT), parts[0])


class Reader(ast.NodeVisitor):
    """Collects the imports of vmemscope's modules in a source file."""

    def __init__(self, path: Path) -> None:
        #: the package that relative imports start from
        self.package = ("vmemscope", *path.relative_to(PACKAGE).parent.parts)
        self.found: list[tuple[str, bool]] = []
        self.named = False

    def visit_If(self, node: ast.If) -> None:
        outside, self.named = self.named, self.named or ast.unparse(node.test) == "TYPE_CHECKING"
        for child in node.body:
            self.visit(child)
        self.named = outside
        for child in node.orelse:
            self.visit(child)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        start = self.package[: len(self.package) - node.level + 1] if node.level else ()
        source = ".".join([*start, *filter(None, [node.module])])
        for alias in node.names:
            submodule = f"{source}.{alias.name}"
            known = submodule.removeprefix("vmemscope.") in SOURCES
            self._add(submodule if known else source)

    def _add(self, name: str) -> None:
        top, _, rest = name.partition(".")
        if top == "vmemscope":
            self.found.append((rest, self.named))


def imports() -> Iterator[Import]:
    """Read the imports between rooms."""
    for name, path in SOURCES.items():
        reader = Reader(path)
        reader.visit(ast.parse(path.read_text(encoding="utf-8")))
        for of, named in reader.found:
            if room(name) != room(of):
                yield Import(name, of, named)


def allowed(one: Import) -> bool:
    by, of = room(one.by), room(one.of)
    if by == "sim":
        return of == "errors"
    rooms = MAY_IMPORT.get(by, set()) | COMMON
    return of in rooms | MAY_NAME.get(by, set()) if one.named else of in rooms


def test_imports_follow_the_arrows() -> None:
    against = {one for one in imports() if not allowed(one)}
    assert sorted(against - EXCEPTIONS) == []
    # Remove an exception that is not needed any more.
    assert sorted(EXCEPTIONS - against) == []


def test_every_module_has_a_room() -> None:
    assert {room(name) for name in SOURCES} <= MAY_IMPORT.keys() | COMMON


def test_arrows_go_one_way() -> None:
    list(TopologicalSorter(MAY_IMPORT).static_order())


@pytest.mark.parametrize("path", ORACLE, ids=lambda path: path.stem)
def test_oracle_imports_nothing_of_the_package(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [
        alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
    ]
    assert [name for name in modules if name.split(".")[0] == "vmemscope"] == []
