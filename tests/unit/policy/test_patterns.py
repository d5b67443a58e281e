"""What globs and host patterns mean, against matchers that share no code with them."""

from __future__ import annotations

import fnmatch
import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentd.model import Endpoint
from agentd.policy.patterns import Dialect, Glob, host_key, host_matches, matches, parse, parse_host
from tests.reference import glob_matches

COMPONENT = st.one_of(
    st.just("**"),
    st.lists(
        st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]", "[a-]", "\\*", "é", "."]), min_size=1, max_size=4
    ).map(lambda parts: "".join(parts)),
)
PATH_GLOB = st.builds(
    lambda root, parts: root + "/".join(parts), st.sampled_from(["", "/"]), st.lists(COMPONENT, min_size=1, max_size=4)
)
ARGUMENT_GLOB = st.lists(
    st.sampled_from(["a", "b", "*", "?", "[ab/]", "[!a]", "\\?", "/", "é", "[]-]"]), min_size=1, max_size=8
).map(lambda parts: "".join(parts))
FNMATCH_GLOB = st.text("ab/*?[]!-é\\^", min_size=1, max_size=10)
OBJECT = st.lists(st.sampled_from([b"a", b"b", b"/", b"*", b".", "é".encode(), b"\xff", b"-", b"]"]), max_size=9).map(
    lambda parts: b"".join(parts)
)


def well_formed(text: str, dialect: Dialect) -> bool:
    try:
        parse(Glob(text, dialect))
    except ValueError:
        return False
    return True


@given(PATH_GLOB.filter(lambda text: well_formed(text, Dialect.AGENTD)), OBJECT)
@example("/a/**", b"/a")
@example("**/*b*/**", b"a/bb/b/a")
def test_path_globs_match_as_their_definition_says(text: str, data: bytes) -> None:
    """A path glob matches exactly what a recursion over its own definition matches."""
    assert matches(Glob(text, Dialect.AGENTD), data) == glob_matches(text, data, paths=True)


@given(ARGUMENT_GLOB.filter(lambda text: well_formed(text, Dialect.ARGUMENT)), OBJECT)
def test_argument_globs_match_as_their_definition_says(text: str, data: bytes) -> None:
    """An argument glob matches exactly what a recursion over its own definition matches."""
    assert matches(Glob(text, Dialect.ARGUMENT), data) == glob_matches(text, data, paths=False)


@given(FNMATCH_GLOB, st.text("ab/é-]^!\\", max_size=9))
def test_fnmatch_globs_match_as_the_standard_library_does(text: str, string: str) -> None:
    """A glob of dialect FNMATCH matches exactly the strings that fnmatch.fnmatchcase matches."""
    assert matches(Glob(text, Dialect.FNMATCH), string.encode()) == fnmatch.fnmatchcase(string, text)


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("/a/b", ["/a/b"], ["/a/b.pub", "/a/b/", "/a", "a/b"]),
        ("/a/*", ["/a/b", "/a/"], ["/a/b/c", "/a"]),
        ("/a/**", ["/a/b", "/a/b/c"], ["/a", "/a/", "/ab"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "a/b/c"]),
        ("**/b", ["b", "/b", "/x/b", "x/y/b"], ["xb", "/xb", "b/"]),
        ("**", ["", "a", "/a/b"], []),
        ("/a?c", ["/abc"], ["/a/c", "/ac", "/aéc"]),
        ("/[!a]", ["/b"], ["/a", "//", "/"]),
        (r"/\*", ["/*"], ["/a"]),
    ],
)
def test_components(text: str, yes: list[str], no: list[str]) -> None:
    """Wildcards keep to components as the policy language promises."""
    glob = Glob(text, Dialect.AGENTD)
    assert [path for path in yes if not matches(glob, path.encode())] == []
    assert [path for path in no if matches(glob, path.encode())] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("/a\0b", "NUL"),
        ("/a[b", "not closed"),
        ("/a\\", "backslash"),
        ("/a**b", "whole path component"),
        ("/a/***", "whole path component"),
        ("/a/[b/c]", "never matches `/`"),
        ("/[z-a]", "reversed"),
        ("/[^a]", "`[!`"),
        ("/[[:alpha:]]", "POSIX"),
        ("/[é]", "ASCII"),
        ("/" + "a" * 4096, "4097 bytes"),
    ],
)
def test_malformed_globs_are_refused(text: str, message: str) -> None:
    """A glob that can't mean what it looks like is an error that says why."""
    with pytest.raises(ValueError) as error:
        parse(Glob(text, Dialect.AGENTD))
    assert message in str(error.value)


