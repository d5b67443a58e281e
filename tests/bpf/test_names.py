"""What the kernel learns from an answer, and what an address is judged by then (bpf/message.bpf.c, bpf/hosts.bpf.c)."""

from __future__ import annotations

import ipaddress
import struct
import time
from collections.abc import Iterator
from random import Random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.kernel.hosts import Resolver
from agentd.model import Decision, Endpoint, Op
from agentd.policy.hosts import host_key
from agentd.policy.resolve import load
from agentd.policy.tables import build
from tests.bpf import messages
from tests.bpf.probe import Probe, loaded_probe

pytestmark = pytest.mark.root

POLICY: Final = b"""
version: 1
agents:
  bot:
    allow:
      - {tool: web, operations: [fetch], hosts: ["*.example.com:443", "example.org:80", "exact.test"]}
      - {tool: network, operations: [connect, send], hosts: ["resolvers:53"]}
    deny:
      - {tool: web, hosts: ["admin.example.com"]}
    require_approval:
      - {tool: web, hosts: ["ask.example.com"]}
"""
V4: Final = ipaddress.ip_address("198.51.100.7").packed
OTHER: Final = ipaddress.ip_address("198.51.100.8").packed
V6: Final = ipaddress.ip_address("2001:db8::7").packed
NAME: Final = "www.example.com"


@pytest.fixture(scope="module")
def loaded() -> Iterator[Probe]:
    with loaded_probe(1 << 20) as made:
        assert install(made, POLICY) == 0
        yield made


@pytest.fixture
def probe(loaded: Probe) -> Probe:
    """The probe with POLICY in force as agent 0, and nothing known."""
    loaded.names.forget()
    loaded.loaded.control.name_ttl_min, loaded.loaded.control.name_ttl_max = 60, 86400
    return loaded


def install(probe: Probe, policy: bytes) -> int:
    """Puts a policy in force for `bot`; its number."""
    return probe.install(build(load(policy, workspace="/w").agents["bot"], max_words=1 << 19))


def learn(probe: Probe, message: bytes, netns: int = 1) -> int | None:
    """Gives the kernel an answer."""
    return probe.runners[0].learn(0, message, netns)


def decision(probe: Probe, address: bytes, port: int = 443, op: Op = Op.CONNECT, netns: int = 1, agent: int = 0) -> str:
    """What the kernel decides about an address."""
    return probe.runners[0].ask(agent, op, host_key(Endpoint(address, port)), netns=netns).outcome.decision.word


def known(probe: Probe) -> set[tuple[bytes, str]]:
    """(address, name) of everything that is known."""
    return {(item.address, item.name) for item in probe.names.known()}


def test_an_answer_opens_its_addresses_and_nothing_else(probe: Probe) -> None:
    """An address is denied until it was answered for an allowed name, and only in that agent, namespace and port."""
    assert decision(probe, V4) == "deny"
    assert learn(probe, messages.answer("WWW.Example.com", [V4])) == 1
    assert known(probe) == {(V4, NAME)}
    assert decision(probe, V4) == "allow"
    assert decision(probe, OTHER) == "deny"
    assert decision(probe, V4, port=80) == "deny"
    assert decision(probe, V4, netns=2) == "deny"
    assert decision(probe, V4, netns=0) == "deny"
    assert decision(probe, V4, op=Op.BIND) == "deny"
    assert probe.install(build(load(POLICY, workspace="/w").agents["bot"], max_words=1 << 19), name="second") == 1
    assert decision(probe, V4, agent=1) == "deny"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("www.example.com", "allow"),
        ("a.b.example.com", "allow"),
        ("example.com", "deny"),
        ("evilexample.com", "deny"),
        ("example.com.evil.org", "deny"),
        ("exact.test", "allow"),
        ("www.exact.test", "deny"),
        ("admin.example.com", "deny"),
        ("ask.example.com", "require_approval"),
    ],
)
def test_names_are_matched_whole(probe: Probe, name: str, expected: str) -> None:
    """Wildcards stand for what is below a name, a look-alike is another name, and the strictest section goes first."""
    learn(probe, messages.answer(name, [V4]))
    assert decision(probe, V4) == expected


