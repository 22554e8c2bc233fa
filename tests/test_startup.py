# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is imported on the way to an answer: counted, since times depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from .kernels import image, write

_CODE = """
import argparse, sys
# What argparse itself takes for help depends on the version of Python.
argparse.ArgumentParser().format_help()
before = set(sys.modules)
from vmemscope.cli.main import main
try:
    status = main(sys.argv[1:])
except SystemExit as e:
    status = e.code
print(status, *(sys.modules.keys() - before), file=sys.stderr)
"""
#: what no format but the table takes, and what nothing does
_HEAVY = {
    "jinja2", "vmemscope.collect", "vmemscope.helpers", "vmemscope.kernel.printk",
    "numpy.ma", "tabulate", "tqdm", "asyncio", "multiprocessing", "kdumpling",
    "vmemscope.sim", "vmemscope.audits.hugetlb", "vmemscope.target.qemu", "vmemscope.target.live",
}  # fmt: skip
_FORMATS = {
    "json": "vmemscope.report.document",
    "ndjson": "vmemscope.report.lines",
    "ktap": "vmemscope.report.ktap",
    "markdown": "vmemscope.report.markdown",
    "openmetrics": "vmemscope.report.metrics",
}


def loaded(*args: str) -> set[str]:
    """Run the command line in a process of its own and return the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *args], check=True, capture_output=True, text=True
    )
    status, *modules = done.stderr.split()
    assert status == "0", done
    return set(modules)


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(image("devdax-2m", "6.12"), tmp_path_factory.mktemp("startup"))


@pytest.mark.parametrize("args", [["--help"], ["pgmap", "--help"]], ids=" ".join)
def test_help_takes_neither_drgn_nor_numpy(args: list[str]) -> None:
    modules = loaded(*args)
    assert "vmemscope.cli.pgmap" in modules
    assert not modules & {"drgn", "_drgn", "numpy", "json", "dataclasses", "tempfile", "logging"}


def test_rules_do_not_take_drgn() -> None:
    assert not loaded("rules") & {"drgn", "_drgn"}


@pytest.mark.parametrize("name", _FORMATS)
def test_a_format_takes_what_is_its_own(core: str, name: str) -> None:
    modules = loaded("pgmap", "--format", name, "-c", core)
    assert {"numpy", "_drgn", _FORMATS[name]} <= modules
    assert not modules & _HEAVY
    others = {"vmemscope.report.detail", "vmemscope.report.diff", "vmemscope.report.ktap"}
    assert not modules & (others - {_FORMATS[name]})


@pytest.mark.parametrize("form", ["html", "json", "text"])
def test_templates_are_taken_for_html_only(core: str, form: str) -> None:
    modules = loaded("report", "--format", form, "-c", core)
    assert ("jinja2" in modules) == (form == "html")
    assert not modules & {"tqdm", "asyncio", "multiprocessing", "kdumpling", "vmemscope.sim"}


def test_the_table_takes_no_more(core: str) -> None:
    modules = loaded("pgmap", "-c", core)
    assert "tabulate" in modules
    assert not modules & (_HEAVY - {"tabulate"})
    assert not modules & (set(_FORMATS.values()) - {"vmemscope.report.document"})


def test_names_of_the_package_are_there() -> None:
    code = (
        "import vmemscope, vmemscope.report, vmemscope.target\n"
        "for package in (vmemscope, vmemscope.report, vmemscope.target):\n"
        "    for name in package.__all__:\n"
        "        assert getattr(package, name) is not None\n"
        "    assert not hasattr(package, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("package", ["vmemscope", "vmemscope.report", "vmemscope.target"])
def test_no_name_of_a_package_is_that_of_a_module_in_it(package: str) -> None:
    # Python sets a module as an attribute of its package once it is imported, by whomever.
    face = import_module(package)
    assert not {module.name for module in iter_modules(face.__path__)} & set(face.__all__)


@pytest.mark.parametrize(
    "order", [["names", "modules"], ["modules", "names"]], ids=lambda order: "-".join(order)
)
def test_names_of_the_package_are_what_they_are_whatever_is_imported_first(
    order: list[str],
) -> None:
    first = {
        "names": "from vmemscope import *\n",
        "modules": (
            "from importlib import import_module\n"
            "from pkgutil import walk_packages\n"
            "for one in walk_packages(vmemscope.__path__, 'vmemscope.'):\n"
            "    if not one.name.endswith('__main__'):\n"
            "        import_module(one.name)\n"
        ),
    }
    code = (
        "import vmemscope\n"
        + "".join(first[what] for what in order)
        + "import vmemscope.audits, vmemscope.report.documents.pgmap, vmemscope.machine\n"
        "assert vmemscope.audit is audit is vmemscope.audits.audit\n"
        "assert vmemscope.Report is Report is vmemscope.report.documents.pgmap.Report\n"
        "assert vmemscope.Kernel is Kernel is vmemscope.machine.Kernel\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_late_imports_are_where_this_says() -> None:
    # So that a module that is renamed does not go unnoticed above.
    package = Path(__file__).parent.parent / "vmemscope"
    for name in (*_HEAVY, *_FORMATS.values()):
        if name.startswith("vmemscope."):
            path = package.joinpath(*name.split(".")[1:])
            assert path.with_suffix(".py").exists() or (path / "__init__.py").exists()
