"""Whom a request is from, as a key: the address of the client, behind trusted proxies.

Each proxy adds the address that it was asked from to the end of X-Forwarded-For. So with n
proxies in front, the n-th address from the end is the client's, and what is before it is
what the client says.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Optional, Union


def _address(text: str) -> Optional[Union[IPv4Address, IPv6Address]]:
    """An address without port, brackets and zone, if it is one."""
    match = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|([\d.]+):\d+", text)
    if match:
        text = match[1] or match[2] or ""
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None


def client_key(address: Optional[str], forwarded_for: str = "", *, hops: int = 0, ipv6_prefix: int = 64) -> str:
    """The key of a request from an address, with the field X-Forwarded-For, behind so many proxies.

    Of an IPv6 address only the first bits count, as whoever has one address of a network has
    them all. An IPv4 address within IPv6 is itself.
    """
    client = _address(address or "")
    if hops > 0:
        forwarded = [text.strip() for text in forwarded_for.split(",") if text.strip()]
        for text in forwarded[: -hops - 1 : -1]:
            before = _address(text)
            # what is no address cannot be from a proxy that is trusted
            if before is None:
                break
            client = before
    if client is None:
        return "unknown"
    if isinstance(client, IPv6Address):
        if client.ipv4_mapped is not None:
            return str(client.ipv4_mapped)
        return str(IPv6Network((client, ipv6_prefix), strict=False))
    return str(client)
