"""Addresses, credentials and what is refused before anything is sent."""

from pathlib import Path

import pytest

from mediactl import places
from mediactl.channel import (
    Credentials,
    TcpTarget,
    UnixTarget,
    parse_address,
    parse_addresses,
    read_token,
    require_protection,
    server_credentials,
    sync_channel,
    unix_bind_target,
)
from mediactl.errors import MediactlError
from presets.reasons import Reason


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("unix:/run/m.sock", UnixTarget(Path("/run/m.sock"))),
        ("unix:///run/m.sock", UnixTarget(Path("/run/m.sock"))),
        ("localhost:99", TcpTarget("localhost", 99)),
        ("media.example", TcpTarget("media.example", 7420)),
        ("[::1]:5", TcpTarget("::1", 5)),
        ("[::1]", TcpTarget("::1", 7420)),
        ("10.0.0.1:0", TcpTarget("10.0.0.1", 0)),
    ],
)
def test_addresses_are_read(address: str, target: UnixTarget | TcpTarget) -> None:
    """Unix sockets, hosts and ports; an address that was read prints as one that reads the same."""
    assert parse_address(address) == target
    assert parse_address(str(target)) == target


def test_a_relative_socket_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`unix:m.sock` means the working directory."""
    monkeypatch.chdir(tmp_path)
    assert parse_address("unix:m.sock") == UnixTarget(tmp_path / "m.sock")


@pytest.mark.parametrize(
    "address",
    ["", "unix:", ":7420", "host:", "host:x", "host:70000", "a,b:1", "::1", "[::1", "[::1]x", "a/b:1", "h:-1"],
)
def test_bad_addresses_are_refused(address: str) -> None:
    """What is no address is an invalid request that says what one looks like."""
    with pytest.raises(MediactlError, match="HOST:PORT") as caught:
        parse_address(address)
    assert (caught.value.reason, caught.value.exit_code) == (Reason.INVALID_ARGUMENT, 2)


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("a", ["a:7420"]),
        ("a:1, b:2,[::1]:3", ["a:1", "b:2", "[::1]:3"]),
        ("a:1,a:1,a:2", ["a:1", "a:2"]),
        ("unix:/x/m.sock,unix:/y/m.sock,a", ["unix:/x/m.sock", "unix:/y/m.sock", "a:7420"]),
        ("unix:/a,b/m.sock", ["unix:/a,b/m.sock"]),
        ("a,unix:/b,c,d/m.sock,e:5", ["a:7420", "unix:/b,c,d/m.sock", "e:5"]),
    ],
)
def test_several_addresses(text: str, addresses: list[str]) -> None:
    """In their order, each once; a comma within the name of a socket's directory separates nothing."""
    assert [str(target) for target in parse_addresses(text)] == addresses


@pytest.mark.parametrize("text", ["", ",", "a,", ",a", "a,,b", "a,b:x", "a,b/c:1"])
def test_a_bad_address_among_several(text: str) -> None:
    """None is passed over in silence."""
    with pytest.raises(MediactlError, match="HOST:PORT"):
        parse_addresses(text)


@pytest.mark.parametrize("address", ["0.0.0.0:7420", "media.example:1", "[::]:1", "192.168.1.4:1"])
def test_plain_text_over_a_network_is_refused(address: str) -> None:
    """Neither end speaks plain text to anything but this machine."""
    with pytest.raises(MediactlError, match="plain text over a network is refused"):
        require_protection(parse_address(address), Credentials(token_file=Path("t")))
    with pytest.raises(MediactlError, match="plain text"):
        sync_channel(address)
    require_protection(parse_address(address), Credentials(tls_ca=Path("ca.pem")))


@pytest.mark.parametrize("address", ["unix:/x", "localhost:1", "127.0.0.1:1", "127.3.4.5:1", "[::1]:1"])
def test_plain_text_within_the_machine_is_fine(address: str) -> None:
    """Unix sockets and loopback need no TLS."""
    require_protection(parse_address(address), Credentials())


def test_tokens_are_read_strictly(tmp_path: Path) -> None:
    """A token file holds one word; everything else is refused without showing it."""
    file = tmp_path / "token"
    file.write_text(" secret\n")
    assert read_token(file) == "secret"
    for text in ("", "\n", "two words", "a\nb"):
        file.write_text(text)
        with pytest.raises(MediactlError) as caught:
            read_token(file)
        assert caught.value.reason is Reason.UNAUTHENTICATED
    file.write_bytes("sécret".encode())
    with pytest.raises(MediactlError, match="ASCII"):
        read_token(file)
    with pytest.raises(MediactlError, match="No such file"):
        read_token(tmp_path / "absent")


def test_tls_files_go_together(tmp_path: Path) -> None:
    """Half a key pair and unreadable files are told before anything is sent."""
    cert = tmp_path / "cert.pem"
    cert.write_text("x")
    with pytest.raises(MediactlError, match="go together"):
        sync_channel("localhost:1", Credentials(tls_cert=cert))
    with pytest.raises(MediactlError, match="certificate and its key"):
        server_credentials(Credentials(tls_ca=cert))
    with pytest.raises(MediactlError, match="can't read the TLS file"):
        sync_channel("localhost:1", Credentials(tls_ca=tmp_path / "absent"))
    assert server_credentials(Credentials()) is None


def test_a_long_socket_path_is_shortened(tmp_path: Path) -> None:
    """A path that does not fit into a socket's address goes through its directory; a long name can't."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    assert unix_bind_target(tmp_path / "m.sock") == f"unix:{tmp_path}/m.sock"
    assert unix_bind_target(deep / "m.sock").startswith("unix:/proc/self/fd/")
    with pytest.raises(MediactlError, match="too long"):
        unix_bind_target(deep / ("n" * 120))
    with pytest.raises(MediactlError, match="directory can't be opened"):
        unix_bind_target(tmp_path / ("e" * 120) / "m.sock")


def test_credentials_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files may be named by environment variables."""
    monkeypatch.setenv("MEDIACTL_TLS_CA", "/ca.pem")
    monkeypatch.setenv("MEDIACTL_TOKEN_FILE", "")
    assert Credentials.from_environment() == Credentials(tls_ca=Path("/ca.pem"))


def test_the_default_is_the_users_box(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """MEDIACTL_CONTROLLER, else MEDIACTL_DATA_DIR, else XDG_DATA_HOME, else the home folder."""
    for name in ("MEDIACTL_CONTROLLER", "MEDIACTL_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert places.default_address() == f"unix:{tmp_path}/.local/share/mediactl/mediactl.sock"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert places.default_data_dir() == tmp_path / ".local/share/mediactl"
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert places.default_data_dir() == Path("/xdg/mediactl")
    monkeypatch.setenv("MEDIACTL_DATA_DIR", "/box")
    assert places.default_address() == "unix:/box/mediactl.sock"
    monkeypatch.setenv("MEDIACTL_CONTROLLER", "localhost:7420")
    assert places.default_address() == "localhost:7420"