def test_every_address_of_both_families_is_learned(probe: Probe) -> None:
    """Several addresses of one answer, and those of an AAAA answer, are the name's."""
    several = [bytes((198, 51, 100, last)) for last in range(1, 31)]
    assert learn(probe, messages.answer(NAME, several)) == 30
    assert learn(probe, messages.answer(NAME, [V6])) == 1
    assert {decision(probe, address) for address in (*several, V6)} == {"allow"}


def test_aliases_lead_to_addresses_of_the_name_that_was_asked_for(probe: Probe) -> None:
    """A chain of aliases is followed, and neither an alias nor its own name's policy counts."""
    assert learn(probe, messages.answer(NAME, [V4], aliases=["cdn.test", "edge.admin.example.com"])) == 1
    assert known(probe) == {(V4, NAME)}
    assert decision(probe, V4) == "allow"
    assert learn(probe, messages.answer("cdn.test", [OTHER], aliases=[NAME])) == 0
    assert decision(probe, OTHER) == "deny"


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "fd00:ec2::254"]
)
def test_a_name_that_is_made_to_mean_this_host_means_nothing(probe: Probe, address: str) -> None:
    """An answer can't open loopback, the link or metadata services, while a private address can have a name."""
    raw = ipaddress.ip_address(address).packed
    private = b"\x0a\0\0\1" if len(raw) == 4 else ipaddress.ip_address("fd12::1").packed
    learn(probe, messages.answer(NAME, [raw, private]))
    assert known(probe) == {(private, NAME)}
    assert decision(probe, raw) == "deny" and decision(probe, private) == "allow"


def test_an_address_with_several_names_is_judged_by_each(probe: Probe) -> None:
    """The rule that stands first decides: a denied name on the same address goes before an allowed one."""
    learn(probe, messages.answer("example.org", [V4]))
    assert (decision(probe, V4), decision(probe, V4, port=80)) == ("deny", "allow")
    learn(probe, messages.answer(NAME, [V4]))
    assert (decision(probe, V4), decision(probe, V4, port=80)) == ("allow", "allow")
    learn(probe, messages.answer("ask.example.com", [V4]))
    assert decision(probe, V4) == "require_approval"
    learn(probe, messages.answer("admin.example.com", [V4]))
    assert decision(probe, V4) == "deny"


def test_what_is_learned_expires(probe: Probe) -> None:
    """An address loses its name when the time to live is over, within the limits for it."""
    control = probe.loaded.control
    control.name_ttl_min, control.name_ttl_max = 0, 1
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    learn(probe, messages.answer(NAME, [V4], ttl=300))
    learn(probe, messages.answer(NAME, [OTHER], ttl=0))
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    expires = {item.address: item.expires for item in probe.names.known()}
    assert before + 10**9 <= expires[V4] <= after + 10**9
    assert decision(probe, OTHER) == "deny"
    while time.clock_gettime_ns(time.CLOCK_BOOTTIME) <= expires[V4]:
        time.sleep(0.05)
    assert decision(probe, V4) == "deny"
    control.name_ttl_min, control.name_ttl_max = 60, 120
    learn(probe, messages.answer(NAME, [V4], ttl=0))
    learn(probe, messages.answer(NAME, [OTHER], ttl=2**31 - 1))
    expires = {item.address: item.expires for item in probe.names.known()}
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert now + 10 * 10**9 < expires[V4] <= now + 60 * 10**9
    assert now + 60 * 10**9 < expires[OTHER] <= now + 120 * 10**9
    assert decision(probe, V4) == "allow"


def test_the_least_time_to_live_of_a_chain_counts(probe: Probe) -> None:
    """An alias that is good for less than its addresses makes them good for less."""
    probe.loaded.control.name_ttl_min = 0
    message = messages.answer(NAME, [V4], ttl=3600, aliases=["cdn.test"])
    assert message.count(struct.pack("!I", 3600)) == 2
    learn(probe, message.replace(struct.pack("!I", 3600), struct.pack("!I", 7), 1))
    (item,) = probe.names.known()
    assert item.expires < time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 8 * 10**9


