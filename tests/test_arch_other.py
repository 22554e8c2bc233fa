# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated ppc64le and s390x: all scenarios and faults on each.

ppc64le populates the memory map by code of its own, has sections of 16 MiB, and big-endian
page tables. s390x is big-endian throughout, and does not deduplicate.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from vmemscope.cli.main import main
from vmemscope.errors import UsageError, VmemscopeError
from vmemscope.machine import Kernel
from vmemscope.sim import builtin_scenarios
from vmemscope.sim.architectures import ARCHITECTURES
from vmemscope.sim.scenario_toml import parse_scenario
from vmemscope.target import open_core
from vmemscope.target.elf import read_elf, read_note

from .arch_matrix import check_fault, check_scenario, damage
from .kernels import COMING_FAULTS, DEVICE, FAULTS, Dumps, audit_core, image, write
from .test_kdump import kdump_file

ARCHS = ("ppc64le", "s390x")
#: s390x's altmap has no room for the large leaves that a part of a section needs there
NO_ROOM = {("s390x", "partial-sections")}


@pytest.mark.parametrize("fault", sorted(set(FAULTS) - COMING_FAULTS))
@pytest.mark.parametrize("arch", ARCHS)
def test_fault(dumps: Dumps, fault: str, arch: str) -> None:
    check_fault(dumps, fault, arch)


@pytest.mark.parametrize("name", builtin_scenarios())
@pytest.mark.parametrize("arch", ARCHS)
def test_scenario(dumps: Dumps, tmp_path: Path, name: str, arch: str) -> None:
    if (arch, name) in NO_ROOM:
        with pytest.raises(UsageError, match="the altmap is too small"):
            image(name, f"7.2@{arch}")
        return
    check_scenario(dumps, tmp_path, name, "7.2", arch)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("arch", ARCHS)
def test_damage(tmp_path: Path, arch: str, seed: int) -> None:
    """Whatever a dump holds, it is audited, or refused by one of vmemscope's own errors."""
    one = image("devdax-2m" if seed % 2 else "altmap", f"7.2@{arch}")
    core = Path(write(one, tmp_path))
    damage(core, [pfn << 12 for pfn in one._tables()], Random(f"{arch} {seed}"))
    with suppress(VmemscopeError):
        assert audit_core(core).memmap.outcomes


@pytest.mark.parametrize(
    ("arch", "levels", "orders"),
    [("ppc64le", 4, ("<u8", ">u8")), ("s390x", 3, (">u8", ">u8")), ("s390x", 4, (">u8", ">u8"))],
)
def test_byte_orders(tmp_path: Path, arch: str, levels: int, orders: tuple[str, str]) -> None:
    """Of the kernel, and of its page tables; drgn walks them by itself."""
    text = f'arch = "{arch}"\nlevels = {levels}\n{DEVICE}'
    kernel = Kernel.open_core(write(image(text, f"7.2@{arch}"), tmp_path))
    assert (kernel.arch.word, kernel.table.dtype) == orders
    assert len(kernel.table.levels) == levels
    assert kernel.prog["init_uts_ns"].name.release.string_().decode() == kernel.target.osrelease


