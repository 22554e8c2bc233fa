# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a guest says of its own memory, what its page tables say, and what audits must say.

In: a guest, and the files that hold its memory. Out: differences between the audits and
two witnesses that share nothing with the package under test: the guest's own files in
``/proc`` and ``/sys``, and a walk of its page tables in QEMU's memory files.

Addresses are physical unless they are called virtual, ranges are (start, end) with
``end`` exclusive, and pages are base pages of 4 KiB. x86-64 only.
"""

from __future__ import annotations

import gc
import mmap
import random
import re
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import vmemscope

from .devices import KIB, MIB
from .guest import Guest
from .matrix import stale_in_early_sections

__all__ = (
    *("Alarm", "Expectations", "Memory", "Observed", "Pagemap", "Root", "Vmemmap"),
    *("compare", "expected_frames", "observe", "walk"),
)

Range = tuple[int, int]
SECTION = 128 * MIB
_PAGE = 4 * KIB
#: physical memory that a page of the vmemmap describes
_DESCRIBED = 256 * KIB
_KERNEL_MAP = 0xFFFFFFFF80000000
#: the processors of QEMU without KVM have 40 bits of physical address
_VMEMMAP_SIZE = (1 << 40) // 64
_SYMBOLS = ("_text", "init_top_pgt", "vmemmap_base")


class Alarm(NamedTuple):
    """A difference between an audit and what must be there."""

    #: the kind of difference: the same in each run that shows it
    kind: str
    text: str


@dataclass(frozen=True)
class Pagemap:
    """A pagemap that the guest's devices must have."""

    name: str
    type: str
    ranges: tuple[Range, ...]
    #: bytes in a compound page, 4 KiB where there are none
    align: int
    altmap: bool

    def size(self) -> int:
        """Return the bytes that it describes."""
        return sum(end - start for start, end in self.ranges)


@dataclass(frozen=True)
class Observed:
    """What the guest's own files say."""

    #: (start, end inclusive, name) of ``/proc/iomem``, outermost first
    iomem: list[tuple[int, int, str]]
    pagemaps: tuple[Pagemap, ...]
    #: state of memory blocks by number, and their nodes and zones
    blocks: dict[int, str]
    nodes: dict[int, int]
    zones: dict[int, str]
    #: counters of each size of huge pages
    hugepages: dict[str, dict[str, int]]
    #: counters of ``/proc/vmstat`` that begin with nr_memmap
    memmap: dict[str, int]
    hvo: str
    #: (start, size, unallocated bytes) of regions, by name
    regions: dict[str, tuple[int, int, int]]
    #: resource of namespaces by name, those that have a size
    namespaces: dict[str, int]
    #: names of dax devices, with the driver and whether persistent memory is behind them
    dax: dict[str, tuple[str, bool]]

    def settled(self, other: Observed) -> bool:
        """Return whether the guest did not change between two observations."""
        names = ("iomem", "pagemaps", "blocks", "zones", "hugepages", "memmap")
        return all(getattr(self, name) == getattr(other, name) for name in names)


_OBSERVE = r"""
cat /proc/iomem
grep -H '^nr_memmap' /proc/vmstat
cd /sys/bus/nd/devices
grep -sH . namespace*/resource namespace*/size region*/resource region*/size \
	region*/available_size ndbus*/provider dax*/resource dax*/size dax*/align dax*/mode \
	dax*/namespace \
	pfn*/resource pfn*/size pfn*/align pfn*/mode pfn*/namespace
cd /sys/bus/dax/devices
grep -sH . dax*/size dax*/align dax*/mapping*/start dax*/mapping*/end | sed 's,^,bus/,'
for one in /sys/bus/nd/devices/*/driver /sys/bus/nd/devices/region* \
	/sys/bus/dax/devices/*/driver /sys/bus/dax/devices/*; do
	echo "link:$one $(readlink $one)"
done
cd /sys/kernel/mm/hugepages
grep -sH . */nr_hugepages */free_hugepages */resv_hugepages */surplus_hugepages
cd /sys/devices/system/memory
grep -sH . memory*/state memory*/valid_zones
for one in memory*/node*; do echo "node:$one"; done
grep -sH . /proc/sys/vm/hugetlb_optimize_vmemmap
true
"""


