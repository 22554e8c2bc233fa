# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Descriptions of architectures: their levels, and entries as real kernels have them.

The entries are of guests whose addresses QEMU translated, too (``gva2gpa``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drgn import Architecture as DrgnArchitecture
from drgn import Platform, PlatformFlags

from vmemscope.arch import (
    Architecture,
    PageTable,
    architecture_of,
    architecture_of_elf,
    vmcoreinfo_marks,
)
from vmemscope.errors import TargetError, UnsupportedError
from vmemscope.vmcoreinfo import parse
from vmemscope.vmemmap.tables import decode


@dataclass
class Kernel:
    """What VMCOREINFO and memory say of a kernel, as far as its page tables go."""

    platform: str
    keys: str
    #: physical address -> word
    words: dict[int, int] = field(default_factory=dict)

    @property
    def arch(self) -> Architecture:
        return architecture_of(Platform(DrgnArchitecture[self.platform]))

    @property
    def table(self) -> PageTable:
        keys = parse(self.keys.encode())
        return self.arch.page_table(keys, lambda address: self.words[address])


ARM64 = """\
PAGESIZE={size}
NUMBER(VA_BITS)={bits}
NUMBER(TCR_EL1_T1SZ)={t1sz:#x}
NUMBER(kimage_voffset)=0xffff800009e00000
SYMBOL(swapper_pg_dir)=ffff80007ff3a000
"""
RISCV64 = """\
PAGESIZE=4096
NUMBER(VA_BITS)={bits}
NUMBER(va_kernel_pa_offset)=0xfffffffefde00000
SYMBOL(swapper_pg_dir)=ffffffff81dcb000
"""
PPC64 = """\
PAGESIZE={size}
SYMBOL(swapper_pg_dir)=c00000000f000000
"""
S390X = """\
PAGESIZE=4096
SYMBOL(swapper_pg_dir)=3ffe1a4c000
KERNELOFFSET=3ffe0000000
KERNELOFFPHYS=100000
"""


def arm64(size: int, bits: int, t1sz: int) -> Kernel:
    return Kernel("AARCH64", ARM64.format(size=size, bits=bits, t1sz=t1sz))


def riscv64(bits: int) -> Kernel:
    return Kernel("RISCV64", RISCV64.format(bits=bits))


def ppc64(size: int) -> Kernel:
    return Kernel("PPC64", PPC64.format(size=size) + "NUMBER(RADIX_MMU)=1\n")


def s390x(kind: int) -> Kernel:
    """Return a kernel whose top table has entries of a type (bits 3:2)."""
    return Kernel("S390X", S390X, {0x1B4C000: 0x8007 & ~0xC | kind << 2})


X86_64 = Kernel("X86_64", "NUMBER(pgtable_l5_enabled)=1\nSYMBOL(swapper_pg_dir)=ffffffff82000000\n")


@pytest.mark.parametrize(
    ("kernel", "levels"),
    [
        (X86_64, "pgd 48/9, p4d 39/9, pud 30/9, pmd 21/9, pte 12/9"),
        (arm64(4096, 48, 16), "pgd 39/9, pud 30/9, pmd 21/9, pte 12/9"),
        (arm64(4096, 39, 25), "pgd 30/9, pmd 21/9, pte 12/9"),
        # A kernel for 52 bits, on hardware that has them, and on other.
        (arm64(4096, 52, 12), "pgd 48/4, p4d 39/9, pud 30/9, pmd 21/9, pte 12/9"),
        (arm64(4096, 52, 16), "pgd 39/9, pud 30/9, pmd 21/9, pte 12/9"),
        (arm64(16384, 47, 17), "pgd 36/11, pmd 25/11, pte 14/11"),
        (arm64(16384, 48, 16), "pgd 47/1, pud 36/11, pmd 25/11, pte 14/11"),
        (arm64(16384, 52, 12), "pgd 47/5, pud 36/11, pmd 25/11, pte 14/11"),
        (arm64(65536, 42, 22), "pgd 29/13, pte 16/13"),
        (arm64(65536, 48, 16), "pgd 42/6, pmd 29/13, pte 16/13"),
        # The table is there for all 52, whatever the hardware has.
        (arm64(65536, 52, 16), "pgd 42/10, pmd 29/13, pte 16/13"),
        (riscv64(39), "pgd 30/9, pmd 21/9, pte 12/9"),
        (riscv64(48), "pgd 39/9, pud 30/9, pmd 21/9, pte 12/9"),
        (riscv64(57), "pgd 48/9, p4d 39/9, pud 30/9, pmd 21/9, pte 12/9"),
        (ppc64(4096), "pgd 39/13, pud 30/9, pmd 21/9, pte 12/9"),
        (ppc64(65536), "pgd 39/13, pud 30/9, pmd 21/9, pte 16/5"),
        (s390x(1), "pud 31/11, pmd 20/11, pte 12/8"),
        (s390x(2), "p4d 42/11, pud 31/11, pmd 20/11, pte 12/8"),
        (s390x(3), "pgd 53/11, p4d 42/11, pud 31/11, pmd 20/11, pte 12/8"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.platform,
)
def test_levels(kernel: Kernel, levels: str) -> None:
    found = ", ".join(f"{one.name} {one.shift}/{one.bits}" for one in kernel.table.levels)
    assert found == levels
    assert kernel.table.page_size == int(parse(kernel.keys.encode()).get("PAGESIZE", "4096"))


@pytest.mark.parametrize(
    ("kernel", "root"),
    [
        (arm64(4096, 48, 16), 0x7613A000),
        (riscv64(57), 0x83FCB000),
        (ppc64(4096), 0xF000000),
        (s390x(1), 0x1B4C000),
    ],
    ids=lambda value: "" if isinstance(value, int) else value.platform,
)
def test_root(kernel: Kernel, root: int) -> None:
    assert kernel.table.root == root


@pytest.mark.parametrize(
    ("kernel", "level", "entry", "leaf", "address", "writable", "executable"),
    [
        # Of 6.12.118 on a cortex-a57.
        (arm64(4096, 48, 16), "pgd", 0x100000007FA07003, False, 0x7FA07000, None, None),
        (arm64(4096, 48, 16), "pmd", 0x0068000041000701, True, 0x41000000, True, False),
        # FEAT_LPA2: bits 9:8 are the highest of the address.
        (arm64(4096, 52, 12), "pte", 0x0068000041000703, True, 0xC000041000000, True, False),
        (arm64(65536, 52, 12), "pte", 0x006800004100F703, True, 0xF000041000000, True, False),
        (arm64(4096, 48, 16), "pte", 0x0060000041000783, True, 0x41000000, False, False),
        # Of 6.12.117, with Sv57.
        (riscv64(57), "pgd", 0x2FFFB801, False, 0xBFFEE000, None, None),
        (riscv64(57), "pmd", 0x380800E7, True, 0xE0200000, True, False),
        (riscv64(57), "pte", 0x223E80E7, True, 0x88FA0000, True, False),
        (riscv64(57), "pte", 0x223E80EB, True, 0x88FA0000, False, True),
    ],
    ids=lambda value: value.platform if isinstance(value, Kernel) else None,
)
def test_entries(
    kernel: Kernel,
    level: str,
    entry: int,
    leaf: bool,
    address: int,
    writable: bool | None,
    executable: bool | None,
) -> None:
    (one,) = (one for one in kernel.table.levels if one.name == level)
    found = decode(one, np.array([entry], dtype=np.uint64))
    assert (found.present[0], found.leaf[0], int(found.address[0])) == (True, leaf, address)
    if leaf:
        assert (found.writable[0], not found.no_execute[0]) == (writable, executable)


@pytest.mark.parametrize(
    ("kernel", "level", "entry"),
    [
        (arm64(4096, 48, 16), "pmd", 0),
        # Reserved in the last level.
        (arm64(4096, 48, 16), "pte", 0x0068000041000701),
        (riscv64(48), "pte", 0x223E80E6),
        (ppc64(4096), "pte", 0x4000000010000186),
        (s390x(1), "pmd", 0x20),
        (s390x(1), "pte", 0x400),
    ],
    ids=lambda value: value.platform if isinstance(value, Kernel) else None,
)
def test_holes(kernel: Kernel, level: str, entry: int) -> None:
    (one,) = (one for one in kernel.table.levels if one.name == level)
    assert not decode(one, np.array([entry], dtype=np.uint64)).present[0]


@pytest.mark.parametrize(
    ("key", "first", "radix"),
    [
        # What the kernel says counts, also if the table can't be read.
        ("NUMBER(RADIX_MMU)=1\n", None, True),
        ("NUMBER(RADIX_MMU)=0\n", None, False),
        # Older kernels: a direct map in the page tables, or none.
        ("", 0xC000000000F00080, True),
        ("", 0, False),
    ],
)
def test_hash_mmu_is_refused(key: str, first: int | None, radix: bool) -> None:
    words = {} if first is None else {0xF000000: first}
    kernel = Kernel("PPC64", PPC64.format(size=65536) + key, words)
    if radix:
        assert kernel.table.levels
        return
    with pytest.raises(UnsupportedError, match="hash MMU is not supported; supported: radix"):
        _ = kernel.table


@pytest.mark.parametrize(
    "kernel", [arm64(8192, 48, 16), arm64(4096, 60, 4), riscv64(32), ppc64(16384)]
)
def test_what_can_not_be_is_refused(kernel: Kernel) -> None:
    with pytest.raises((UnsupportedError, TargetError)):
        _ = kernel.table


@pytest.mark.parametrize(
    ("machine", "wide", "name"),
    [
        (258, True, "loongarch64"),
        (258, False, "loongarch"),
        (8, True, "mips64"),
        (3, False, "i386"),
        (40, False, "arm"),
        (62, False, "x86_64 (32-bit)"),
        (243, False, "riscv64 (32-bit)"),
        (4711, True, "number 4711"),
    ],
)
def test_other_architectures_are_named(machine: int, wide: bool, name: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        architecture_of_elf(machine, wide)
    assert error.value.message == f"architecture {name} is not supported"
    assert error.value.hint == "supported: arm64, ppc64le, riscv64, s390x, x86_64"


def test_worked_example() -> None:
    """The description in docs/architectures.md, of an architecture that is not supported."""
    text = (Path(__file__).parent.parent / "docs/architectures.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)
    scope: dict[str, Any] = {}
    exec(code, scope)
    arch: Architecture = scope["ARCHITECTURE"]
    keys = {"PAGESIZE": "16384", "SYMBOL(swapper_pg_dir)": "9000000001a50000"}
    table = arch.page_table(keys, lambda address: 0)
    assert (table.root, table.page_size) == (0x1A50000, 16384)
    assert [(one.name, one.shift, one.bits) for one in table.levels] == [
        ("pgd", 36, 11),
        ("pmd", 25, 11),
        ("pte", 14, 11),
    ]
    assert arch.vmemmap_leaf(16384) == 32 << 20
    # _PAGE_VALID, DIRTY, PLV_KERN, CC, GLOBAL, PRESENT, WRITE; NO_EXEC is bit 62.
    entry = np.array([0x4000_0000_0123_41D3, 0x4000_0000_0123_4000], dtype=np.uint64)
    found = decode(table.levels[-1], entry)
    assert found.present.tolist() == [True, False]
    assert (int(found.address[0]), bool(found.writable[0])) == (0x1234000, True)
    assert bool(found.no_execute[0])
    with pytest.raises(UnsupportedError, match="loongarch64 is not supported"):
        architecture_of_elf(258, True)


def test_byte_orders() -> None:
    big = Platform(DrgnArchitecture.PPC64, PlatformFlags.IS_64_BIT)
    with pytest.raises(UnsupportedError, match=r"architecture ppc64 \(big-endian\) is not"):
        architecture_of(big)
    for name, _ in vmcoreinfo_marks():
        platform = Platform(DrgnArchitecture[name])
        little = bool(platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
        assert architecture_of(platform).word == ("<u8" if little else ">u8")


@pytest.mark.parametrize("name", [name for name, _ in vmcoreinfo_marks()])
def test_marks_are_of_one_architecture(name: str) -> None:
    marks = dict(vmcoreinfo_marks())
    assert len(set(marks.values())) == len(marks)
    arch = architecture_of(Platform(DrgnArchitecture[name]))
    assert arch.kernel_space % 4096 == 0
