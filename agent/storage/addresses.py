"""Addresses that no URL of a job may lead to."""

import ipaddress

#: What clouds let only a machine's own software ask, where the address is not link-local anyway.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    )
)
#: IPv6 addresses that hold one of IPv4 in their last four bytes.
_HOLDING = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96", "::/96")))


def forbidden(host: str) -> str:
    """What is wrong with an address; empty where nothing is, or where it is a name.

    Private networks are where a team's own servers are.
    """
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return ""
    if address in _METADATA or address.is_link_local:
        return "an address of the host's own services"
    if address.is_loopback:
        return "the machine itself"
    if address.is_unspecified or address.is_multicast:
        return "no address of a server"
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _HOLDING):
            return forbidden(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
        if address.sixtofour is not None:
            return forbidden(str(address.sixtofour))
    return ""