def test_raw_bytes_match_themselves() -> None:
    """A name that isn't UTF-8 can be written with surrogateescape."""
    glob = Glob(b"/a\xff".decode("utf-8", "surrogateescape"), Dialect.AGENTD)
    assert matches(glob, b"/a\xff")
    assert not matches(glob, b"/a\xfe")


def test_a_hostile_object_does_not_make_the_matcher_backtrack() -> None:
    """A long object that almost matches many wildcards is answered, not searched for years."""
    assert not matches(Glob("*a" * 30 + "b", Dialect.ARGUMENT), b"a" * 2000)
    assert not matches(Glob("**/*a" + "*a" * 30 + "b", Dialect.AGENTD), b"a" * 1000)
    assert not matches(Glob("**/x/" * 20 + "b", Dialect.AGENTD), b"x/" * 300)


# -- hosts

ADDRESS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def endpoint(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> Endpoint:
    mapped = getattr(address, "ipv4_mapped", None)
    return Endpoint((mapped or address).packed, port)


@given(ADDRESS, st.integers(0, 128), st.integers(0, 32), st.integers(0, 65535), st.integers(0, 65535), st.booleans())
def test_networks_match_as_the_standard_library_says(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int, flip: int, low: int, port: int, ranged: bool
) -> None:
    """A network with ports matches an endpoint exactly when ipaddress says it is in the network and the port fits."""
    prefix = min(prefix, address.max_prefixlen)
    network = ipaddress.ip_network((address, prefix), strict=False)
    high = min(65535, low + 300) if ranged else low
    text = f"[{network}]:{low}-{high}" if network.version == 6 else f"{network}:{low}-{high}"
    other = type(address)(int(address) ^ 1 << min(flip, address.max_prefixlen - 1))
    (pattern,) = parse_host(text)
    for candidate in (address, other):
        expected = candidate in network and low <= port <= high
        if network.version == 4 or not getattr(candidate, "ipv4_mapped", None):
            assert host_matches(pattern, endpoint(candidate, port)) == expected


@pytest.mark.parametrize(
    ("text", "address", "port", "expected"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.0.0.1:8080", "127.0.0.1", 8081, False),
        ("127.0.0.1", "127.0.0.1", 1, True),
        ("10.0.0.0/8:5432", "10.255.0.1", 5432, True),
        ("10.0.0.0/8:5432", "11.0.0.1", 5432, False),
        ("[::1]:80", "::1", 80, True),
        ("2001:db8::/32", "2001:db8::5", 443, True),
        ("::/0", "1.2.3.4", 443, False),
        ("::ffff:10.0.0.0/104", "10.1.1.1", 443, True),
        ("*:443", "9.9.9.9", 443, True),
        ("*:443", "2001:db8::5", 443, True),
        ("*:443", "9.9.9.9", 80, False),
        ("localhost:80", "127.9.9.9", 80, True),
        ("localhost:80", "::1", 80, True),
        ("localhost:80", "10.0.0.1", 80, False),
        ("example.com:443", "93.184.216.34", 443, False),
    ],
)
def test_host_patterns(text: str, address: str, port: int, expected: bool) -> None:
    """Every written form of a host matches the endpoints it names, and no other."""
    object_ = endpoint(ipaddress.ip_address(address), port)
    assert any(host_matches(pattern, object_) for pattern in parse_host(text)) == expected


def test_names_are_kept_in_lower_case() -> None:
    """A name keeps its wildcard and loses its case."""
    (pattern,) = parse_host("*.Example.COM:443")
    assert (pattern.name, pattern.port_low, pattern.port_high) == ("*.example.com", 443, 443)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("2001:db8::1/32", "2001:db8::/32"),
        ("10.0.0.256", "not an IP address"),
        ("10.0.0.0/33", "prefix length"),
        ("1.2.3.4:65536", "not a port"),
        ("1.2.3.4:9-5", "reversed"),
        ("1.2.3.4:", "not a port"),
        ("[::1", "not closed"),
        ("[::1]80", "unexpected"),
        ("fe80::1%eth0", "zone"),
        ("a..b", "not a host name"),
        ("bücher.example", "xn--"),
        ("", "not a host name"),
        ("a.*.com", "not a host name"),
    ],
)
def test_malformed_hosts_are_refused(text: str, message: str) -> None:
    """A host that can't mean what it looks like is an error that says why."""
    with pytest.raises(ValueError) as error:
        parse_host(text)
    assert message in str(error.value)


