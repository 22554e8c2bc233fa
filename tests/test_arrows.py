# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which package may import which: data goes down the list once."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "vmemscope"
#: package -> packages that it must not import, not even for type hints
FORBIDDEN = {
    "target": {"types", "kernel", "vmemmap", "rules", "audits", "report", "sim", "cli"},
    "arch": {"types", "kernel", "vmemmap", "rules", "audits", "report", "sim", "cli"},
    "types": {"kernel", "vmemmap", "rules", "audits", "report", "sim", "cli"},
    "kernel": {"vmemmap", "rules", "audits", "report", "sim", "cli"},
    "vmemmap": {"rules", "audits", "report", "sim", "cli"},
    "rules": {"sim", "cli"},
    "audits": {"sim", "cli"},
    "report": {"target", "sim", "cli"},
    "sim": {"types", "kernel", "vmemmap", "rules", "audits", "report", "cli"},
}


def imported(path: Path) -> set[str]:
    """Return the packages of vmemscope that a module imports."""
    here = path.relative_to(PACKAGE).parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            names = node.module.split(".") if node.module else [one.name for one in node.names]
            found.update([*base, *names][:1] if base or node.module else names)
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_nothing_above_it(package: str) -> None:
    wrong = {
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in (PACKAGE / package).rglob("*.py")
        for name in imported(path) & FORBIDDEN[package]
    }
    assert not wrong
