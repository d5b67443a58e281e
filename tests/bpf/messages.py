"""Messages of the domain name system, as bytes: made by dnspython, which shares no code with the kernel's reader."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


def question(name: str, kind: str = "A", number: int = 4711) -> dns.message.QueryMessage:
    """A question for the addresses of `name`."""
    made = dns.message.make_query(name, kind, id=number, use_edns=False)
    return made


def answer(name: str, addresses: Sequence[bytes], *, ttl: int = 300, aliases: Sequence[str] = ()) -> bytes:
    """The answer to that question: `name` is the first of `aliases`, ..., whose addresses (of one family) these are."""
    kind = "AAAA" if addresses and len(addresses[0]) == 16 else "A"
    made = dns.message.make_response(question(name, kind))
    owner = name
    for alias in aliases:
        made.answer.append(dns.rrset.from_text(owner + ".", ttl, "IN", "CNAME", alias + "."))
        owner = alias
    if addresses:
        texts = [str(ipaddress.ip_address(address)) for address in addresses]
        made.answer.append(dns.rrset.from_text(owner + ".", ttl, "IN", kind, *texts))
    return made.to_wire()
