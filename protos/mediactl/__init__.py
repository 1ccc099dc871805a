"""The wire and the Python client of mediactl.

    from mediactl import Client

    with Client() as client:
        job = client.submit({"inputs": [{"uri": "file:///srv/talk.wav"}], "preset": "loudness_podcast",
                             "outputs": [{"uri": "file:///srv/out/"}]})
        print(client.wait(job.id).artifacts[0].uri)

The names below load on first use, so that importing the messages of `mediactl.v1` does not load the clients.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mediactl.aio import AsyncClient
    from mediactl.channel import Credentials
    from mediactl.client import Client
    from mediactl.errors import MediactlError, WaitTimeout

_HOMES = {
    "AsyncClient": "mediactl.aio",
    "Client": "mediactl.client",
    "Credentials": "mediactl.channel",
    "MediactlError": "mediactl.errors",
    "WaitTimeout": "mediactl.errors",
}

__all__ = ["AsyncClient", "Client", "Credentials", "MediactlError", "WaitTimeout"]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