def observe(guest: Guest) -> Observed:
    """Read what the guest's own files say."""
    text = guest.run(_OBSERVE).stdout
    iomem = [
        (int(start, 16), int(end, 16), name)
        for start, end, name in re.findall(r"^ *([0-9a-f]+)-([0-9a-f]+) : (.*)$", text, re.M)
    ]
    values = dict(re.findall(r"^([\w./]+):(.*)$", text, re.M))
    links = dict(re.findall(r"^link:(\S+) (\S+)$", text, re.M))

    def driver(bus: str, name: str) -> str:
        return Path(links.get(f"/sys/bus/{bus}/devices/{name}/driver", "")).name

    def number(key: str) -> int:
        # A file that is gone by now, or has no number.
        try:
            return int(values.get(key, "0"), 0)
        except ValueError:
            return 0

    def matches(pattern: str) -> list[str]:
        found = (re.fullmatch(pattern, key) for key in values)
        return sorted({match[1] for match in found if match})

    namespaces = {
        name: number(f"{name}/resource")
        for name in matches(r"(namespace[\d.]+)/size")
        if number(f"{name}/size")
    }
    pagemaps, claimed = [], set()
    for name in matches(r"((?:dax|pfn)[\d.]+)/namespace"):
        namespace = values[f"{name}/namespace"]
        if namespace not in namespaces or not driver("nd", name):
            continue
        claimed.add(namespace)
        devdax = name.startswith("dax")
        start, end = namespaces[namespace], number(f"{name}/resource") + number(f"{name}/size")
        chardev = f"dax{namespace.removeprefix('namespace')}"
        if devdax and driver("dax", chardev) != "device_dax":
            continue
        pagemaps.append(
            Pagemap(
                name=name,
                type="generic" if devdax else "fsdax",
                ranges=((start, end),),
                align=number(f"{name}/align") if devdax else _PAGE,
                altmap=values[f"{name}/mode"] == "pmem",
            )
        )
    for name, start in namespaces.items():
        # The driver maps a namespace without metadata where the region says so.
        region = links.get(f"/sys/bus/nd/devices/region{name[9:].partition('.')[0]}", "")
        bus = re.search(r"ndbus\d+", region)
        mapped = bus and values.get(f"{bus[0]}/provider") != "ACPI.NFIT"
        if name not in claimed and mapped and driver("nd", name) == "nd_pmem":
            end = start + number(f"{name}/size")
            pagemaps.append(Pagemap(name, "fsdax", ((start, end),), _PAGE, False))
    dax = {}
    for name in matches(r"bus/(dax[\d.]+)/size"):
        persistent = "ndbus" in links.get(f"/sys/bus/dax/devices/{name}", "")
        dax[name] = (driver("dax", name), persistent)
        if dax[name] == ("device_dax", False):
            mappings = matches(rf"bus/{re.escape(name)}/(mapping\d+)/start")
            ranges = tuple(
                sorted(
                    (number(f"bus/{name}/{one}/start"), number(f"bus/{name}/{one}/end") + 1)
                    for one in mappings
                )
            )
            pagemaps.append(
                Pagemap(name, "generic", ranges, number(f"bus/{name}/align") or _PAGE, False)
            )
    hugepages: dict[str, dict[str, int]] = {}
    for size, name, value in re.findall(r"^(hugepages-\d+kB)/(\w+):(\d+)$", text, re.M):
        hugepages.setdefault(size, {})[name] = int(value)
    return Observed(
        iomem=iomem,
        pagemaps=tuple(sorted(pagemaps, key=lambda one: one.ranges)),
        blocks={int(n): s for n, s in re.findall(r"^memory(\d+)/state:(\w+)", text, re.M)},
        nodes={int(n): int(m) for n, m in re.findall(r"^node:memory(\d+)/node(\d+)", text, re.M)},
        zones={int(n): z for n, z in re.findall(r"^memory(\d+)/valid_zones:(.*)", text, re.M)},
        hugepages=hugepages,
        memmap={k: int(v) for k, v in re.findall(r"^/proc/vmstat:(\w+) (\d+)", text, re.M)},
        hvo=values.get("/proc/sys/vm/hugetlb_optimize_vmemmap", ""),
        regions={
            name: (
                number(f"{name}/resource"),
                number(f"{name}/size"),
                number(f"{name}/available_size"),
            )
            for name in matches(r"(region\d+)/size")
        },
        namespaces=namespaces,
        dax=dax,
    )


