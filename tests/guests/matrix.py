# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The matrix: kernels, paging, and devices, with what has to come out of each.

A :class:`Boot` is a guest with as many devices in it as go together; a
:class:`Cell` is one of them, with what the kernel's rules say of its memory
map. All numbers are worked out here from sizes and alignments, by the rules
that are in the comments; none comes from the package under test. Addresses and
sizes are in bytes, "pages" are vmemmap pages of 4 KiB.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .cxl import Cxl
from .devices import GIB, KIB, MIB, Device, LegacyPmem, Nvdimm, VirtioPmem
from .guest import Cpu, Guest

__all__ = (
    *("BOOTS", "FULL", "NODE_SIZE", "PAGING", "SHORT"),
    *("Boot", "Cell", "Key", "Shape", "at_least", "stale_in_early_sections"),
)

Range = tuple[int, int]
#: {(severity, rule): findings}
Findings = Mapping[tuple[str, str], int]


class Key(NamedTuple):
    """What is booted: a kernel, a processor, a :class:`Boot`."""

    series: str
    cpu: Cpu
    boot: str

    def __str__(self) -> str:
        return f"{self.series}-{PAGING[self.cpu]}-{self.boot}"


#: levels of page tables
PAGING: dict[Cpu, str] = {"qemu64": "4-level", "max": "5-level"}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the memory map of a device has to look like."""

    #: first and last address of each range
    ranges: tuple[Range, ...]
    #: bytes in a compound page, 4 KiB where there are none
    align: int
    type: str = "generic"
    altmap: bool = False
    state: str = "deduplicated"
    #: beginning of the reason for that state
    reason: str | None = None
    #: frames that a sound kernel takes
    expected: int
    #: {entries that map a frame: frames}
    sharing: Mapping[int, int]
    #: bytes that the leaf entries map
    leaf_sizes: frozenset[int]

    @property
    def pages(self) -> int:
        """Pages that describe it: a struct page takes 64 bytes, so a page describes 256 KiB."""
        return sum(_pages(one) for one in self.ranges)

    @property
    def backing(self) -> int:
        """Frames that back them."""
        return sum(self.sharing.values())


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A device in a guest, and what has to come out of it."""

    what: str
    #: by series; ``None`` where there has to be no pagemap
    shape: Callable[[str], Shape | None]
    #: by series
    findings: Callable[[str], Findings] = lambda series: {}
    #: where it is, or was; if ``None``, :attr:`at` says, or ``shape``
    where: Range | None = None
    #: key of :attr:`Boot.steps`' result with the address that ranges count from, if it
    #: is chosen at boot
    at: str | None = None
    #: whether no vmemmap may be mapped there any more
    unmapped: bool = False


def _pages(one: Range) -> int:
    return (one[1] + 1 - one[0]) // (256 * KIB)


def _range(start: int, size: int) -> Range:
    return start, start + size - 1


