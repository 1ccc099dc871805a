"""From settings to a client: the controller that was named, or the user's own box, started where need be."""

import subprocess
import sys
from collections.abc import Callable
from typing import Final, TypeVar

from ctl import box
from ctl.settings import Settings
from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.places import box_socket
from presets.reasons import Reason

_T = TypeVar("_T")

_TRIES: Final = 3
# In a box's death throes waiting is pointless: another one is started by the next try.
_BOX_PATIENCE_S: Final = 1.0


def with_client(settings: Settings, work: Callable[[Client], _T]) -> _T:
    """Does `work` with a connected client.

    The embedded box ends when it is idle, which may be between finding it and calling it; then `work` is done
    again from its start with a new box. So `work` must bear that: submissions carry a request id made outside.
    """
    if settings.controller is not None:
        with Client(settings.controller, credentials=_credentials(settings)) as client:
            return work(client)
    tries = 0
    while True:
        tries += 1
        try:
            return _with_box(settings, work)
        except MediactlError as error:
            gone = error.reason in (Reason.CONTROLLER_UNREACHABLE, Reason.CONTROLLER_STOPPING)
            if not gone or tries == _TRIES:
                raise


def _with_box(settings: Settings, work: Callable[[Client], _T]) -> _T:
    try:
        started = box.ensure(settings.data_dir)
    except box.BoxError as error:
        raise MediactlError(Reason.CONTROLLER_UNREACHABLE, str(error)) from None
    try:
        address = f"unix:{box_socket(settings.data_dir)}"
        token = Credentials(token_file=settings.token_file)
        with Client(address, credentials=token, patience_s=_BOX_PATIENCE_S) as client:
            return work(client)
    except KeyboardInterrupt:
        if started is not None:
            _see_off(started)
        raise


def _credentials(settings: Settings) -> Credentials:
    return Credentials(settings.tls_ca, settings.tls_cert, settings.tls_key, settings.token_file)


def _see_off(started: subprocess.Popen[bytes], patience_s: float = 2.0) -> None:
    # Whoever interrupts expects to leave nothing behind; the box ends as soon as it is idle.
    try:
        started.wait(patience_s)
    except subprocess.TimeoutExpired:
        print("mediactl: the embedded box is still busy; it ends when it is idle", file=sys.stderr)
