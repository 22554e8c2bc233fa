# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Simulated kernels: a scenario becomes a vmcore that any drgn can open.

    image = build(load_scenario("devdax-2m"), kernel="7.2")
    image.write("vmcore")

The dump is self-contained: VMCOREINFO, kallsyms and BTF are in it. Its content
follows the kernel's algorithms and real kernels' struct layouts, and is written
apart from all that judges it: nothing here imports the rest of vmemscope but
its errors.
"""

from __future__ import annotations

import dataclasses
import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .scenario import Scenario, check_arch, check_kernel
from .scenario_toml import parse_scenario

if TYPE_CHECKING:
    from .image import Image
    from .kernel import SimulatedKernel

__all__ = ("Scenario", "boot", "build", "builtin_scenarios", "load_scenario")


def builtin_scenarios() -> list[str]:
    """Return the names of the scenarios that are part of the package."""
    found = files(__name__).joinpath("scenarios").iterdir()
    return sorted(file.name[:-5] for file in found if file.name.endswith(".toml"))


def load_scenario(name_or_path: str | os.PathLike[str]) -> Scenario:
    """
    Read a scenario.

    :param name_or_path: one of :func:`builtin_scenarios`, or a TOML file
    :raises UsageError: if there is none such, or it is no good
    """
    name = os.fspath(name_or_path)
    if name in builtin_scenarios():
        file = files(__name__).joinpath("scenarios").joinpath(f"{name}.toml")
        return parse_scenario(file.read_text(encoding="utf-8"), name)
    path = Path(name)
    if path.suffix != ".toml":
        raise UsageError(
            f"there is no scenario {name!r}",
            "give a TOML file, or one of " + ", ".join(builtin_scenarios()),
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise UsageError(f"cannot read scenario {name}: {e.strerror}") from e
    except UnicodeDecodeError:
        raise UsageError(f"scenario {name} is not UTF-8 text") from None
    return parse_scenario(text, path.stem)


def build(scenario: Scenario, *, kernel: str | None = None, arch: str | None = None) -> Image:
    """
    Simulate a scenario.

    :param kernel: simulate this version instead of the scenario's
    :param arch: simulate this architecture instead of the scenario's
    :raises UsageError: if the scenario can't be carried out
    """
    # numpy and kdumpling are not needed until here.
    from .image import Image

    return Image(boot(scenario, kernel=kernel, arch=arch))


def boot(
    scenario: Scenario, *, kernel: str | None = None, arch: str | None = None
) -> SimulatedKernel:
    """
    Simulate a scenario up to where its faults are planted.

    Parameters and errors are those of :func:`build`. Of the kernel there can be deep copies.
    """
    from .kernel import SimulatedKernel

    if kernel is not None:
        check_kernel(kernel, scenario.name)
        scenario = dataclasses.replace(scenario, kernel=kernel)
    if arch is not None:
        scenario = dataclasses.replace(scenario, arch=arch)
    check_arch(scenario)
    return SimulatedKernel(scenario)
