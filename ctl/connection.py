"""From settings to a client: the controller that was named, or the user's own box, started where need be."""

import subprocess
import sys
from collections.abc import Callable
from threading import Event
from typing import Final, TypeVar

from ctl import box
from ctl.interruption import interruptible
from ctl.settings import Settings
from mediactl.channel import Credentials, TcpTarget, parse_addresses
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.places import box_socket
from mediactl.requests import gone
from presets.reasons import Reason

_T = TypeVar("_T")

_TRIES: Final = 3
# In a box's death throes waiting is pointless: another one is started by the next try.
_BOX_PATIENCE_S: Final = 1.0


def remote(settings: Settings) -> bool:
    """Whether files of this machine have to be uploaded: the controller is reached over a network, so that agents may
    be anywhere. Raises MediactlError for a bad address."""
    if settings.controller is None:
        return False
    return any(isinstance(target, TcpTarget) for target in parse_addresses(settings.controller))


def with_client(
    settings: Settings,
    work: Callable[[Client], _T],
    *,
    interrupted: Callable[[Client], None] = Client.close,
) -> _T:
    """Does `work` with a connected client, in another thread.

    The embedded box ends when it is idle, which may be between finding it and calling it; then `work` is done
    again from its start with a new box. So `work` must bear that: submissions carry a request id made outside.
    At Ctrl-C or SIGTERM `interrupted` is called, which must bring `work` to its end; then KeyboardInterrupt is
    raised. Raises what `work` raises.
    """
    connection = _Connection(settings)
    return interruptible(lambda: connection.do(work), lambda: connection.interrupt(interrupted))


class _Connection:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._interrupted = Event()
        self._client: Client | None = None

    def do(self, work: Callable[[Client], _T]) -> _T:
        if self._settings.controller is not None:
            return self._use(Client(self._settings.controller, credentials=_credentials(self._settings)), work)
        tries = 0
        while True:
            tries += 1
            try:
                return self._with_box(work)
            except MediactlError as error:
                if not gone(error) or tries == _TRIES or self._interrupted.is_set():
                    raise

    def interrupt(self, interrupted: Callable[[Client], None]) -> None:
        # In this order: `_use` does it the other way round, so that one of the two sees the other.
        self._interrupted.set()
        client = self._client
        if client is not None:
            try:
                interrupted(client)
            except MediactlError as error:
                print(f"mediactl: {error.reason}: {error.message}", file=sys.stderr)
                client.close()

    def _use(self, client: Client, work: Callable[[Client], _T]) -> _T:
        with client:
            self._client = client
            try:
                if self._interrupted.is_set():
                    # A box just started waits a while for its first client; once it has had one it ends soon.
                    client.agents()
                    raise KeyboardInterrupt
                return work(client)
            finally:
                self._client = None

    def _with_box(self, work: Callable[[Client], _T]) -> _T:
        try:
            started = box.ensure(self._settings.data_dir)
        except box.BoxError as error:
            raise MediactlError(Reason.CONTROLLER_UNREACHABLE, str(error)) from None
        address = f"unix:{box_socket(self._settings.data_dir)}"
        token = Credentials(token_file=self._settings.token_file)
        try:
            return self._use(Client(address, credentials=token, patience_s=_BOX_PATIENCE_S), work)
        finally:
            if started is not None and self._interrupted.is_set():
                _see_off(started)


def _credentials(settings: Settings) -> Credentials:
    return Credentials(settings.tls_ca, settings.tls_cert, settings.tls_key, settings.token_file)


def _see_off(started: subprocess.Popen[bytes], patience_s: float = 2.0) -> None:
    # Whoever interrupts expects to leave nothing behind; the box ends as soon as it is idle.
    try:
        started.wait(patience_s)
    except subprocess.TimeoutExpired:
        print("mediactl: the embedded box is still busy; it ends when it is idle", file=sys.stderr)