def test_the_key_of_an_endpoint() -> None:
    """The key is family, protocol, address, port and class of the name; a mapped address is written as IPv4."""
    assert host_key(Endpoint(b"\x7f\0\0\1", 443)) == b"4t\x7f\0\0\1\x01\xbb\0"
    assert host_key(Endpoint(bytes(10) + b"\xff\xff\x7f\0\0\1", 53, "udp")) == b"4u\x7f\0\0\1\0\x35\0"
    assert host_key(Endpoint(bytes(15) + b"\1", 1), 7) == b"6t" + bytes(15) + b"\1\0\1\7"


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("example.com", "example.com", True),
        ("example.com", "www.example.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.example.com", "a.b.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "evilexample.com", False),
        ("*.example.com", "example.com.evil.org", False),
        ("Example.COM", "example.com", True),
        ("example.com:443", "example.com", True),
        ("example.com:80", "example.com", False),
        ("resolvers", "@resolvers", True),
        ("resolvers", "resolvers", False),
        ("*", "example.com", True),
    ],
)
def test_names(text: str, name: str, expected: bool) -> None:
    """A name is matched whole and in lower case; a wildcard is everything below it, and nothing else."""
    object_ = Endpoint(b"\xc6\x33\x64\1", 443, "udp", (name,))
    assert any(host_matches(pattern, object_) for pattern in parse_host(text)) == expected
    nameless = Endpoint(object_.address, 443, "udp")
    assert any(host_matches(pattern, nameless) for pattern in parse_host(text)) == (text == "*")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("198.51.100.1", True),
        ("10.1.2.3", True),
        ("2001:db8::1", True),
        ("fd12::1", True),
        ("127.0.0.1", False),
        ("127.9.9.9", False),
        ("0.0.0.0", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("100.100.100.200", False),
        ("::1", False),
        ("::", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:198.51.100.1", True),
        ("fe80::1", False),
        ("febf::1", False),
        ("fec0::1", True),
        ("ff02::1", False),
        ("fd00:ec2::254", False),
        ("fd00:ec2::253", True),
    ],
)
def test_addresses_that_no_name_means(address: str, expected: bool) -> None:
    """A name that is made to mean this host, this link, a group or a metadata service matches nothing there."""
    object_ = Endpoint(ipaddress.ip_address(address).packed, 443, names=("a.example.com",))
    assert any(host_matches(pattern, object_) for pattern in parse_host("*.example.com")) == expected


@pytest.mark.parametrize("wrong", [Endpoint(b"123", 1), Endpoint(b"1234", 65536), Endpoint(b"1234", 1, "sctp")])
def test_what_is_no_endpoint_has_no_key(wrong: Endpoint) -> None:
    """An impossible endpoint is an error, never a key that some pattern might match."""
    with pytest.raises(ValueError):
        host_key(wrong)