def _deduplicated(*ranges: Range, align: int = 2 * MIB) -> Shape:
    # A compound page has a frame for its first page, and one for all others
    # (Documentation/mm/vmemmap_dedup.rst). Ranges start with a compound page;
    # the last of a range may be cut short.
    sharing: Counter[int] = Counter()
    for one in ranges:
        whole, rest = divmod(_pages(one), align // (256 * KIB))
        sharing[1] += whole + (rest > 0)
        sharing[align // (256 * KIB) - 1] += whole
        if rest > 1:
            sharing[rest - 1] += 1
    sharing += Counter()
    return Shape(
        ranges=ranges,
        align=align,
        expected=sharing.total(),
        sharing=sharing,
        leaf_sizes=frozenset({4 * KIB}),
    )


def _plain(
    one: Range, *, align: int = 4 * KIB, type: str = "generic", altmap: bool = False
) -> Shape:
    # A frame for each page; in 2 MiB leaves for whole sections of 128 MiB, and
    # in base pages for parts (arch/x86/mm/init_64.c: vmemmap_populate()).
    start, end = one[0], one[1] + 1
    section = 128 * MIB
    whole = end // section > -(-start // section)
    parts = not whole or start % section or end % section
    return Shape(
        ranges=(one,),
        align=align,
        type=type,
        altmap=altmap,
        state="not-optimized",
        # An altmap has the memory map of whole sections.
        reason=_where(bool(whole), bool(parts)) if altmap else "base pages",
        expected=_pages(one),
        sharing={1: _pages(one)},
        leaf_sizes=frozenset(({2 * MIB} if whole else set()) | ({4 * KIB} if parts else set())),
    )


def stale_in_early_sections(series: str) -> bool:
    """
    Return whether Debian's kernel leaves struct pages in sections from boot as they were.

    Of compound pages, those from the 129th on: since 5.19, fixed in 7.2, 6.12.97 and 6.1.184.
    The legacy namespaces here had a pagemap of base pages before.
    """
    return at_least(series, "6.13") and not at_least(series, "7.2")


def _where(whole: bool, parts: bool) -> str:
    # Only whole sections take frames from the altmap.
    if not whole:
        return "it has an altmap, but the memory map lies in RAM"
    return "of the memory map, " if parts else "the memory map lies on the device (altmap)"


def _always(shape: Shape | None) -> Callable[[str], Shape | None]:
    return lambda series: shape


def at_least(series: str, version: str) -> bool:
    """Return whether a series is a version or a later one."""
    first, second = ([int(part) for part in one.split(".")] for one in (series, version))
    return first >= second


def _with_masks(
    findings: Findings, otherwise: Findings, stale: Findings | None = None
) -> Callable[[str], Findings]:
    # Since 7.1 tail pages hold a mask instead of a pointer.
    return lambda series: {
        **(findings if at_least(series, "7.1") else otherwise),
        **((stale or {}) if stale_in_early_sections(series) else {}),
    }


@dataclass(frozen=True, kw_only=True)
class Boot:
    """A guest: what is in it, and what is done with it before it is audited."""

    devices: tuple[Device, ...]
    cells: tuple[Cell, ...]
    #: bytes of RAM
    memory: int = GIB
    parameters: tuple[str, ...] = ()
    qemu_arguments: tuple[str, ...] = ()
    #: returns what the cells and tests want to know later
    steps: Callable[[Guest], dict[str, Any]] = field(default=lambda guest: {})


# --- Devices that are made and left alone, and RAM on one node.

_DEVICES = Boot(
    devices=(
        Nvdimm(addr=0x100000000, size=512 * MIB),
        Nvdimm(addr=0x120000000, size=768 * MIB, map="dev"),
        # On a section boundary, not on one of 1 GiB. QEMU puts one so if it is
        # left to itself.
        Nvdimm(addr=0x150000000, size=3 * GIB, align=GIB),
        Nvdimm(addr=0x210000000, size=256 * MIB, mode="fsdax"),
        Nvdimm(addr=0x220000000, size=384 * MIB, align=4 * KIB),
        Nvdimm(addr=0x240000000, size=2 * GIB, align=GIB),
        Nvdimm(addr=0x2C0000000, size=640 * MIB, mode="fsdax", map="dev"),
        VirtioPmem(addr=0x300000000, size=896 * MIB),
        # A section of its own, and half of one of RAM.
        LegacyPmem(addr=0x28000000, size=128 * MIB),
        LegacyPmem(addr=0x30000000, size=64 * MIB),
    ),
    cells=(
        Cell(
            what="devdax 2M, map=mem",
            shape=_always(_deduplicated(_range(0x100000000, 512 * MIB))),
        ),
        Cell(
            what="devdax 2M, map=dev",
            shape=_always(_plain(_range(0x120000000, 768 * MIB), align=2 * MIB, altmap=True)),
        ),
        Cell(
            what="devdax 1G, map=mem, off a 1G boundary",
            # Compound pages start with the namespace, 768 MiB before its data;
            # of 3 GiB the data takes 2, so that 2.75 GiB are described.
            shape=_always(_deduplicated((0x150000000, 0x1FFFFFFFF), align=GIB)),
            # The mask leads each of three compound pages' tails elsewhere.
            findings=_with_masks(
                {("error", "compound-head"): 3, ("warning", "mask-alignment"): 1},
                {("note", "compound-alignment"): 1},
            ),
        ),
        Cell(
            what="fsdax, map=mem",
            shape=_always(_plain(_range(0x210000000, 256 * MIB), type="fsdax")),
        ),
        Cell(what="devdax 4K, map=mem", shape=_always(_plain(_range(0x220000000, 384 * MIB)))),
        Cell(
            what="devdax 1G, map=mem",
            shape=_always(_deduplicated(_range(0x240000000, 2 * GIB), align=GIB)),
        ),
        Cell(
            what="fsdax, map=dev",
            shape=_always(_plain(_range(0x2C0000000, 640 * MIB), type="fsdax", altmap=True)),
        ),
        Cell(
            what="virtio-pmem, devdax 2M",
            shape=_always(_deduplicated(_range(0x300000000, 896 * MIB))),
        ),
        Cell(
            what="legacy pmem (memmap=nn!ss), devdax 2M",
            shape=_always(_deduplicated(_range(0x28000000, 128 * MIB))),
        ),
        Cell(
            what="legacy pmem in a section of RAM, devdax 2M",
            # Odd but right: the memory map made at boot is used, as it is.
            shape=_always(
                Shape(
                    ranges=(_range(0x30000000, 64 * MIB),),
                    align=2 * MIB,
                    state="not-optimized",
                    reason="it lies in sections that were there at boot",
                    expected=256,
                    sharing={1: 256},
                    leaf_sizes=frozenset({2 * MIB}),
                )
            ),
            # Of 32 compound pages as many as are listed.
            findings=lambda series: (
                {("error", "compound-head"): 16} if stale_in_early_sections(series) else {}
            ),
        ),
    ),
)


# --- Devices that change, share sections, or have several ranges; two nodes.

#: bytes of RAM on each node of the guest "changes"
NODE_SIZE = 512 * MIB
#: soft-reserved memory: a range that is memory for nobody but dax_hmem, of which
#: daxctl makes devices of any size. What is there is nothing at all, but the
#: kernel believes the parameter, and nobody reads or writes it.
_HMEM_2M = _range(0x4000000000, 320 * MIB)
_HMEM_1G = _range(0x8000000000, 8 * GIB)
_CMB_SIZE = 64 * MIB


def _soft_reserved(one: Range) -> str:
    # From anything to type 0xefffffff, enum e820_type: E820_TYPE_SOFT_RESERVED.
    return f"memmap={(one[1] + 1 - one[0]) >> 20}M%{one[0]:#x}+0xefffffff"


def _fragment(guest: Guest, region: int, piece: int, align: int) -> tuple[str, str]:
    # Make two devices at the start of a dax region, then one of all that is
    # left without the first of them. Return the names of that and of the second.
    seed = f"dax{region}.0"
    # Since 6.4 such a device is offered to kmem first. The seed, of no size
    # then, can't be destroyed.
    guest.run(
        f"daxctl reconfigure-device --mode=devdax --force {seed}"
        f" && daxctl disable-device {seed}; daxctl destroy-device {seed}",
        check=False,
    )

    def create(*options: str) -> str:
        command = f"daxctl create-device --region={region} --align={align} {' '.join(options)}"
        (made,) = json.loads(guest.run(f"{command} 2>/dev/console").stdout)
        return str(made["chardev"])

    first, second = create(f"--size={piece}"), create(f"--size={piece}")
    guest.run(f"daxctl disable-device {first} && daxctl destroy-device {first}")
    return create(), second


def _change(guest: Guest) -> dict[str, Any]:
    notes: dict[str, Any] = {}
    regions = {
        region["size"]: region["id"]
        for region in json.loads(guest.run("daxctl list --regions").stdout)
        if "hmem" in region["path"]
    }
    notes["hmem"] = [
        _fragment(guest, regions[one[1] + 1 - one[0]], piece, align)
        for one, piece, align in ((_HMEM_2M, 64 * MIB, 2 * MIB), (_HMEM_1G, 2 * GIB, GIB))
    ]
    *_, destroyed, handed_over = guest.devices
    notes["memmap before"] = guest.report().memmap
    guest.run(
        f"ndctl disable-namespace {destroyed.namespace}"
        f" && ndctl destroy-namespace --force {destroyed.namespace}"
    )
    notes["memmap after"] = guest.report().memmap
    guest.run(f"daxctl reconfigure-device --mode=system-ram {handed_over.name} 2>/dev/console")
    iomem = guest.run("cat /proc/iomem").stdout
    notes["kmem"] = re.findall(r"System RAM \(kmem\)", iomem)
    # The driver has two BARs: its registers are 16 KiB.
    (notes["p2pdma"],) = (
        int(start, 16)
        for start, end in re.findall(r"^ *([0-9a-f]+)-([0-9a-f]+) : nvme$", iomem, re.M)
        if int(end, 16) + 1 - int(start, 16) == _CMB_SIZE
    )
    return notes


_CHANGES = Boot(
    devices=(
        # Off a section boundary: broken.
        Nvdimm(addr=0x104000000, size=3 * GIB, align=GIB),
        # In one section: odd but right.
        Nvdimm(addr=0x1D0000000, size=64 * MIB, mode="fsdax"),
        Nvdimm(addr=0x1D4000000, size=64 * MIB),
        # Begins inside a section: odd but right.
        Nvdimm(addr=0x1E2000000, size=224 * MIB, map="dev"),
        Nvdimm(addr=0x200000000, size=384 * MIB, node=1),
        Nvdimm(addr=0x220000000, size=512 * MIB),
        Nvdimm(addr=0x240000000, size=256 * MIB),
    ),
    cells=(
        Cell(
            what="devdax 1G, map=mem, off a section boundary",
            # Of 3 GiB the data takes 2 from 0x140000000 on. Three compound
            # pages, which need six frames; all but the first page of all of
            # them map one frame.
            shape=_always(
                Shape(
                    ranges=((0x104000000, 0x1BFFFFFFF),),
                    align=GIB,
                    state="partial",
                    reason="backed by 2 frames instead of 6",
                    expected=6,
                    sharing={1: 1, 12031: 1},
                    leaf_sizes=frozenset({4 * KIB}),
                )
            ),
            # Told of head and tails of the second and the third. That they lost
            # PG_head, and that 7.2's mask does not fit either, is not reported: of
            # compound pages with another's frame no contents are checked.
            # The damage itself is shown by drgn in test_broken_layouts.py.
            findings=lambda series: {
                ("error", "frame-shared"): 4,
                ("warning", "section-alignment"): 1,
            },
        ),
        Cell(
            what="fsdax, half of a section",
            shape=_always(_plain(_range(0x1D0000000, 64 * MIB), type="fsdax")),
        ),
        Cell(
            what="devdax 2M, map=mem, the other half",
            shape=_always(_deduplicated(_range(0x1D4000000, 64 * MIB))),
        ),
        Cell(
            what="devdax 2M, map=dev, from inside a section",
            # The section's part gets base pages of RAM.
            shape=_always(_plain(_range(0x1E2000000, 224 * MIB), align=2 * MIB, altmap=True)),
        ),
        Cell(
            what="devdax 2M, map=mem, on node 1",
            shape=_always(_deduplicated(_range(0x200000000, 384 * MIB))),
        ),
        Cell(
            what="devdax 2M, destroyed again",
            shape=_always(None),
            where=_range(0x220000000, 512 * MIB),
            unmapped=True,
        ),
        Cell(
            what="devdax 2M, handed to kmem",
            shape=_always(None),
            where=_range(0x240000000, 256 * MIB),
        ),
        Cell(
            what="dax_hmem 2M, several ranges",
            shape=_always(
                _deduplicated(
                    _range(_HMEM_2M[0], 64 * MIB), _range(_HMEM_2M[0] + 128 * MIB, 192 * MIB)
                )
            ),
        ),
        Cell(
            what="dax_hmem 2M, between them",
            shape=_always(_deduplicated(_range(_HMEM_2M[0] + 64 * MIB, 64 * MIB))),
        ),
        Cell(
            what="dax_hmem 1G, several ranges",
            shape=_always(
                _deduplicated(
                    _range(_HMEM_1G[0], 2 * GIB), _range(_HMEM_1G[0] + 4 * GIB, 4 * GIB), align=GIB
                )
            ),
        ),
        Cell(
            what="dax_hmem 1G, between them",
            shape=_always(_deduplicated(_range(_HMEM_1G[0] + 2 * GIB, 2 * GIB), align=GIB)),
        ),
        Cell(
            what="NVMe controller memory buffer (P2PDMA)",
            # Debian's kernels before 6.16 are built without CONFIG_PCI_P2PDMA.
            shape=lambda series: (
                _plain(_range(0, _CMB_SIZE), type="p2pdma") if at_least(series, "6.16") else None
            ),
            at="p2pdma",
            where=_range(0, _CMB_SIZE),
        ),
    ),
    memory=2 * NODE_SIZE,
    parameters=(
        _soft_reserved(_HMEM_2M),
        _soft_reserved(_HMEM_1G),
        # Where kmem takes the devices of a soft-reserved range by itself, their
        # memory must be such that can be taken back.
        "memhp_default_state=offline",
    ),
    qemu_arguments=(
        *("-object", f"memory-backend-ram,id=node0,size={NODE_SIZE}"),
        *("-object", f"memory-backend-ram,id=node1,size={NODE_SIZE}"),
        *("-numa", "node,nodeid=0,memdev=node0"),
        *("-numa", "node,nodeid=1,memdev=node1"),
        *("-device", f"nvme,serial=vmemscope,cmb_size_mb={_CMB_SIZE >> 20}"),
    ),
    steps=_change,
)


# --- A device that shares its first section with RAM: broken.

_EARLY = Boot(
    devices=(LegacyPmem(addr=0x114000000, size=2 * GIB, align=GIB),),
    cells=(
        Cell(
            what="devdax 1G, from inside a section of RAM",
            # Of 2 GiB the data takes 1 from 0x140000000 on. The memory map of
            # the first 64 MiB, 256 pages, is from boot. All other 6656 pages
            # map frame 0. A sound kernel would take a frame for the tail pages
            # that are left of the first compound page, and two for the second.
            shape=_always(
                Shape(
                    ranges=((0x114000000, 0x17FFFFFFF),),
                    align=GIB,
                    state="partial",
                    reason="256 pages of its vmemmap lie in sections that were there at boot",
                    expected=256 + 1 + 2,
                    sharing={1: 256, 6656: 1},
                    leaf_sizes=frozenset({2 * MIB, 4 * KIB}),
                )
            ),
            findings=_with_masks(
                {
                    ("error", "frame-not-memory"): 1,
                    ("warning", "section-alignment"): 1,
                    # The second compound page is all on frame 0.
                    ("error", "compound-head"): 1,
                    ("warning", "mask-alignment"): 1,
                },
                {
                    ("error", "frame-not-memory"): 1,
                    ("warning", "section-alignment"): 1,
                    ("note", "compound-alignment"): 1,
                },
                {("error", "compound-head"): 1},
            ),
        ),
    ),
    memory=5 * GIB,
)

# --- Memory behind CXL.


def _fragment_cxl(guest: Guest) -> dict[str, Any]:
    large, handed_over, devdax, fsdax = guest.devices
    region = int(large.region.removeprefix("region"))
    _fragment(guest, region, 256 * MIB, 2 * MIB)
    iomem = guest.run("cat /proc/iomem").stdout
    return {
        "cxl": large.start,
        "cxl kmem": handed_over.start,
        "cxl pmem": devdax.start,
        "cxl altmap": fsdax.start,
        "kmem": re.findall(r"System RAM \(kmem\)", iomem),
    }


_CXL = Boot(
    devices=(
        Cxl(size=1 * GIB),
        Cxl(size=512 * MIB),
        Cxl(size=768 * MIB, persistent=True),
        Cxl(size=256 * MIB, persistent=True, mode="fsdax", map="dev"),
    ),
    cells=(
        Cell(
            what="CXL, volatile 2M, several ranges",
            at="cxl",
            shape=_always(_deduplicated(_range(0, 256 * MIB), _range(512 * MIB, 512 * MIB))),
        ),
        Cell(
            what="CXL, volatile 2M, between them",
            at="cxl",
            shape=_always(_deduplicated(_range(256 * MIB, 256 * MIB))),
        ),
        Cell(
            what="CXL, volatile, taken by kmem",
            at="cxl kmem",
            shape=_always(None),
            where=_range(0, 512 * MIB),
        ),
        Cell(
            what="CXL, persistent, devdax 2M, map=mem",
            at="cxl pmem",
            shape=_always(_deduplicated(_range(0, 768 * MIB))),
        ),
        Cell(
            what="CXL, persistent, fsdax, map=dev",
            at="cxl altmap",
            shape=_always(_plain(_range(0, 256 * MIB), type="fsdax", altmap=True)),
        ),
    ),
    # kmem takes the volatile memory by itself.
    parameters=("memhp_default_state=offline",),
    steps=_fragment_cxl,
)

BOOTS = {"devices": _DEVICES, "changes": _CHANGES, "early": _EARLY, "cxl": _CXL}


def _keys(serieses: Sequence[str], cpus: Sequence[Cpu]) -> Iterator[Key]:
    for series in serieses:
        for cpu in cpus:
            for boot in BOOTS:
                # Volatile memory has a driver since 6.3.
                if boot != "cxl" or (at_least(series, "6.3") and cpu == "max"):
                    yield Key(series, cpu, boot)


#: what every run of the tests boots, and what ``--full`` does
SHORT = (
    *_keys(("6.1",), ("qemu64",)),
    *_keys(("7.2",), ("max",)),
    # The newest that there is, one guest of it.
    Key("7.3", "max", "devices"),
)
FULL = (
    *_keys(("6.1", "6.12", "7.2"), ("qemu64", "max")),
    *_keys(("6.16", "6.17", "6.18", "7.3"), ("max",)),
)
