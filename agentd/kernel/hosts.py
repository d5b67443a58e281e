"""The kernel's side of host names: the resolvers whose answers are believed, and the addresses known by name."""

from __future__ import annotations

import ctypes
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from agentd.errors import AgentdError
from agentd.kernel import abi
from agentd.kernel.libbpf import BPF_ANY
from agentd.kernel.loader import LoadedObject
from agentd.kernel.maps import HashMap

MAX_RESOLVERS: Final = 64
# Answers with a time to live of 0 are common, and a program connects more than once with one: a minute is what browsers
# and the C library's caches give. A day is the longest that resolvers of today keep.
TTL_MIN: Final = 60
TTL_MAX: Final = 86400
_MAPPED: Final = bytes(10) + b"\xff\xff"


@dataclass(frozen=True, slots=True)
class Resolver:
    """A name server: 4 or 16 bytes, and its port."""

    address: bytes
    port: int = 53


@dataclass(frozen=True, slots=True)
class KnownName:
    """One address that an agent knows by a name. expires: ns, CLOCK_BOOTTIME."""

    agent: int
    address: bytes
    name: str
    expires: int


class HostNames:
    """The maps of names of one loaded object."""

    def __init__(self, loaded: LoadedObject) -> None:
        self._control = loaded.control
        self._resolvers = HashMap(loaded.fds["resolvers"], abi.ResolverKey, ctypes.c_uint32, MAX_RESOLVERS, "resolvers")
        self.table = HashMap(loaded.fds["names"], abi.NameKey, abi.NameEntry, loaded.capacity("names"), "names")
        if not self._control.name_ttl_max:  # not adopted
            self._control.name_ttl_min = TTL_MIN
            self._control.name_ttl_max = TTL_MAX

    def believe(self, resolvers: Collection[Resolver]) -> None:
        """From here on answers of these teach names, and of nobody else. Raises AgentdError `config-invalid`.

        A resolver that stays keeps its number: questions that are on their way to it are not forgotten.
        """
        if len(resolvers) > MAX_RESOLVERS:
            raise AgentdError(
                "config-invalid", "resolvers", f"{len(resolvers)} of them; at most {MAX_RESOLVERS}", "name fewer"
            )
        wanted = {bytes(key): key for key in map(_key, resolvers)}
        ports = sum({1 << one.port % 64 for one in resolvers})
        self._control.resolver_ports |= ports  # before one of them is in the map, after the last has left it
        known = {bytes(key): number.value for key, number in self._resolvers.items()}
        for raw in known.keys() - wanted.keys():
            self._resolvers.delete(abi.ResolverKey.from_buffer_copy(raw))
        free = (number for number in range(1, 2 * MAX_RESOLVERS + 1) if number not in known.values())
        for raw in wanted.keys() - known.keys():
            self._resolvers.put(wanted[raw], ctypes.c_uint32(next(free)), BPF_ANY)
        self._control.resolver_ports = ports

    def believed(self) -> set[Resolver]:
        """Whose answers teach names now."""
        return {
            Resolver(_address(bytes(key.address)), int.from_bytes(key.port.to_bytes(2, "little"), "big"))
            for key, _ in self._resolvers.items()
        }

    def forget(self) -> None:
        """Forgets what all agents know."""
        for key in list(self.table.keys()):
            self.table.delete(key)

    def known(self) -> Iterator[KnownName]:
        """What agents know now, expired or not."""
        for key, entry in self.table.items():
            for slot in entry.slots:
                if slot.expires:
                    yield KnownName(
                        key.agent,
                        _address(bytes(key.address)),
                        slot.name.decode("ascii", "replace"),
                        slot.expires,
                    )


def _key(resolver: Resolver) -> abi.ResolverKey:
    address = resolver.address if len(resolver.address) == 16 else _MAPPED + resolver.address
    port = int.from_bytes(resolver.port.to_bytes(2, "big"), "little")
    return abi.ResolverKey((ctypes.c_uint8 * 16)(*address), port, 0)


def _address(raw: bytes) -> bytes:
    return raw[12:] if raw.startswith(_MAPPED) else raw
