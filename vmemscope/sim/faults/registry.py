# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every fault is one decorated function::

    @fault("pgmap hole", "memmap section-unmapped")
    def hole(p: Planter, at: Page = Page()) -> Planted:
        \"\"\"Nothing is mapped where struct pages should be.\"\"\"

Its name is the fault's kind, its parameters are the options that a scenario may give
with their types and defaults, the decorator names each command and rule that must
report it, and what it returns says where. Scenarios, their messages and the tests
that compare faults with rules follow from this.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .planted import Planted

__all__ = (
    "FAULTS",
    "HUGETLB_FAULTS",
    "Compound",
    "FaultKind",
    "Option",
    "Page",
    "StructPage",
    "fault",
    "hugetlb_fault",
)


# Places in a pagemap's vmemmap. Their members are options of the fault, too.


@dataclass(frozen=True)
class Compound:
    """A compound page: which of the pagemap's ranges, which compound page of the range."""

    range: int = 0
    compound: int = 0


@dataclass(frozen=True)
class Page(Compound):
    """A page of the vmemmap that describes a compound page, or a range without any."""

    page: int = 0


@dataclass(frozen=True)
class StructPage(Compound):
    """A struct page of a compound page, or of a range without any."""

    struct_page: int = 0


@dataclass(frozen=True)
class Option:
    """What a scenario may give for a fault."""

    name: str
    default: int | str
    #: of text: all that it may be, if not anything
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault."""

    name: str
    plant: Callable[..., Planted]
    #: commands that must report it, and the rule of each
    rules: tuple[tuple[str, str], ...]
    #: the kernels that can have it; empty: all
    kernels: tuple[str, ...]
    options: tuple[Option, ...]
    #: parameters that are places; option -> parameter of the others
    _places: Mapping[str, type[Compound]]
    _parameters: Mapping[str, str]

    def arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Make the function's arguments of a scenario's options."""
        given = dict(options)
        arguments: dict[str, Any] = {}
        for parameter, place in self._places.items():
            names = [field.name for field in dataclasses.fields(place)]
            arguments[parameter] = place(**{name: given.pop(name) for name in names})
        return arguments | {self._parameters[name]: value for name, value in given.items()}


#: kinds of faults in a pagemap or in what there is besides; those in HugeTLB
FAULTS: dict[str, FaultKind] = {}
HUGETLB_FAULTS: dict[str, FaultKind] = {}

_Plant = typing.TypeVar("_Plant", bound=Callable[..., Planted])


def fault(*rules: str, kernels: tuple[str, ...] = ()) -> Callable[[_Plant], _Plant]:
    """
    Register a fault in a pagemap, or in what there is besides.

    :param rules: a command and its rule each; none if it is no violation
    :param kernels: the only ones that can have it
    """
    return _register(FAULTS, rules, kernels)


def hugetlb_fault(*rules: str, kernels: tuple[str, ...] = ()) -> Callable[[_Plant], _Plant]:
    """Register a fault in HugeTLB."""
    return _register(HUGETLB_FAULTS, rules, kernels)


def _register(
    registry: dict[str, FaultKind], rules: tuple[str, ...], kernels: tuple[str, ...]
) -> Callable[[_Plant], _Plant]:
    def register(plant: _Plant) -> _Plant:
        name = plant.__name__.replace("_", "-")
        pairs = tuple((command, rule) for command, rule in map(str.split, rules))
        registry[name] = FaultKind(name, plant, pairs, kernels, *_options(plant))
        return plant

    return register


def _options(
    plant: Callable[..., Any],
) -> tuple[tuple[Option, ...], dict[str, type[Compound]], dict[str, str]]:
    options: list[Option] = []
    places: dict[str, type[Compound]] = {}
    parameters: dict[str, str] = {}
    hints = typing.get_type_hints(plant)
    for name, parameter in list(inspect.signature(plant).parameters.items())[1:]:
        default = parameter.default
        if isinstance(default, Compound):
            places[name] = type(default)
            options += [Option(*item) for item in vars(default).items()]
            continue
        # An underscore sets it apart from a keyword or a name of Python.
        parameters[name.rstrip("_")] = name
        hint = hints[name]
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        options.append(Option(name.rstrip("_"), default, choices))
    return tuple(options), places, parameters
