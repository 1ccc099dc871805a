"""Who may speak to a controller: TLS files, the bearer token, the socket's mode, plain text nowhere but here."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mediactl import AsyncClient, Credentials, MediactlError
from mediactl.channel import aio_channel
from mediactl.errors import from_rpc_error
from presets.reasons import Reason
from tests.fakes.agent_peer import AgentPeer
from tests.fakes.running import controller

SPEC = {
    "inputs": [{"uri": "file:///media/talk.wav"}],
    "preset": "loudness_podcast",
    "outputs": [{"uri": "file:///media/out/"}],
}


class Authority:
    """A certificate authority in a folder, by the openssl command."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._openssl("req", "-x509", *self._new_key("ca"), "-subj", "/CN=test authority", "-out", "ca.pem")

    def issue(self, name: str) -> Credentials:
        """A certificate for this machine, signed by the authority, and the authority's own to check others'."""
        extensions = self._folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        self._openssl("req", *self._new_key(name), "-subj", f"/CN={name}", "-out", f"{name}.csr")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-extfile", f"{name}.ext", "-out", f"{name}.pem", "-days", "2"),
        )
        return Credentials(
            tls_ca=self._folder / "ca.pem",
            tls_cert=self._folder / f"{name}.pem",
            tls_key=self._folder / f"{name}.key",
        )

    @staticmethod
    def _new_key(name: str) -> tuple[str, ...]:
        return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ours")


def _with(credentials: Credentials, **changes: Path | None) -> Credentials:
    fields = {name: getattr(credentials, name) for name in ("tls_ca", "tls_cert", "tls_key", "token_file")}
    return Credentials(**{**fields, **changes})


def _token(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text + "\n")
    return path


async def _refused(address: str, credentials: Credentials) -> MediactlError:
    async with AsyncClient(address, credentials=credentials, patience_s=0.1, timeout_s=10) as client:
        with pytest.raises(MediactlError) as caught:
            await client.get("0123")
        return caught.value


async def test_tls_and_token_let_callers_and_agents_in(authority: Authority, tmp_path: Path) -> None:
    """With a certificate of the authority and the right token everything works, agents' streams too."""
    token = _token(tmp_path, "token", "s3cret")
    server = _with(authority.issue("server"), token_file=token)
    caller = _with(authority.issue("caller"), token_file=token)
    async with (
        controller(tmp_path, listen="127.0.0.1:0", credentials=server, caller=caller) as box,
        AgentPeer(box.channel) as agent,
    ):
        job = await box.client.submit(SPEC)
        assert (await agent.lease()).job_id == job.id


