# SPDX-License-Identifier: LGPL-2.1-or-later
from __future__ import annotations

import ast
from pathlib import Path

import pytest

import vmemscope.sim
from vmemscope.errors import UsageError
from vmemscope.sim import build, builtin_scenarios, load_scenario
from vmemscope.sim.scenario_toml import parse_scenario

DEVICE = '[[pagemap]]\nname = "dax0.0"\ntype = "devdax"\nstart = 0x100000000\nsize = "64M"\n'
FSDAX = '[[pagemap]]\nname = "pmem0"\ntype = "fsdax"\nstart = 0x200000000\nsize = "64M"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("=", "scenario test is not valid TOML"),
        ("nonsense = 1", "scenario test: unknown key 'nonsense'"),
        ('kernel = "2.6"', "kernel '2.6' can't be simulated; there are 6.1, 6.12, 7.2"),
        ("kernel = 6", "kernel must be a string, not 6"),
        ("levels = 3", "levels must be 4 or 5 on x86_64"),
        ("levels = true", "levels must be an integer, not True"),
        ("sme_bit = 30", "sme_bit must be from 46 to 51, or 0"),
        ("sme_bit = 52", "sme_bit must be from 46 to 51, or 0"),
        ("lto = 1", "lto must be true or false, not 1"),
        ('randstruct = "yes"', "randstruct must be true or false, not 'yes'"),
        ('ram = "lots"', "ram must be bytes, or a string such as '512M', not 'lots'"),
        ('ram = "32M"', "the first range of RAM must start at 0 and hold 64M or more"),
        ('ram = "1G"\n[[node]]\nstart = 0\nsize = "1G"', "give either ram or node, not both"),
        ('[[node]]\nstart = 0\nsize = "4G"', "RAM must leave 3G to 4G to devices"),
        ('[[node]]\nstart = 0\nsize = "65K"', "RAM must come in whole megabytes"),
        ('[[node]]\nstart = 0\nsize = "64M"\nnid = 64', "no node 64"),
        ("pagemap = 1", "pagemap must be a list, not 1"),
        ("pagemap = [1]", "pagemap must be a list of tables"),
        ('[[pagemap]]\ntype = "devdax"', "scenario test, pagemap 0: start is missing"),
        (DEVICE.replace("devdax", "gpu"), "no type 'gpu': there are coherent, devdax"),
        (DEVICE.replace("64M", "63M"), "ranges must be multiples of 2M"),
        (DEVICE.replace("64M", "100T"), "ranges must lie between 64M and 64T"),
        (DEVICE.replace("0x100000000", "0"), "ranges must lie between 64M and 64T"),
        (DEVICE.replace("dax0.0", "pmem0"), "a device-dax device is called daxN.N"),
        (FSDAX.replace("pmem0", "dax0.0"), "an fsdax device is called pmemN"),
        (DEVICE + 'align = "1M"', "align must be one of 4K, 2M, 1G"),
        (DEVICE + 'map = "ram"', "map must be 'mem' or 'dev'"),
        (DEVICE + "nid = 1", "dax0.0 is on node 1, which has no RAM"),
        (DEVICE + DEVICE, "two pagemaps have the same name"),
        (DEVICE + DEVICE.replace("0.0", "1.0"), "pagemap ranges overlap: dax0.0 and dax1.0"),
        (DEVICE + "ranges = [{start = 0, size = 1}, {start = 2, size = 1}]", "only hmem has"),
        (DEVICE + '[[fault]]\nkind = "hole"', "scenario test, fault 0: pagemap is missing"),
        (DEVICE + '[[fault]]\nkind = "x"\npagemap = "dax0.0"', "no fault 'x': there are hole"),
        (DEVICE + '[[fault]]\nkind = "hole"\npagemap = "dax1.0"', "there is no pagemap 'dax1.0'"),
        (
            DEVICE + '[[fault]]\nkind = "hole"\npagemap = "dax0.0"\nwhere = 1',
            "fault 0: unknown key 'where'",
        ),
        (
            DEVICE + '[[fault]]\nkind = "tail-wrong-frame"\npagemap = "dax0.0"\nto = "x"',
            "to must be one of neighbour, other-pagemap",
        ),
    ],
)
def test_bad_scenarios(text, message):
    with pytest.raises(UsageError) as e:
        parse_scenario(text, "test")
    assert message in str(e.value)
    assert "\n" not in str(e.value)


def test_unknown_names():
    with pytest.raises(UsageError, match="there is no scenario 'no-such'; give a TOML file, or"):
        load_scenario("no-such")
    with pytest.raises(UsageError, match=r"cannot read scenario no-such\.toml: No such file"):
        load_scenario("no-such.toml")


def test_not_text(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not UTF-8 text"):
        load_scenario(path)


def test_too_little_ram():
    text = 'ram = "64M"\n' + FSDAX.replace("64M", "8G")
    with pytest.raises(UsageError, match="RAM is too small for its devices; give it more"):
        build(parse_scenario(text, "test"))


def test_too_small_for_its_align():
    text = DEVICE.replace("64M", "128M") + 'align = "1G"'
    with pytest.raises(UsageError, match=r"dax0\.0 is too small for its align"):
        build(parse_scenario(text, "test"))


def test_kernel_argument():
    scenario = load_scenario("empty")
    assert "OSRELEASE=7.2.13" in build(scenario, kernel="7.2").vmcoreinfo
    with pytest.raises(UsageError, match="kernel '9' can't be simulated"):
        build(scenario, kernel="9")


@pytest.mark.parametrize("name", builtin_scenarios())
def test_builtin_scenarios_say_what_they_are(name):
    scenario = load_scenario(name)
    assert scenario.description
    assert not scenario.faults


def test_simulator_and_checker_share_nothing():
    """It is a second witness: of the rest of vmemscope it may know the errors only."""
    top = Path(vmemscope.sim.__file__).parent
    for path in top.rglob("*.py"):
        depth = len(path.relative_to(top).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(name.name.startswith("vmemscope") for name in node.names), path
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("vmemscope"), path
                if node.level > depth:
                    assert node.module == "errors", path
