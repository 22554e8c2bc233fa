# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A real guest that QEMU migrates, and one that starts again while it is audited.

Without KASLR its kernel is where it was before: what is left of the one and what is there
already of the other look like one kernel.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import vmemscope
from vmemscope.errors import TargetError, TypesError

from .devices import MIB, Nvdimm
from .guest import Guest
from .packages import get_kernel

#: seconds from a reset until the guest is up again, or nearly
_SECONDS = 10
_GONE = (
    "the kernel does not run any more, or not yet",
    "the kernel still boots",
    "the guest has no VMCOREINFO",
    # Its image is being unpacked.
    "the kernel's symbol table (kallsyms) is damaged",
)

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def guest() -> Iterator[Guest]:
    with Guest(
        get_kernel("7.2"),
        [Nvdimm(size=256 * MIB, mode="devdax", align=2 * MIB)],
        memory=512 * MIB,
        parameters=("nokaslr", "hugetlb_free_vmemmap=on", "hugepages=10"),
        qemu_arguments=("-action", "reboot=reset"),
    ) as guest:
        yield guest


def audited(guest: Guest, audit: Callable[[vmemscope.Kernel], Any]) -> tuple[Any, str]:
    """Return a report and the notes of its target, or ``None`` and why there is none."""
    kernel, said = None, ""
    try:
        kernel = vmemscope.Kernel.open_qemu(f"unix:{guest.qmp}")
        report = audit(kernel)
        said = "\n".join(kernel.target.notes)
    except (TargetError, TypesError) as error:
        report, said = None, error.message
    # A socket of QMP serves one client.
    kernel = None
    gc.collect()
    return report, said


def test_while_qemu_migrates_it(guest: Guest) -> None:
    """QEMU refuses to dump then; the VMCOREINFO in memory is as good."""
    guest.execute("migrate-set-parameters", **{"max-bandwidth": MIB})
    guest.execute("migrate", uri="exec:cat > /dev/null")
    report, note = audited(guest, vmemscope.audit)
    assert guest.execute("query-migrate")["status"] == "active"
    guest.execute("migrate_cancel")
    assert "VMCOREINFO was found in memory" in note
    assert "QEMU refused to dump it (" in note
    assert (report.findings, report.not_read, len(report.pagemaps)) == ((), (), 1)


def test_while_it_starts_again(guest: Guest) -> None:
    """Nothing is found, whatever the moment; what can't be audited is refused."""
    seen: Counter[str] = Counter()
    guest.execute("system_reset")
    start = time.monotonic()
    while time.monotonic() - start < _SECONDS:
        for audit in (vmemscope.audit_hugetlb, vmemscope.audit_memmap, vmemscope.audit):
            report, said = audited(guest, audit)
            if report is None:
                (why,) = [one for one in _GONE if said.startswith(one)]
                seen[why] += 1
            else:
                assert report.findings == ()
                seen["audited"] += 1
    # The premise: it was met while there was no kernel to audit.
    assert seen[_GONE[0]] + seen[_GONE[1]], seen