async def test_tokens(authority: Authority, tmp_path: Path) -> None:
    """A wrong or missing one is UNAUTHENTICATED for calls, streams and reflection; health is open to all."""
    token = _token(tmp_path, "token", "s3cret")
    server = _with(authority.issue("server"), token_file=token)
    caller = authority.issue("caller")
    async with controller(tmp_path, listen="127.0.0.1:0", credentials=server, caller=caller) as box:
        for wrong in (None, _token(tmp_path, "wrong", "s3cre"), _token(tmp_path, "longer", "s3cret2")):
            refused = await _refused(box.address, _with(caller, token_file=wrong))
            assert (refused.reason, refused.exit_code) == (Reason.UNAUTHENTICATED, 5)
        assert (await _refused(box.address, _with(caller, token_file=token))).reason is Reason.JOB_NOT_FOUND
        with pytest.raises(aio.AioRpcError) as caught:
            await AgentPeer(box.channel).connect()
        assert from_rpc_error(caught.value).reason is Reason.UNAUTHENTICATED
        with pytest.raises(MediactlError) as watched:
            await anext(box.client.watch())
        assert watched.value.reason is Reason.UNAUTHENTICATED
        health: Any = health_pb2_grpc.HealthStub(box.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_rotated_token_is_taken_up(tmp_path: Path) -> None:
    """Both ends read the file anew: the old token is refused from then on."""
    token, old = _token(tmp_path, "token", "first"), _token(tmp_path, "old", "first")
    credentials = Credentials(token_file=token)
    async with controller(tmp_path, credentials=credentials, caller=credentials) as box:
        assert (await _refused(box.address, credentials)).reason is Reason.JOB_NOT_FOUND
        token.write_text("second\n")
        assert (await _refused(box.address, Credentials(token_file=old))).reason is Reason.UNAUTHENTICATED
        assert (await _refused(box.address, credentials)).reason is Reason.JOB_NOT_FOUND


async def test_a_missing_token_file_lets_nobody_in(tmp_path: Path) -> None:
    """A controller that can't read its token refuses every call rather than none."""
    token = _token(tmp_path, "token", "first")
    caller = Credentials(token_file=_token(tmp_path, "callers", "first"))
    async with controller(tmp_path, credentials=Credentials(token_file=token), caller=caller) as box:
        token.unlink()
        assert (await _refused(box.address, caller)).reason is not Reason.JOB_NOT_FOUND


async def test_clients_must_show_a_certificate_of_the_authority(authority: Authority, tmp_path: Path) -> None:
    """None at all, another authority's, or plain text: the connection is refused before any service sees it."""
    stranger = Authority(tmp_path / "theirs").issue("stranger")
    caller = authority.issue("caller")
    async with controller(
        tmp_path / "data", listen="127.0.0.1:0", credentials=authority.issue("server"), caller=caller
    ) as box:
        for wrong in (
            _with(caller, tls_cert=None, tls_key=None),
            _with(stranger, tls_ca=caller.tls_ca),
            Credentials(),
        ):
            assert (await _refused(box.address, wrong)).reason is Reason.CONTROLLER_UNREACHABLE
        assert (await _refused(box.address, caller)).reason is Reason.JOB_NOT_FOUND


async def test_clients_refuse_a_controller_of_another_authority(authority: Authority, tmp_path: Path) -> None:
    """The caller's CA decides whom it speaks to."""
    stranger = Authority(tmp_path / "theirs").issue("stranger")
    ours = authority.issue("caller")
    server = _with(stranger, tls_ca=None)
    async with controller(tmp_path / "data", listen="127.0.0.1:0", credentials=server, caller=stranger) as box:
        assert (await _refused(box.address, stranger)).reason is Reason.JOB_NOT_FOUND
        assert (await _refused(box.address, ours)).reason is Reason.CONTROLLER_UNREACHABLE


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "media.example:0"])
async def test_plain_text_over_a_network_is_refused(tmp_path: Path, listen: str) -> None:
    """With the reason and the way out; a token alone does not change it."""
    token = Credentials(token_file=_token(tmp_path, "token", "s3cret"))
    for credentials in (Credentials(), token):
        with pytest.raises(MediactlError, match="plain text over a network is refused") as caught:
            async with controller(tmp_path, listen=listen, credentials=credentials):
                pass
        assert "--tls-cert" in caught.value.message


async def test_a_listener_needs_certificate_and_key(authority: Authority, tmp_path: Path) -> None:
    """A CA alone makes no TLS listener, and does not open a plain one either."""
    whole = authority.issue("server")
    for half in (_with(whole, tls_cert=None, tls_key=None), _with(whole, tls_key=None)):
        with pytest.raises(MediactlError, match="needs both a certificate and its key"):
            async with controller(tmp_path, listen="0.0.0.0:0", credentials=half):
                pass


async def test_an_address_in_use_is_told(tmp_path: Path) -> None:
    """Another listener has the port: which one, in words."""
    async with controller(tmp_path / "one", listen="127.0.0.1:0") as box:
        with pytest.raises(MediactlError, match=f"can't listen on {box.address}"):
            async with controller(tmp_path / "two", listen=box.address):
                pass


async def test_the_socket_and_the_data_are_the_owners_alone(tmp_path: Path) -> None:
    """Mode 0600 for the socket, 0700 for the directory, whatever the umask; the socket goes with the controller."""
    before = os.umask(0)
    try:
        async with controller(tmp_path / "data") as box:
            path = Path(box.address.removeprefix("unix:"))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
            assert os.umask(0) == 0
        assert not path.exists()
    finally:
        os.umask(before)


async def test_a_socket_left_over_is_replaced(tmp_path: Path) -> None:
    """After a crash the path still exists; the next controller takes it."""
    (tmp_path / "c.sock").touch()
    async with controller(tmp_path) as box, aio_channel(box.address) as channel:
        await channel.channel_ready()
        assert channel.get_state() is grpc.ChannelConnectivity.READY


async def test_a_controller_whose_token_file_goes_refuses_in_plain_words(tmp_path: Path) -> None:
    """Every call is UNAUTHENTICATED, and no path of the server is told; without the file it doesn't start at all."""
    own, shown = _token(tmp_path, "own", "s3cret"), _token(tmp_path, "shown", "s3cret")
    credentials, caller = Credentials(token_file=own), Credentials(token_file=shown)
    async with controller(tmp_path / "data", credentials=credentials, caller=caller) as box:
        own.unlink()
        with pytest.raises(MediactlError) as caught:
            await box.client.get("0")
        assert caught.value.reason == Reason.UNAUTHENTICATED
        assert str(tmp_path) not in caught.value.message
    with pytest.raises(MediactlError, match="can't read the token file"):
        async with controller(tmp_path / "data", credentials=credentials, caller=caller):
            pass