def test_a_new_policy_judges_what_is_known_anew(probe: Probe) -> None:
    """After a reload a name counts as the new policy says, without being asked for again."""
    learn(probe, messages.answer(NAME, [V4]))
    learn(probe, messages.answer("example.org", [OTHER]))
    install(probe, POLICY.replace(b"*.example.com:443", b"example.org:443"))
    try:
        assert (decision(probe, V4), decision(probe, OTHER)) == ("deny", "allow")
    finally:
        install(probe, POLICY)
    assert (decision(probe, V4), decision(probe, OTHER)) == ("allow", "deny")


def test_names_beyond_the_room_only_lose_permissions(probe: Probe) -> None:
    """With more addresses than the table holds, some are forgotten, and a forgotten one is denied."""
    total = 2 * probe.names.table.capacity
    addresses = [(0x0A000000 + i).to_bytes(4, "big") for i in range(total)]
    for start in range(0, total, 100):
        some = addresses[start : start + 100]
        assert learn(probe, messages.answer(NAME, some)) == len(some)
    kept = {address for address, _ in known(probe)}
    assert 0 < len(kept) <= probe.names.table.capacity
    sample = Random(1).sample(addresses, 500)
    assert {address for address in sample if decision(probe, address) == "allow"} == kept & set(sample)


def test_a_resolver_is_known_by_its_word(probe: Probe) -> None:
    """`resolvers` in a policy is the configured servers over UDP, on loopback too, and nobody else."""
    local, remote = b"\x7f\0\0\x35", b"\x0a\0\0\x35"
    probe.names.believe([Resolver(local), Resolver(remote, 53)])
    try:
        for address in (local, remote):
            key = host_key(Endpoint(address, 53, "udp"))
            assert probe.runners[0].ask(0, Op.SEND, key, netns=1).outcome.decision is Decision.ALLOW
            key = host_key(Endpoint(address, 53, "tcp"))
            assert probe.runners[0].ask(0, Op.CONNECT, key, netns=1).outcome.decision is Decision.DENY
        probe.names.believe([Resolver(remote)])
        assert probe.names.believed() == {Resolver(remote)}
        assert probe.loaded.control.resolver_ports == 1 << 53
        key = host_key(Endpoint(local, 53, "udp"))
        assert probe.runners[0].ask(0, Op.SEND, key, netns=1).outcome.decision is Decision.DENY
    finally:
        probe.names.believe([])


# -- messages that teach nothing

GOOD: Final = messages.answer(NAME, [V4])
ANSWER_AT: Final = len(GOOD) - 16


def changed(at: int, data: bytes) -> bytes:
    """The good answer with some of its bytes replaced."""
    return GOOD[:at] + data + GOOD[at + len(data) :]


BAD: Final = {
    "a question": changed(2, b"\x01\x00"),
    "truncated": changed(2, b"\x83\x80"),
    "another opcode": changed(2, b"\x89\x80"),
    "no such name": changed(3, b"\x83"),
    "a failure": changed(3, b"\x82"),
    "no question": changed(4, b"\0\0"),
    "two questions": changed(4, b"\0\2"),
    "no answers": changed(6, b"\0\0"),
    "one answer more than there are": changed(6, b"\0\2"),
    "an answer as authority": changed(6, b"\0\0\0\1"),
    "an additional answer": changed(6, b"\0\0\0\0\0\1"),
    "another class": changed(ANSWER_AT + 4, b"\0\3"),
    "another type": changed(ANSWER_AT + 2, b"\0\x10"),
    "an address of three bytes": changed(ANSWER_AT + 10, b"\0\3"),
    "an address beyond the end": changed(ANSWER_AT + 10, b"\0\5"),
    "a pointer to itself": changed(ANSWER_AT, struct.pack("!H", 0xC000 | ANSWER_AT)),
    "a pointer forward": changed(ANSWER_AT, struct.pack("!H", 0xC000 | (ANSWER_AT + 1))),
    "a pointer beyond the end": changed(ANSWER_AT, b"\xff\xff"),
    "a pointer to another name": changed(ANSWER_AT, b"\xc0\x10"),
    "an unknown kind of label": changed(ANSWER_AT, b"\x80\x0c"),
    "a pointer in the question": changed(12, b"\xc0\x0c"),
    "a label that is longer than the message": changed(12, b"\x3f"),
    "a dot inside a label": changed(12, b"\x07www.exa"),
    "a space in the name": changed(14, b" "),
    "a NUL in the name": changed(14, b"\0"),
    "nothing": b"",
    "half a header": GOOD[:6],
    "no room for the question": GOOD[:20],
    "too long": GOOD + bytes(5000),
}


