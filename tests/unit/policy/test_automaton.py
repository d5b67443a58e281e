"""The automaton says what the matchers say, is minimal, stays small, and is refused when it would not."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.model import Endpoint
from agentd.policy.automaton import Dfa, StateLimit, compile_globs, compile_hosts, run
from agentd.policy.hosts import name_matches, nameable
from agentd.policy.patterns import Dialect, Glob, HostPattern, host_key, host_matches, matches, parse, parse_host
from tests.reference import count_states

COMPONENT = st.sampled_from(["**", "*", "a", "b", "ab", "a*", "?", "*b", "[ab]", "[!a]", "a?b", "*a*b", "é?"])
AGENTD = st.builds(
    lambda root, parts: Glob(root + "/".join(parts), Dialect.AGENTD),
    st.sampled_from(["", "/"]),
    st.lists(COMPONENT, min_size=1, max_size=4),
)
LETTERS = st.lists(st.sampled_from(["*", "a", "b", "?", "[ab]", "[!a]", "/", "é"]), min_size=1, max_size=6).map("".join)
FNMATCH = st.builds(Glob, LETTERS | st.sampled_from(["[!é]a", "[à-ü]*"]), st.just(Dialect.FNMATCH))
ARGUMENT = st.builds(Glob, LETTERS.filter(lambda text: "é" not in text), st.just(Dialect.ARGUMENT))
OBJECT = st.lists(st.sampled_from([b"a", b"b", b"/", "é".encode(), b"\xc3", b"c"]), max_size=9).map(b"".join)
PAYLOADS: dict[str, Callable[[frozenset[int]], Hashable]] = {
    "set": lambda matched: matched,
    "first": lambda matched: min(matched, default=-1),
    "any": bool,
    "odd": lambda matched: len(matched) % 2,
    "none": lambda matched: None,
}
NAMES = st.sampled_from(sorted(PAYLOADS))


def states_of(dfa: Dfa) -> int:
    """How many states the minimal automaton has, by the textbook."""

    def step(state: int, byte: int) -> int:
        i = dfa.base[state] + dfa.classes[byte]
        return dfa.comb_next[i] if dfa.comb_check[i] == state else dfa.default[state]

    return count_states(lambda state: dfa.accept[state], step, dfa.start)


def own(matched: frozenset[int]) -> Hashable:
    return min(matched, default=-1)


@given(st.lists(AGENTD | FNMATCH, max_size=5) | st.lists(ARGUMENT, max_size=5), st.lists(OBJECT, max_size=12), NAMES)
def test_it_says_what_the_matcher_says(patterns: list[Glob], objects: list[bytes], name: str) -> None:
    """For any globs together and any object, the payload reached is that of the set of globs that match."""
    dfa = compile_globs(patterns, PAYLOADS[name], max_states=10_000)
    for data in objects:
        matched = frozenset(i for i, glob in enumerate(patterns) if matches(glob, data))
        assert dfa.payloads[run(dfa, data)] == PAYLOADS[name](matched)


@settings(max_examples=60)
@given(st.lists(AGENTD | FNMATCH, max_size=4) | st.lists(ARGUMENT, max_size=4), NAMES)
def test_it_is_minimal(patterns: list[Glob], name: str) -> None:
    """No automaton with fewer states says the same."""
    dfa = compile_globs(patterns, PAYLOADS[name], max_states=10_000)
    if dfa.n_states <= 300:  # the textbook is slow
        assert states_of(dfa) == dfa.n_states


@given(st.lists(st.tuples(AGENTD, st.integers(0, 2)), max_size=6), st.lists(OBJECT, max_size=12))
def test_labels_change_nothing_that_they_allow_for(patterns: list[tuple[Glob, int]], objects: list[bytes]) -> None:
    """Patterns with one label may stand for one another; the labels that match are always told in full."""
    globs = [glob for glob, _ in patterns]
    labels = [label for _, label in patterns]

    def payload(matched: frozenset[int]) -> Hashable:
        return frozenset(labels[i] for i in matched)

    dfa = compile_globs(globs, payload, max_states=10_000, labels=labels)
    assert dfa.n_states == compile_globs(globs, payload, max_states=10_000).n_states
    for data in objects:
        assert dfa.payloads[run(dfa, data)] == frozenset(label for glob, label in patterns if matches(glob, data))


HOSTS = st.sampled_from(
    [
        *("*", "*:443", "10.0.0.0/8", "10.0.0.0/9:1-1024", "10.128.0.0/12:443", "10.0.0.1:80", "::1", "[fe80::/10]:*"),
        *(
            "[2001:db8::/33]:100-65000",
            "localhost",
            "example.com",
            "*.example.com:443",
            "resolvers:53",
            "0.0.0.0/0:255-256",
            "128.0.0.0/1:65535",
        ),
    ]
)
NAMES = ("example.com", "www.example.com", "evilexample.com")
BYTE = st.sampled_from([0, 1, 2, 10, 127, 128, 254, 255]) | st.integers(0, 255)
ENDPOINTS = st.builds(
    Endpoint,
    st.one_of(
        st.lists(BYTE, min_size=4, max_size=4).map(bytes),
        st.lists(BYTE, min_size=16, max_size=16).map(bytes).filter(lambda address: address[:10] != bytes(10)),
        st.sampled_from([b"\x0a\0\0\1", b"\x0a\x80\0\0", bytes(15) + b"\1", bytes.fromhex("20010db8") + bytes(12)]),
    ),
    st.sampled_from([0, 1, 80, 99, 100, 254, 255, 256, 257, 443, 1024, 1025, 65535]) | st.integers(0, 65535),
    st.sampled_from(["tcp", "udp"]),
)


@given(st.lists(HOSTS, max_size=6), st.lists(ENDPOINTS, max_size=12))
def test_hosts_are_judged_as_the_matcher_judges_them(texts: list[str], endpoints: list[Endpoint]) -> None:
    """For any host patterns together and any endpoint by any name, the key leads to the set of patterns that match."""
    patterns: list[HostPattern] = [pattern for text in texts for pattern in parse_host(text)]
    classes = {
        i: frozenset(number for number, name in enumerate(NAMES, 1) if name_matches(pattern.name, name))
        for i, pattern in enumerate(patterns)
        if pattern.name is not None
    }
    dfa = compile_hosts(patterns, lambda matched: matched, max_states=10_000, names=classes)
    for endpoint in endpoints:
        for number, name in enumerate(("", *NAMES)):
            named = replace(endpoint, names=(name,) if name else ())
            if number and not nameable(endpoint.address):
                continue
            matched = frozenset(i for i, pattern in enumerate(patterns) if host_matches(pattern, named))
            assert dfa.payloads[run(dfa, host_key(endpoint, number))] == matched


def test_nothing_compiles_to_one_state() -> None:
    """Without patterns every object has the payload of no match."""
    dfa = compile_globs([], own, max_states=1)
    assert (dfa.n_states, dfa.payloads[run(dfa, b"/a")]) == (1, -1)


def test_the_payload_is_asked_for_once_a_set() -> None:
    """The callback sees each set of patterns once, however many states share it."""
    asked: list[frozenset[int]] = []

    def payload(matched: frozenset[int]) -> Hashable:
        asked.append(matched)
        return matched

    compile_globs([Glob("/[ab]/**", Dialect.AGENTD), Glob("/*/c", Dialect.AGENTD)], payload, max_states=100)
    assert sorted(map(sorted, asked)) == [[], [0], [0, 1], [1]]


def test_a_malformed_glob_is_the_parsers_error() -> None:
    """A glob that does not parse is not compiled to something else."""
    with pytest.raises(ValueError, match="not closed"):
        compile_globs([Glob("/[a", Dialect.AGENTD)], own, max_states=10)


def check(patterns: Sequence[str], objects: dict[str, int]) -> Dfa:
    globs = [Glob(text, Dialect.AGENTD) for text in patterns]
    dfa = compile_globs(globs, own, max_states=500_000)
    for data, expected in objects.items():
        assert dfa.payloads[run(dfa, data.encode())] == expected, data
    return dfa


def words(dfa: Dfa) -> int:
    return 4 * dfa.n_states + 2 * len(dfa.comb_check)


def test_ten_thousand_trees_stay_small() -> None:
    """10,000 directories, each its own rule, take three states a rule."""
    objects = {
        "/srv/data/dir_77/x": 77,
        "/srv/data/dir_77": -1,
        "/srv/data/dir_9999/x/y": 9999,
        "/srv/data/dir_x/y": -1,
    }
    dfa = check([f"/srv/data/dir_{i}/**" for i in range(10_000)], objects)
    assert dfa.n_states < 31_000
    assert words(dfa) < 200_000


def test_ten_thousand_long_paths_take_a_state_a_byte() -> None:
    """10,000 random paths, each its own rule, share what they can: their beginnings."""
    rng = random.Random(1)
    paths = [f"/var/lib/agents/objects/{rng.getrandbits(128):032x}.bin" for _ in range(10_000)]
    dfa = check(paths, {paths[5]: 5, paths[9_999]: 9_999, paths[5][:-1]: -1, paths[5] + "x": -1})
    assert 320_000 < dfa.n_states < 345_000
    assert words(dfa) < 7 * dfa.n_states


def test_one_rule_with_ten_thousand_paths_shares_their_ends() -> None:
    """Paths with one outcome share their beginnings and their ends."""
    rng = random.Random(1)
    paths = [Glob(f"/objects/{rng.getrandbits(64):016x}/manifest.json", Dialect.AGENTD) for _ in range(10_000)]
    dfa = compile_globs(paths, bool, max_states=500_000, labels=[0] * len(paths))
    assert dfa.n_states < 110_000
    assert dfa.payloads[run(dfa, paths[7].text.encode())] is True
    assert dfa.payloads[run(dfa, paths[7].text.encode() + b".x")] is False


@pytest.mark.parametrize("shape", ["**/name_{}", "**/*.ext{}"])
def test_ten_thousand_names_anywhere_stay_small(shape: str) -> None:
    """10,000 names that may stand in any directory need little more than their trie."""
    name = shape.replace("**/", "/x/y/").replace("*", "z.z")
    dfa = check([shape.format(i) for i in range(10_000)], {name.format(42): 42, name.format("42x"): -1, name[:-2]: -1})
    assert dfa.n_states < 11_200
    assert words(dfa) < 90_000


def test_many_trees_anywhere_in_one_rule_do_not_multiply() -> None:
    """Sixty `**/name/**` of one rule are one state once one of them matched."""
    globs = [Glob(f"**/name_{i}/**", Dialect.AGENTD) for i in range(60)]
    dfa = compile_globs(globs, bool, max_states=500, labels=[0] * 60)
    assert dfa.payloads[run(dfa, b"/a/name_7/x/name_8/y")] is True
    assert dfa.payloads[run(dfa, b"/a/name_7")] is False


@pytest.mark.parametrize(
    "patterns",
    [
        ["**/*" + "*".join(random.Random(i).choices("abcdefgh", k=6)) for i in range(30)],
        [f"**/word_{i}/**" for i in range(300)],
        ["**/*a" + "?" * 40],
    ],
)
def test_patterns_that_multiply_are_refused(patterns: list[str]) -> None:
    """A policy whose automaton would not fit is refused with the numbers instead of eating the memory."""
    assert all(parse(Glob(text, Dialect.AGENTD)) for text in patterns)
    with pytest.raises(StateLimit) as error:
        compile_globs([Glob(text, Dialect.AGENTD) for text in patterns], own, max_states=500_000)
    assert error.value.patterns == len(patterns)
    assert str(error.value.limit) in str(error.value)


def test_the_limit_is_on_the_minimal_automaton() -> None:
    """A policy fits exactly when its minimal automaton does."""
    glob = [Glob("/a/b", Dialect.AGENTD)]
    assert compile_globs(glob, own, max_states=6).n_states == 6
    with pytest.raises(StateLimit):
        compile_globs(glob, own, max_states=5)