class Memory:
    """The guest's physical memory, read in QEMU's files."""

    def __init__(self, parts: Sequence[tuple[int, Path]]) -> None:
        self._stack = ExitStack()
        self._parts: list[tuple[int, mmap.mmap]] = []
        for start, path in parts:
            self.add(start, path)

    def add(self, start: int, path: Path) -> None:
        """Add the file that is at an address."""
        with open(path, "rb") as file:
            opened = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._stack.callback(opened.close)
        self._parts.append((start, opened))

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def read(self, address: int, size: int) -> bytes | None:
        """Return the bytes at an address, ``None`` where there is no memory."""
        for start, part in self._parts:
            if start <= address and address + size <= start + len(part):
                return part[address - start : address - start + size]
        return None

    def word(self, address: int) -> int:
        """Return the 8 bytes at an address; 0 where there is no memory."""
        return int.from_bytes(self.read(address, 8) or b"", "little")


@dataclass(frozen=True)
class Root:
    """Where the kernel's page tables and its vmemmap are."""

    #: physical address of the top table, and log2 of what its entries cover
    table: int
    top: int
    #: virtual address of the struct page of pfn 0
    vmemmap: int

    @classmethod
    def of(cls, guest: Guest, memory: Memory) -> Root:
        """Find it by ``/proc/kallsyms`` and ``/proc/iomem``."""
        # With a regular expression, it takes busybox 10 s.
        names = " ".join(f"-e {name}" for name in _SYMBOLS)
        text = guest.run(f"grep -F -w {names} /proc/kallsyms; cat /proc/iomem").stdout
        symbols = {
            name: int(address, 16)
            for address, name in re.findall(r"^([0-9a-f]+) \w (\w+)$", text, re.M)
        }
        code = re.search(r"^ *([0-9a-f]+)-[0-9a-f]+ : Kernel code$", text, re.M)
        assert code, text
        offset = int(code[1], 16) - symbols["_text"]
        base = memory.word(symbols["vmemmap_base"] + offset)
        # With four levels the kernel's half begins there.
        top = 48 if base < 0xFFFF800000000000 else 39
        return cls(symbols["init_top_pgt"] + offset, top, base)


