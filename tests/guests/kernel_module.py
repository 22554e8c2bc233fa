# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Build modules that ask a kernel for device memory that no emulated device has.

In: a :class:`~tests.guests.packages.Kernel`, and the name of a module. Out: that module
for it, which is kept beside the kernel. It is built from the source beside this file with the
headers of Debian's kernel package and with Debian's compiler.

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
from collections.abc import Sequence
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

__all__ = ("build_module",)

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


def _wrap(program: Path, libraries: Sequence[Path]) -> None:
    # Make a program of another suite run here.
    content = program.read_bytes()
    if not content.startswith(b"\x7fELF"):
        return
    real = program.with_name(f"{program.name}.elf")
    program.rename(real)
    (linker,) = filter(Path.exists, (one / "ld-linux-x86-64.so.2" for one in libraries))
    paths = ":".join(map(str, libraries))
    program.write_text(f'#!/bin/sh\nexec {linker} --library-path {paths} {real} "$@"\n')
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
    needed = re.findall(r"(?:^|, )((?:lib|zlib)[^ ,:]*)", host.show(kbuild[0])["Depends"])
    unpack_packages(host, {kbuild[0]: host.show(kbuild[0])["Version"]}, directory / "tools")
    # Backports have no libraries of their own.
    base = _Suite(kernel.suite.removesuffix("-backports"))
    base.update()
    unpack_packages(base, base.closure(needed), directory / "libraries")
    # Debian 12 has some in /lib.
    libraries = list(directory.glob("libraries/**/x86_64-linux-gnu"))
    tools = directory / "tools/usr/lib" / kbuild[0]
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
        _wrap(program, libraries)
    (directory / "headers/usr/lib").mkdir(exist_ok=True)
    (directory / "headers/usr/lib" / kbuild[0]).symlink_to(tools)
    result = directory / "headers/usr/src" / package
    makefile = result / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{result.parent}/"))
    return result


def _build(kernel: Kernel, source: Path, path: Path) -> Path:
    machine = MACHINES[kernel.arch]
    with tempfile.TemporaryDirectory(dir=cache_directory()) as temporary:
        directory = Path(temporary)
        headers = _headers(kernel, directory)
        module = directory / "module"
        module.mkdir()
        shutil.copy(source, module)
        (module / "Kbuild").write_text(f"obj-m := {source.stem}.o\n")
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
            said = f"{result.stdout}{result.stderr}"
            raise KernelNotFoundError(
                f"could not build {source.stem}.ko for {kernel.release}:\n{said}"
            )
        (module / f"{source.stem}.ko").rename(path)
    return path


def build_module(kernel: Kernel, name: str) -> Path:
    """
    Build a module for a kernel, once for each.

    :param name: of its source beside this file, without ``.c``
    :raises KernelNotFoundError: if it can't be built, with what the compiler said
    """
    source = Path(__file__).with_name(f"{name}.c")
    inputs = [path.read_bytes() for path in (source, Path(__file__))]
    key = hashlib.sha256(b"".join(inputs)).hexdigest()[:16]
    path = kernel.directory / f"{name}-{key}.ko"
    with _locked(cache_directory()):
        if not path.is_file():
            build = functools.partial(_build, kernel, source, path)
            _retry(f"headers of {kernel.release}", build)
    return path
