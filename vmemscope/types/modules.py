# SPDX-License-Identifier: LGPL-2.1-or-later
"""
BTF of the loaded modules.

With ``CONFIG_DEBUG_INFO_BTF_MODULES``, the kernel has a copy of the BTF of each
loaded module in ``btf_modules`` (``kernel/bpf/btf.c``): a list of
``struct btf_module``, whose ``btf->data`` is the blob and ``btf->data_size`` its
length in bytes. It is split BTF: ids and strings continue those of vmlinux.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from drgn import Object, Program, offsetof

from ..errors import VmemscopeError
from ..target.reads import READ_ERRORS
from .btf import Btf
from .finders import BtfTypes

__all__ = ("module_types",)

logger = logging.getLogger(__name__)

# Bounds for damaged lists: a distribution's kernel has about 6,000 modules, and a
# kernel takes at most 16 MB of BTF (BTF_MAX_SIZE).
_MAX_MODULES: Final = 10000
_MAX_SIZE: Final = 1 << 24


def module_types(vmlinux: BtfTypes, prog: Program) -> list[BtfTypes]:
    """
    Read the BTF of all loaded modules.

    No audit relies on modules: one whose BTF can't be read or is damaged is left out,
    with a warning.

    :param vmlinux: types of vmlinux, registered with *prog*
    :return: types of each module, in the order of the kernel's list
    """
    found = []
    try:
        for module in _for_each_btf_module(prog):
            types = _read(vmlinux, prog, module)
            if types is not None:
                found.append(types)
    except (AttributeError, LookupError):
        # No CONFIG_DEBUG_INFO_BTF_MODULES, or other members.
        pass
    except READ_ERRORS as e:
        logger.warning("cannot read the list of modules' BTF (btf_modules) to its end: %s", e)
    return found


def _for_each_btf_module(prog: Program) -> Iterator[Object]:
    # list_for_each_entry() is not bounded, and its import costs more than this walk.
    head = prog["btf_modules"]
    type_ = prog.type("struct btf_module")
    offset = offsetof(type_, "list")
    end = head.address_
    address = head.next.value_()
    for _ in range(_MAX_MODULES):
        if address == end:
            return
        module = Object(prog, type_, address=address - offset)
        yield module
        address = module.list.next.value_()
    logger.warning("the list of modules' BTF (btf_modules) does not end")


def _read(vmlinux: BtfTypes, prog: Program, module: Object) -> BtfTypes | None:
    name = "a module"
    try:
        # char name[MODULE_NAME_LEN]
        name = module.module.name.string_().decode(errors="backslashreplace")
        size = module.btf.data_size.value_()
        if size > _MAX_SIZE:
            logger.warning("BTF of %s is %d bytes long, more than a kernel takes", name, size)
            return None
        data = prog.read(module.btf.data.value_(), size)
        return BtfTypes(prog, Btf(data, vmlinux.btf, name), vmlinux)
    except VmemscopeError as e:
        logger.warning("%s", e.message)
    except READ_ERRORS as e:
        logger.warning("cannot read the BTF of %s: %s", name, e)
    return None
