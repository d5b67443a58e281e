"""The places of functions in ELF files, and files that are none."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from agentd.calls.operands import operands
from agentd.calls.places import places

SOURCE = """
int one(void) { return 1; }
int two(void) { return 2; }
extern int one_again(void) __attribute__((alias("one")));
extern int one_more(void) __attribute__((alias("one")));
extern int elsewhere(void);
int calls(void) { return elsewhere(); }
__asm__(".symver one, both@OLD");
__asm__(".symver two, both@@NEW");
__asm__(".symver one_again, same@OLD");
__asm__(".symver one_more, same@@NEW");
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    (folder / "a.c").write_text(SOURCE)
    (folder / "map").write_text("OLD { }; NEW { };\n")
    command = ["gcc", "-shared", "-fPIC", "-o", folder / "a.so", folder / "a.c", f"-Wl,--version-script={folder}/map"]
    subprocess.run(command, check=True)
    return folder / "a.so"


def test_every_version_of_a_function_has_its_place(library: Path) -> None:
    """Two versions at two places are two, at one place one; what is only called, or isn't there, is none."""
    asked = places(str(library), ["one", "two", "both", "same", "elsewhere", "three"])
    assert all(place.arguments == "" and place.counter == 0 for where in asked.values() for place in where)
    found = {name: [place.at for place in where] for name, where in asked.items()}
    assert found["one"] != found["two"] and len(found["one"]) == len(found["two"]) == 1
    assert found["both"] == sorted([*found["one"], *found["two"]])
    assert found["same"] == found["one"]
    assert found["elsewhere"] == found["three"] == []
    assert all(0 < place.size < 64 for place in asked["both"])
    code = library.read_bytes()[found["one"][0] :]
    assert b"\xb8\x01\x00\x00\x00" in code[:32]  # mov $1, %eax


PROBED = """
#define _SDT_HAS_SEMAPHORES 1
#include <sys/sdt.h>
#define SEMAPHORE(name) unsigned short shop_##name##_semaphore __attribute__((section(".probes"), used))
SEMAPHORE(sold);
SEMAPHORE(told);
int main(int argc, char **argv)
{
	STAP_PROBE3(shop, sold, argv[0], argc, -7);
	STAP_PROBE1(shop, told, argc);
	STAP_PROBE1(shop, told, argv[1]);
	return shop_sold_semaphore;
}
"""


def test_a_usdt_probe_has_its_places_counter_and_arguments(tmp_path: Path) -> None:
    """One that was compiled into two places has both, each with where its arguments lie; counters are told apart."""
    (tmp_path / "a.c").write_text(PROBED)
    subprocess.run(["gcc", "-o", tmp_path / "a", tmp_path / "a.c"], check=True)
    found = places(str(tmp_path / "a"), ["shop:sold", "shop:told", "shop:other", "sold", "main"])
    (sold,), told = found["shop:sold"], found["shop:told"]
    assert len(told) == 2 and told[0].counter == told[1].counter
    assert sold.counter and sold.counter != told[0].counter
    code = (tmp_path / "a").read_bytes()
    assert {code[place.at] for place in (sold, *told)} == {0x90}  # a nop
    assert found["main"][0].at < sold.at < told[0].at < told[1].at
    assert found["shop:other"] == found["sold"] == []
    assert (sold.size, found["main"][0].size > told[1].at - found["main"][0].at) == (0, True)
    text, count, number = operands(sold.arguments)
    assert (text.size, count.size, count.signed, number.register, number.offset) == (8, 4, True, "", -7)
    assert len(operands(told[0].arguments)) == 1


def test_what_can_not_be_read_says_so(library: Path, tmp_path: Path) -> None:
    """Files that are no ELF files, cut ones, and some with wrong bytes: an answer or a ValueError, never a hang."""
    data, refused = library.read_bytes(), 0
    dice = random.Random(5)
    broken = [b"", b"\x7fELF", data[:700], data[:4] + b"\1" + data[5:], b"#!/bin/sh\n" * 100]
    for _ in range(8):
        wrong = bytearray(data)
        for _ in range(6):
            wrong[dice.choice([*range(16, 64), *range(len(data) - 1900, len(data))])] = dice.randrange(256)
        broken.append(bytes(wrong))
    for content in broken:
        (tmp_path / "file").write_bytes(content)
        try:
            assert places(str(tmp_path / "file"), ["one"]).keys() == {"one"}
        except ValueError:
            refused += 1
    assert refused >= 5
    with pytest.raises(ValueError, match="No such file"):
        places(str(tmp_path / "nothing"), ["one"])
