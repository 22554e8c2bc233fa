# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types that make no sense are reported as that, and internal errors are not."""

from __future__ import annotations

from pathlib import Path

import btf_writer as w
import pytest
from btf_writer import BtfWriter
from drgn import BadDataError, Object, OutOfBoundsError
from test_types_finders import make_program

from vmemscope.audits import pagemaps
from vmemscope.cli.main import main
from vmemscope.errors import ExitStatus, TypesError, UsageError
from vmemscope.kernel import page
from vmemscope.types import sensible_types


@pytest.fixture
def prog():
    b = BtfWriter()
    number = b.int("int", 4, w.SIGNED)
    b.struct("page", 4, ("flags", number, 0))
    return make_program(b, symbols={})


def test_error_of_what_reads_by_types(prog):
    with pytest.raises(TypesError) as raised, sensible_types():
        page.read_page_layout(prog)
    assert raised.value.message.startswith("the kernel's types make no sense: LookupError: ")
    assert isinstance(raised.value.__cause__, LookupError)
    assert raised.value.exit_status == ExitStatus.CANNOT_AUDIT


def test_error_of_a_helper_of_drgn(prog):
    from drgn.helpers.linux.list import list_for_each

    with pytest.raises(TypesError, match="AttributeError"), sensible_types():
        list(list_for_each(Object(prog, "struct page", address=0).address_of_()))


@pytest.mark.parametrize("error", [RecursionError, OutOfBoundsError, BadDataError, OverflowError])
def test_other_errors_of_drgn(error, monkeypatch):
    # Damaged BTF gave rise to the first two.
    def reads() -> None:
        raise error("out of bounds of value")

    monkeypatch.setitem(reads.__globals__, "__name__", "vmemscope.kernel.page")
    with pytest.raises(TypesError, match=f"{error.__name__}: out of bounds"), sensible_types():
        reads()


@pytest.mark.parametrize("error", [AttributeError, KeyError, ValueError, TypeError, OverflowError])
def test_own_mistake_is_not_hidden(error):
    with pytest.raises(error), sensible_types():
        raise error("ours")


@pytest.mark.parametrize("error", [UsageError("ours"), ZeroDivisionError(), KeyboardInterrupt()])
def test_other_errors_are_left_alone(error, monkeypatch):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setitem(fails.__globals__, "__name__", "vmemscope.kernel.page")
    with pytest.raises(type(error)), sensible_types():
        fails()


def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = str(tmp_path / "vmcore")
    assert main(["sim", "empty", "-o", core]) == 0

    def ours(*_: object, **__: object) -> None:
        raise TypeError("of ours")

    with monkeypatch.context() as patched:
        patched.setattr(pagemaps, "once", ours)
        assert main(["pgmap", "-c", core]) == 3
    assert "internal error: TypeError: of ours" in capsys.readouterr().err