@dataclass(frozen=True)
class Vmemmap:
    """The vmemmap as it is mapped: columns of one value for each mapped page."""

    root: Root
    #: number of the page in the vmemmap; ascending
    page: Any
    #: frame that backs it
    pfn: Any
    #: bytes that its leaf entry maps
    size: Any
    writable: Any

    def part(self, ranges: Sequence[Range]) -> Vmemmap:
        """Return what describes physical memory."""
        chosen = np.zeros(len(self.page), bool)
        for start, end in ranges:
            chosen |= (self.page >= start // _DESCRIBED) & (self.page < -(-end // _DESCRIBED))
        columns = (getattr(self, name)[chosen] for name in ("page", "pfn", "size", "writable"))
        return Vmemmap(self.root, *columns)

    def frames(self) -> int:
        """Return how many different frames there are."""
        return len(np.unique(self.pfn))

    def sharing(self) -> dict[int, int]:
        """Return {entries that map a frame: frames}."""
        counts: Any = np.unique(np.unique(self.pfn, return_counts=True)[1], return_counts=True)
        return dict(zip(*(column.tolist() for column in counts), strict=True))

    def leaf_pages(self) -> dict[int, int]:
        """Return {bytes that a leaf maps: pages}."""
        return dict(Counter(self.size.tolist()))

    def leaves(self) -> dict[int, int]:
        """Return {bytes that a leaf maps: leaves}."""
        return {
            size: len(np.unique(self.page[self.size == size] * _PAGE // size))
            for size in self.leaf_pages()
        }

    def find(self, pfn: int) -> tuple[int, int] | None:
        """Return the frame that holds a struct page, and the bytes that its leaf maps."""
        at = int(np.searchsorted(self.page, pfn // 64))
        if at == len(self.page) or self.page[at] != pfn // 64:
            return None
        return int(self.pfn[at]), int(self.size[at])


def walk(memory: Memory, root: Root) -> Vmemmap:
    """Read the page tables of all of the vmemmap."""
    rows: list[tuple[int, int, int, bool]] = []
    end = root.vmemmap + _VMEMMAP_SIZE

    def down(table: int, shift: int, base: int) -> None:
        content = memory.read(table, _PAGE)
        if content is None:
            return
        for index, entry in enumerate(np.frombuffer(content, "<u8").tolist()):
            first = base + (index << shift)
            if not entry & 1 or first >= end or first + (1 << shift) <= root.vmemmap:
                continue
            frame = entry & ((1 << 52) - 1) & ~(_PAGE - 1)
            if shift == 12 or (shift in (21, 30) and entry & 1 << 7):
                pfn = (frame >> shift << shift) >> 12
                rows.append((first, pfn, shift, bool(entry & 2)))
            else:
                down(frame, shift - 9, first)

    kernel_half = (1 << 64) - (1 << (root.top + 9))
    down(root.table, root.top, kernel_half)
    virtual, pfn, shift, writable = (np.array(c) for c in zip(*rows, strict=True))
    count = 1 << (shift - 12)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    page = np.repeat((virtual.astype("u8") - np.uint64(root.vmemmap)).astype("i8") >> 12, count)
    return Vmemmap(
        root,
        page + step,
        np.repeat(pfn, count) + step,
        np.repeat(1 << shift, count),
        np.repeat(writable, count),
    )


@dataclass
class Expectations:
    """What is known of this boot and lasts."""

    #: sections that were there at boot, by number
    early: frozenset[int]
    series: str
    #: tail pages hold a mask (7.1 and later)
    masks: bool
    #: {cause: findings} of known bugs, of all comparisons
    causes: Counter[str] = field(default_factory=Counter)


def _chunks(ranges: Sequence[Range]) -> Iterator[Range]:
    for start, end in ranges:
        while start < end:
            stop = min(end, (start // SECTION + 1) * SECTION)
            yield start, stop
            start = stop


def _whole_early(chunk: Range, known: Expectations) -> bool:
    # mm/sparse.c: section_activate() keeps the memory map of a part of a section from boot.
    return chunk[0] // SECTION in known.early and chunk[1] - chunk[0] < SECTION


def expected_frames(pagemap: Pagemap, known: Expectations) -> int:
    """Return the frames that a sound kernel takes (mm/sparse-vmemmap.c)."""
    frames = 0
    for start, end in pagemap.ranges:
        chunks = list(_chunks([(start, end)]))
        plain = pagemap.altmap or pagemap.align <= 2 * 64 * _PAGE
        for chunk in chunks:
            if plain or _whole_early(chunk, known):
                frames += (chunk[1] - chunk[0]) // _DESCRIBED
        built = [one for one in chunks if not plain and not _whole_early(one, known)]
        if built:
            # A frame for the first page of each compound page, one for all others.
            first, last = built[0][0], built[-1][1]
            for head in range(start, last, pagemap.align):
                pages = (min(last, head + pagemap.align) - max(head, first)) // _DESCRIBED
                if pages > 0:
                    frames += (head >= first) + (pages - (head >= first) > 0)
    return frames


def broken_layout(pagemap: Pagemap, known: Expectations) -> bool:
    """Return whether the kernel makes a memory map of it that is broken."""
    return (
        not pagemap.altmap
        and pagemap.align > SECTION
        and any(
            start % SECTION or _whole_early(next(_chunks([(start, end)])), known)
            for start, end in pagemap.ranges
        )
    )


#: findings of the layouts that the kernel gets wrong, and of those that follow
_BROKEN_LAYOUT = {
    *("frame-shared", "frame-not-memory", "section-alignment", "tail-frame"),
    *("compound-head", "compound-alignment", "mask-alignment", "tail-contents"),
    # Heads but the first lie in the frame of the tail pages, and overwrite them.
    *("head-flag", "stray-head", "compound-order", "pgmap-link", "page-refcount"),
}
_UNINITIALISED = ("page-zone", "page-uninitialised", "compound-head", "page-refcount")
#: Findings of known bugs: rule -> series in which the kernel has the bug, and its name.
_KNOWN: dict[str, tuple[tuple[str, ...], str]] = {
    "hugetlb-restore": (("6.12",), "6.12.114 and later lost reset_struct_pages()"),
}


def _cause(rule: str, pagemap: Pagemap | None, known: Expectations) -> str | None:
    # The known bug that explains a finding.
    if pagemap is not None:
        if rule in _BROKEN_LAYOUT and broken_layout(pagemap, known):
            return "compound pages larger than a section, off a section boundary or in RAM's"
        unaligned = any(start % pagemap.align for start, _ in pagemap.ranges)
        if unaligned and not pagemap.altmap:
            if rule == "compound-alignment":
                return "compound pages off a boundary of their size (a note)"
            if rule in ("compound-head", "mask-alignment") and known.masks:
                return "tail pages hold a mask, but compound pages are not aligned"
    if pagemap is not None and stale_in_early_sections(known.series):
        early = any(start // SECTION in known.early for start, _ in _chunks(pagemap.ranges))
        if rule in _UNINITIALISED and early and pagemap.align > _PAGE:
            return "struct pages from the 129th on in sections that were there at boot"
    if rule in _KNOWN and known.series in _KNOWN[rule][0]:
        return _KNOWN[rule][1]
    return None


class _Comparison:
    def __init__(self) -> None:
        self.alarms: list[Alarm] = []

    def equal(self, kind: str, reported: object, witnessed: object, what: str = "") -> None:
        if reported != witnessed:
            self.alarms.append(Alarm(kind, f"{what}: reported {reported}, witnessed {witnessed}"))

    def alarm(self, kind: str, text: str) -> None:
        self.alarms.append(Alarm(kind, text))

    def findings(
        self, audit: str, findings: Sequence[Any], pagemap: Pagemap | None, known: Expectations
    ) -> None:
        for one in findings:
            cause = _cause(one.rule, pagemap, known)
            if cause is None:
                self.alarm(f"{audit} {one.rule}", f"{one.severity} {one.message}")
            else:
                known.causes[cause] += 1


def compare(
    guest: Guest,
    memory: Memory,
    root: Root,
    known: Expectations,
    generator: random.Random,
    observed: Observed,
    pages: int = 6,
) -> list[Alarm]:
    """
    Run all audits, and compare them with the witnesses.

    :param observed: what the guest says now
    :param pages: how many pages ``page`` is asked for
    """
    compared = _Comparison()
    vmemmap = walk(memory, root)
    numbers = _numbers(generator, vmemmap, pages)
    try:
        pgmap, hugetlb, memmap, *asked = _audit_all(guest, numbers)
    except Exception as error:
        # Whatever it is, it is what is hunted.
        kind = f"{type(error).__name__} {traceback.extract_tb(error.__traceback__)[-1].name}"
        compared.alarm(kind, "".join(traceback.format_exception(error)))
    else:
        _compare_pagemaps(compared, pgmap, observed, vmemmap, known)
        _compare_hugetlb(compared, hugetlb, observed, vmemmap, known)
        _compare_memmap(compared, memmap, observed, vmemmap, known)
        for page in asked:
            _compare_page(compared, page, observed, vmemmap, memory, known)
    _compare_gva2gpa(compared, guest, vmemmap, generator)
    if compared.alarms and not observe(guest).settled(observed):
        return [Alarm("unsettled", "the guest changed while it was audited")]
    return compared.alarms


def _audit_all(guest: Guest, numbers: Sequence[int]) -> Sequence[Any]:
    # A socket of QMP serves one client, so the program has to go before the next one.
    # Memory that is plugged in later can't be read through it.
    try:
        kernel = vmemscope.Kernel.open_qemu(f"unix:{guest.qmp}")
        return [
            vmemscope.audit(kernel),
            vmemscope.audit_hugetlb(kernel.again(), folios=True),
            vmemscope.audit_memmap(kernel.again()),
            *(vmemscope.audit_page(kernel.again(), number, "pfn") for number in numbers),
        ]
    finally:
        kernel = None
        gc.collect()


def _numbers(generator: random.Random, vmemmap: Vmemmap, count: int) -> list[int]:
    # Pages that have a struct page, and frames that hold some.
    numbers = []
    for index in range(count):
        at = generator.randrange(len(vmemmap.page))
        if index % 3 == 2:
            numbers.append(int(vmemmap.pfn[at]))
        else:
            numbers.append(int(vmemmap.page[at]) * 64 + generator.choice((0, 1, 2, 63)))
    return numbers


def _compare_pagemaps(
    compared: _Comparison,
    report: vmemscope.Report,
    observed: Observed,
    vmemmap: Vmemmap,
    known: Expectations,
) -> None:
    wanted = {one.ranges: one for one in observed.pagemaps}
    found = {
        tuple((part.start, part.end + 1) for part in sorted(one.ranges, key=lambda r: r.start)): one
        for one in report.pagemaps
    }
    compared.equal("pagemaps", sorted(found), sorted(wanted), "ranges of all pagemaps")
    compared.findings("pgmap", report.findings, None, known)
    compared.equal("pgmap not read", report.not_read, (), "pgmap")
    for ranges, one in found.items():
        if ranges not in wanted:
            continue
        pagemap, real = wanted[ranges], vmemmap.part(ranges)
        what = f"{one.label} of {pagemap}"
        broken = broken_layout(pagemap, known)
        compared.findings("pgmap", one.findings, pagemap, known)
        compared.equal("pgmap type", one.type, pagemap.type, what)
        compared.equal("pgmap compound size", one.compound_size, pagemap.align, what)
        compared.equal("pgmap altmap", one.altmap is not None, pagemap.altmap, what)
        counts, frames = one.vmemmap, one.frames
        compared.equal("pgmap pages", counts.pages, pagemap.size() // _DESCRIBED, what)
        compared.equal("pgmap mapped", counts.mapped, len(real.page), what)
        compared.equal("pgmap unreadable", counts.unreadable, 0, what)
        compared.equal("pgmap leaves", _ints(counts.leaf_sizes), real.leaves(), what)
        compared.equal("pgmap frames", frames.backing, real.frames(), what)
        compared.equal("pgmap sharing", _ints(frames.sharing), real.sharing(), what)
        if not broken:
            compared.equal("pgmap expected", frames.expected, expected_frames(pagemap, known), what)
            compared.equal("pgmap sound", frames.backing, frames.expected, what)


def _ints(counts: Any) -> dict[int, int]:
    return {int(key): value for key, value in dict(counts).items()}


def _compare_hugetlb(
    compared: _Comparison,
    report: vmemscope.HugetlbReport,
    observed: Observed,
    vmemmap: Vmemmap,
    known: Expectations,
) -> None:
    compared.findings("hugetlb", report.findings, None, known)
    compared.equal("hugetlb not read", report.not_read, (), "hugetlb")
    if observed.hvo:
        compared.equal("hugetlb switch", report.hvo.enabled, observed.hvo == "1", "enabled")
    compared.equal(
        "hugetlb sizes", {one.name for one in report.hstates}, set(observed.hugepages), "hstates"
    )
    for one in report.hstates:
        own = observed.hugepages.get(one.name, {})
        counters = {
            "nr_hugepages": one.nr_huge_pages,
            "free_hugepages": one.free_huge_pages,
            "resv_hugepages": one.resv_huge_pages,
            "surplus_hugepages": one.surplus_huge_pages,
        }
        compared.equal("hugetlb counters", counters, own, one.name)
        compared.equal("hugetlb folios", one.folios, one.nr_huge_pages, one.name)
        compared.equal("hugetlb states", (one.elsewhere, one.unreadable), (0, 0), one.name)
    read_only = defaultdict(int)
    for folio in report.folios:
        real = vmemmap.part([(folio.pfn * _PAGE, folio.pfn * _PAGE + folio.size)])
        count = int((~real.writable).sum())
        read_only[folio.hstate] += count
        what = f"folio at pfn {folio.pfn:#x}"
        compared.equal("hugetlb pages", folio.pages, len(real.page), what)
        compared.equal("hugetlb read-only", folio.read_only, count, what)
        if len(real.page):
            compared.equal("hugetlb head frame", folio.head_pfn, int(real.pfn[0]), what)
    total = int((~vmemmap.writable).sum())
    compared.equal("hugetlb all read-only", report.summary.read_only, total, "all of the vmemmap")
    compared.equal("hugetlb walked", report.summary.walked, len(vmemmap.page), "walked")


def _overlap(one: Range, others: Sequence[Range]) -> int:
    return sum(max(0, min(one[1], end) - max(one[0], start)) for start, end in others)


def _compare_memmap(
    compared: _Comparison,
    report: vmemscope.MemmapReport,
    observed: Observed,
    vmemmap: Vmemmap,
    known: Expectations,
) -> None:
    compared.findings("memmap", report.findings, None, known)
    compared.equal("memmap not read", report.not_read, (), "memmap")
    summary = report.summary
    compared.equal("memmap mapped", summary.mapped, len(vmemmap.page), "mapped pages")
    compared.equal("memmap frames", summary.frames, vmemmap.frames(), "frames")
    compared.equal("memmap leaks", len(report.leaks), 0, "leaks")
    leaf_pages: Counter[int] = Counter()
    for area in report.areas:
        leaf_pages.update(_ints(area.leaf_pages))
    compared.equal("memmap leaves", dict(leaf_pages), vmemmap.leaf_pages(), "leaf pages")
    read_only = sum(area.read_only for area in report.areas)
    compared.equal("memmap read-only", read_only, int((~vmemmap.writable).sum()), "read-only")
    kinds = Counter(area.kind for area in report.areas if area.kind in ("unknown", "nothing"))
    compared.equal("memmap kinds", kinds, Counter(), "areas of no known zone or of nothing")
    # Bytes by state and node, blocks without the pagemaps in them.
    devices = [one for pagemap in observed.pagemaps for one in pagemap.ranges]
    online: Counter[int | None] = Counter()
    offline = 0
    for number, state in observed.blocks.items():
        block = (number * SECTION, (number + 1) * SECTION)
        size = SECTION - _overlap(block, devices)
        if state == "offline":
            offline += size
        else:
            online[observed.nodes.get(number)] += size
    reported: Counter[int | None] = Counter()
    for area in report.areas:
        if area.kind == "zone":
            reported[area.node] += area.described_bytes
    if not any(start % MIB for start, _ in devices):
        compared.equal("memmap online", +reported, +online, "bytes online, by node")
        described = sum(area.described_bytes for area in report.areas if area.kind == "offline")
        compared.equal("memmap offline", described, offline, "bytes offline")
    pagemaps = {one.ranges[0][0]: one for one in observed.pagemaps}
    areas = [area for area in report.areas if area.kind == "pagemap"]
    compared.equal("memmap pagemaps", len(areas), len(pagemaps), "areas of pagemaps")
    for area, (_, pagemap) in zip(areas, sorted(pagemaps.items()), strict=False):
        real = vmemmap.part(pagemap.ranges)
        compared.equal("memmap area", area.described_bytes, pagemap.size(), area.label)
        compared.equal("memmap area frames", area.frames, real.frames(), area.label)
    for counter in report.counters:
        compared.equal("memmap counter", counter.value, observed.memmap.get(counter.name), counter)


def _compare_page(
    compared: _Comparison,
    report: vmemscope.PageReport,
    observed: Observed,
    vmemmap: Vmemmap,
    memory: Memory,
    known: Expectations,
) -> None:
    pfn, what = report.pfn, f"pfn {report.pfn:#x}"
    address = pfn * _PAGE
    pagemap = next(
        (one for one in observed.pagemaps for start, end in one.ranges if start <= address < end),
        None,
    )
    compared.findings("page", report.findings, pagemap, known)
    compared.equal("page not read", report.not_read, (), what)
    names = tuple(name for start, end, name in observed.iomem if start <= address <= end)
    compared.equal("page resources", tuple(one.name for one in report.resources), names, what)
    compared.equal("page pagemap", report.place is not None, pagemap is not None, what)
    state = observed.blocks.get(address // SECTION)
    compared.equal("page online", report.section.online, state in ("online", "going-offline"), what)
    real = vmemmap.find(pfn)
    frame = None if report.frame is None else (report.frame.pfn, report.frame.leaf_size)
    compared.equal("page frame", frame, real, what)
    if real is None:
        return
    at = real[0] * _PAGE + pfn % 64 * 64
    content = memory.read(at, 64)
    if content is None or not report.page.words:
        compared.equal("page content", report.page.readable, content is not None, what)
        return
    words = {one.offset: one.value for one in report.page.words}
    own = {offset: int.from_bytes(content[offset : offset + 8], "little") for offset in words}
    # A page in use changes while it is read.
    if words != own and content == memory.read(at, 64):
        changing = {8, 16, 24, 32, 40, 48, 56} if pagemap is None else set()
        compared.equal(
            "page words",
            {k: v for k, v in words.items() if k not in changing},
            {k: v for k, v in own.items() if k not in changing},
            what,
        )
    virtual = vmemmap.root.vmemmap + pfn * 64
    compared.equal("page address", report.page.address, virtual, what)
    runs = _back(vmemmap, pfn)
    backs = None if report.backs is None else report.backs.pages
    compared.equal("page backs", backs or 0, runs, what)


def _back(vmemmap: Vmemmap, pfn: int) -> int:
    # How many pages of the vmemmap a frame backs.
    return int((vmemmap.pfn == pfn).sum())


def _compare_gva2gpa(
    compared: _Comparison, guest: Guest, vmemmap: Vmemmap, generator: random.Random
) -> None:
    # The walker above and QEMU's must agree, or nothing else means anything.
    for _ in range(2):
        at = generator.randrange(len(vmemmap.page))
        virtual = vmemmap.root.vmemmap + int(vmemmap.page[at]) * _PAGE
        answer = guest.execute("human-monitor-command", **{"command-line": f"gva2gpa {virtual:#x}"})
        match = re.search(r"gpa: (0x[0-9a-f]+)", answer)
        # A processor in user space with page tables of its own has no vmemmap.
        if match:
            compared.equal("gva2gpa", int(vmemmap.pfn[at]) * _PAGE, int(match[1], 16), hex(virtual))
