# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Build the module that makes dax regions, for kernels that have no NVDIMMs.

In: a :class:`~tests.guests.packages.Kernel`. Out: ``dax_region.ko`` for it, which is
kept beside the kernel. It is built from ``dax_region.c`` with the headers of
Debian's kernel package and with Debian's cross compiler.

The programs of that package's build system are of its own suite, newer than the
host: they run with that suite's dynamic linker. The compiler is the host's, older
than the one that built the kernel: it does without the options that it lacks.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .machines import MACHINES
from .packages import (
    Kernel,
    KernelNotFoundError,
    _locked,
    _retry,
    _Suite,
    cache_directory,
    unpack_packages,
)

__all__ = ("build_dax_region",)

_SOURCE = Path(__file__).with_suffix(".c")
_NAME = "dax_region"
#: options that the kernel was built with and an older compiler lacks: the shell's
#: pattern for them, and what is said instead
_COMPILER = """#!/bin/bash
arguments=()
for argument in "$@"; do
	case $argument in
	-fmin-function-alignment=*) arguments+=("-falign-functions=${argument#*=}");;
	# It puts the magic number of a stub where ftrace looks for a call.
	-fpatchable-function-entry=*) ;;
	-mstack-protector-guard*|-fstack-protector*) ;;
	*) arguments+=("$argument");;
	esac
done
exec %sgcc "${arguments[@]}"
"""


def _wrap(program: Path, linker: Path) -> None:
    # Make a program of another suite run here.
    content = program.read_bytes()
    if not content.startswith(b"\x7fELF"):
        return
    real = program.with_name(f"{program.name}.elf")
    program.rename(real)
    program.write_text(f'#!/bin/sh\nexec {linker} --library-path {linker.parent} {real} "$@"\n')
    program.chmod(0o755)


def _headers(kernel: Kernel, directory: Path) -> Path:
    # The directory that modules are built in.
    package = f"linux-headers-{kernel.release}"
    target, host = _Suite(kernel.suite, kernel.arch), _Suite(kernel.suite)
    host.update()
    depends = target.show(package).get("Depends", "")
    common = re.search(r"linux-headers-[^ ,]+-common", depends)
    kbuild = re.search(r"linux-kbuild-[^ ,]+", depends)
    if common is None or kbuild is None:
        raise KernelNotFoundError(f"there are no headers of {kernel.release}")
    wanted = dict.fromkeys((package, common[0]), kernel.version)
    unpack_packages(target, wanted, directory / "headers")
    unpack_packages(host, host.closure([kbuild[0]]), directory / "tools")
    tools = directory / "tools/usr/lib" / kbuild[0]
    (linker,) = directory.glob("tools/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    order = "msb" if kernel.arch == "s390x" else "lsb"
    arch = MACHINES[kernel.arch].kernel_arch
    # What these run is beside them, by a path that their linker does not tell them.
    for program, real in (
        (tools / "scripts/mod/modpost", f"modpost.real-{order}-64"),
        (tools / "tools/objtool/objtool", f"objtool.real-{arch}"),
    ):
        if program.with_name(real).exists():
            program.unlink()
            shutil.copy(program.with_name(real), program)
    for program in [path for path in tools.rglob("*") if path.is_file()]:
        _wrap(program, linker)
    (directory / "headers/usr/lib").mkdir(exist_ok=True)
    (directory / "headers/usr/lib" / kbuild[0]).symlink_to(tools)
    result = directory / "headers/usr/src" / package
    makefile = result / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{result.parent}/"))
    return result


def _build(kernel: Kernel, path: Path) -> Path:
    machine = MACHINES[kernel.arch]
    with tempfile.TemporaryDirectory(dir=cache_directory()) as temporary:
        directory = Path(temporary)
        headers = _headers(kernel, directory)
        module = directory / "module"
        module.mkdir()
        shutil.copy(_SOURCE, module)
        (module / "Kbuild").write_text(f"obj-m := {_NAME}.o\n")
        compiler = module / "compiler"
        compiler.write_text(_COMPILER % machine.cross)
        compiler.chmod(0o755)
        result = subprocess.run(
            [
                *("make", "-C", headers, f"M={module}", f"ARCH={machine.kernel_arch}"),
                *(f"CROSS_COMPILE={machine.cross}", f"CC={compiler}"),
                # There is neither a vmlinux to take types from nor a key to sign with.
                *("CONFIG_DEBUG_INFO_BTF_MODULES=", "CONFIG_MODULE_SIG_ALL=", "modules"),
            ],
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise KernelNotFoundError(
                f"could not build {_NAME}.ko for {kernel.release}:\n{result.stdout}{result.stderr}"
            )
        (module / f"{_NAME}.ko").rename(path)
    return path


def build_dax_region(kernel: Kernel) -> Path:
    """
    Build the module for a kernel, once for each.

    :raises KernelNotFoundError: if it can't be built, with what the compiler said
    """
    inputs = [path.read_bytes() for path in (_SOURCE, Path(__file__))]
    key = hashlib.sha256(b"".join(inputs)).hexdigest()[:16]
    path = kernel.directory / f"{_NAME}-{key}.ko"
    with _locked(cache_directory()):
        if not path.is_file():
            _retry(f"headers of {kernel.release}", functools.partial(_build, kernel, path))
    return path