@pytest.mark.parametrize("what", BAD)
def test_a_message_that_teaches_nothing(probe: Probe, what: str) -> None:
    """What is malformed, truncated, an error or not about the question leaves every address without a name."""
    learn(probe, BAD[what])
    assert known(probe) == set()
    assert decision(probe, V4) == "deny"
    assert learn(probe, GOOD) == 1 and decision(probe, V4) == "allow"


# -- any message


def naive(data: bytes) -> set[tuple[bytes, str]]:
    """What a message teaches, read slowly and in another way."""
    try:
        if not 12 <= len(data) <= 4096 or not data[2] & 0x80 or data[2] & 0x7A or data[3] & 0x0F:
            return set()
        questions, answers = struct.unpack_from("!HH", data, 4)
        name, at = labels(data, 12)
        kind, klass = struct.unpack_from("!HH", data, at)
        allowed = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
        plain = bool(name) and all(byte in allowed for label in name for byte in label)
        text = b".".join(name)
        if questions != 1 or klass != 1 or kind not in (1, 28) or not plain or at != 12 + len(text) + 2:
            return set()
        at += 4
        owner, found = name, []
        for _ in range(min(answers, 128)):
            who, at = labels(data, at)
            rtype, rclass, _, size = struct.unpack_from("!HHIH", data, at)
            at += 10
            if at + size > len(data):
                return set()
            if rclass == 1 and who == owner and rtype == 5:
                owner, end = labels(data, at)
                if end != at + size:
                    return set()
            elif rclass == 1 and who == owner and rtype == kind and size == {1: 4, 28: 16}[kind]:
                found.append(data[at : at + size])
            at += size
        return {(address, text.decode()) for address in found}
    except (IndexError, struct.error, ValueError):
        return set()


def labels(data: bytes, at: int) -> tuple[list[bytes], int]:
    """The labels of the name at `at`, in lower case, and where the message goes on. ValueError: malformed."""
    found: list[bytes] = []
    end, below = 0, at
    while True:
        length = data[at]
        if length >= 0xC0:
            to = (length & 0x3F) << 8 | data[at + 1]
            end = end or at + 2
            if to >= below:
                raise ValueError
            at = below = to
        elif length > 63 or at + length >= len(data):
            raise ValueError
        elif not length:
            return found, end or at + 1
        else:
            found.append(data[at + 1 : at + 1 + length].lower())
            if len(b".".join(found)) > 253:
                raise ValueError
            at += 1 + length


NAMES = st.sampled_from([NAME, "a.example.com", "exact.test", "cdn.test", "www.other.org", "x" * 63 + ".example.com"])
ADDRESSES = st.lists(st.binary(min_size=4, max_size=4).map(lambda data: b"\x0a" + data[1:]), max_size=8)


@settings(max_examples=400)
@given(
    NAMES,
    ADDRESSES,
    st.lists(NAMES, max_size=4, unique=True),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255), st.integers(0, 3)), max_size=4),
)
def test_any_message_teaches_what_it_says(
    loaded: Probe, name: str, addresses: list[bytes], aliases: list[str], damage: list[tuple[int, int, int]]
) -> None:
    """Whole and damaged messages of every kind teach the kernel exactly what a simple reader finds in them."""
    aliases = [alias for alias in aliases if alias != name]
    data = bytearray(messages.answer(name, sorted(set(addresses)), aliases=aliases))
    for at, value, how in damage:
        at %= len(data) or 1
        if how == 0:
            data[at] = value
        elif how == 1:
            data[at:at] = bytes((value,))
        elif how == 2:
            del data[at]
        else:
            del data[at + value :]
        if not data:
            break
    loaded.names.forget()
    learn(loaded, bytes(data))
    matching = {
        (address, text)
        for address, text in naive(bytes(data))
        if text.endswith(".example.com") or text in ("example.org", "exact.test")
    }
    nameable = {(address, text) for address, text in matching if address[0] == 10}
    assert {item for item in known(loaded) if item[0][0] == 10 and len(item[0]) == 4} == nameable
    assert known(loaded) <= matching