@pytest.mark.parametrize(
    ("arch", "name"), [("ppc64le", "ppc64"), ("arm64", "aarch64"), ("riscv64", "riscv64")]
)
def test_big_endian_kernels(
    tmp_path: Path, arch: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The kernel's own note says its byte order, not the headers: QEMU's are big-endian for ppc64.

    Those of a kernel that is big-endian itself are refused, and not read as little-endian ones.
    """
    path = Path(write(image(DEVICE, f"7.2@{arch}"), tmp_path))
    data = bytearray(path.read_bytes())
    (offset,), (count,) = struct.unpack_from("<Q", data, 32), struct.unpack_from("<H", data, 56)
    data[5] = 2
    for form, at in (("HHIQQQIHHHHHH", 16), *(("IIQQQQQQ", offset + 56 * i) for i in range(count))):
        fields = list(struct.unpack_from(f"<{form}", data, at))
        if form.startswith("II") and fields[0] == 4:
            # PT_NOTE: the note is to be found in memory.
            fields[0] = 0
        struct.pack_into(f">{form}", data, at, *fields)
    path.write_bytes(data)
    assert main(["pgmap", "-c", str(path)]) == 0
    capsys.readouterr()
    at = data.find(b"VMCOREINFO\0\0OSRELEASE", offset + 56 * count)
    while at >= 0:
        struct.pack_into(">3I", data, at - 12, *struct.unpack_from("<3I", data, at - 12))
        at = data.find(b"VMCOREINFO\0\0OSRELEASE", at + 1)
    path.write_bytes(data)
    for command in ("pgmap", "report"):
        assert main([command, "-c", str(path)]) == 3
        assert capsys.readouterr().err == (
            f"vmemscope: error: architecture {name} (big-endian) is not supported; supported:"
            " arm64, ppc64le, riscv64, s390x, x86_64\n"
        )


@pytest.mark.parametrize("key", ["NUMBER(RADIX_MMU)=0", "NUMBER(RADIX_XXX)=1"])
@pytest.mark.parametrize("how", ["note", "memory", "kdump"])
def test_hash_mmu(tmp_path: Path, key: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Of ppc64: drgn raises an error of its own when it is to walk page tables there.

    Page tables without a direct map say it where VMCOREINFO does not.
    """
    path = Path(write(image(DEVICE, "7.2@ppc64le"), tmp_path))
    keys = open_core(str(path)).vmcoreinfo
    data = path.read_bytes().replace(b"NUMBER(RADIX_MMU)=1", key.encode())
    if not key.endswith("0"):
        root = int(keys["SYMBOL(swapper_pg_dir)"], 16) & (1 << 60) - 1
        (load,) = [
            one for one in read_elf(str(path))[0] if one.paddr <= root < one.paddr + one.filesz
        ]
        at = load.offset + root - load.paddr
        data = data[:at] + bytes(8) + data[at + 8 :]
    path.write_bytes(data)
    if how != "note":
        pages = {
            load.paddr + at >> 12: data[load.offset + at :][:4096]
            for load in read_elf(str(path))[0]
            for at in range(0, load.filesz, 4096)
        }
        note = "" if how == "memory" else read_note(str(path)).decode()
        path.write_bytes(kdump_file(pages, machine="ppc64le", vmcoreinfo=note))
    for command in ("pgmap", "report"):
        assert main([command, "-c", str(path)]) == 3
        assert capsys.readouterr().err.endswith(
            "error: ppc64 with the hash MMU is not supported; supported: radix\n"
        )


def test_defaults_of_an_architecture() -> None:
    """A scenario that only names it has a kernel and page tables that it can have."""
    for name, arch in ARCHITECTURES.items():
        found = parse_scenario(f'arch = "{name}"', "inline")
        assert found.levels == max(arch.levels)
        released = [one for one in arch.kernels if one != "next"]
        assert not released or found.kernel == released[-1]


@pytest.mark.parametrize(
    ("arch", "kernels"),
    [
        ("ppc64le", "6.12 or 7.2 or next"),
        ("ppc64le-64k", "6.12 or 7.2 or next"),
        ("s390x", "7.2 or next"),
    ],
)
def test_kernels_without_the_feature(arch: str, kernels: str) -> None:
    """6.1 of ppc64 does not deduplicate; s390x has ZONE_DEVICE only since."""
    with pytest.raises(UsageError, match=f"kernel must be {kernels} on {arch}"):
        image("devdax-2m", f"6.1@{arch}")


@pytest.mark.parametrize(
    ("name", "frames"),
    [
        # Nothing is shared: a frame for each page.
        ("devdax-2m", 2048),
        # 64 pages of each section of 16 MiB, shared with those of others at the same place:
        # 3 GiB have 192.
        ("devdax-1g", 192),
    ],
)
def test_population_of_6_12(tmp_path: Path, name: str, frames: int) -> None:
    """6.12 of ppc64 with pages of 4 KiB has a bug, which is named once; as seen in guests."""
    done = audit_core(Path(write(image(name, "6.12@ppc64le"), tmp_path)))
    (one,) = done.pgmap.pagemaps
    assert one.frames.backing == frames
    (bug,) = done.pgmap.bugs
    assert bug.bug == "radix-population"
    assert {symptom.rule for symptom in bug.symptoms} == {
        finding.rule for _, finding in done.pgmap.all_findings()
    }


def test_population_of_6_12_with_large_pages(tmp_path: Path) -> None:
    """With pages of 64 KiB, sections are too small for the bug to show; as seen in guests."""
    done = audit_core(Path(write(image("devdax-1g", "6.12@ppc64le-64k"), tmp_path)))
    (one,) = done.pgmap.pagemaps
    assert (one.state, one.frames.backing) == ("deduplicated", 6)
    assert done.found() == set()


#: on ppc64le: three subsections of a section, and five that are not the device's
HALF_A_SECTION = """
[[pagemap]]
name = "dax0.0"
type = "devdax"
start = 0x100000000
size = "6M"
align = "2M"
[[fault]]
kind = "subsection-stale"
pagemap = "dax0.0"
subsection = 6
"""


def test_stale_subsection_of_a_small_section(tmp_path: Path) -> None:
    one = image(HALF_A_SECTION, "7.2@ppc64le")
    done = audit_core(Path(write(one, tmp_path)), one.planted)
    assert done.found() == done.expected()
    assert [planted.details["first_pfn"] for planted in one.planted] == [0x100000 + 6 * 512]


#: RAM that was added after boot, in sections of 128 MiB
BLOCK = """
[[block]]
start = {start}
size = "{size}"
online = true
"""


@pytest.mark.parametrize(
    ("start", "size", "whole"),
    [
        (0x200000000, "256M", True),
        (0x210000000, "512M", True),
        (0x200000000, "128M", False),
        (0x208000000, "256M", False),
        (0x200000000, "384M", False),
    ],
)
def test_blocks_are_whole_sections(tmp_path: Path, start: int, size: str, whole: bool) -> None:
    """The kernel adds no half of a section, of 256 MiB here (``check_hotplug_memory_range()``)."""
    text = BLOCK.format(start=start, size=size)
    assert audit_core(Path(write(image(text, "7.2@x86_64"), tmp_path))).found() == set()
    if not whole:
        with pytest.raises(UsageError, match="whole sections, of 256M on s390x"):
            image(text, "7.2@s390x")
        return
    assert audit_core(Path(write(image(text, "7.2@s390x"), tmp_path))).found() == set()
