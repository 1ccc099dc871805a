"""Where a job's URL may not lead."""

import pytest

from agent.storage.addresses import forbidden


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",  # noqa: S104
        "224.0.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "::1",
        "[::1]",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:169.254.169.254",
        "::ffff:7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
    ],
)
def test_the_hosts_own(address: str) -> None:
    """Metadata services, the machine itself and what is no server, in any way to write it."""
    assert forbidden(address)


@pytest.mark.parametrize("address", ["10.0.0.7", "192.168.1.1", "8.8.8.8", "fd12::1", "2001:db8::1", "media.example"])
def test_servers(address: str) -> None:
    """Private networks are where a team's own servers are; names are resolved first."""
    assert forbidden(address) == ""
