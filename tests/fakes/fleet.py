"""A controller and an agent started apart, as on two machines."""

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mediactl.channel import Credentials
from mediactl.client import Client
from tests.fakes.cli import Home, Running, until

NOTHING: Mapping[str, str] = MappingProxyType({})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def of_agents(*arguments: object) -> tuple[str, ...]:
    """Arguments in which absolute paths of jobs are files that agents have, and nothing is uploaded."""
    texts = tuple(map(str, arguments))
    if not {"run", "submit", "plan"} & {*texts}:
        return texts
    return tuple(f"file://{text}" if text.startswith("/") else text for text in texts)


@dataclass
class Fleet:
    """A home where controller and agent are programs of their own, over TCP."""

    home: Home
    port: int = field(default_factory=free_port)
    controller_flags: tuple[str | Path, ...] = ()
    agent_flags: tuple[str | Path, ...] = ()
    client_flags: tuple[str | Path, ...] = ()
    credentials: Credentials = field(default_factory=Credentials)

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def controller(self) -> Running:
        """Starts a controller; the same data and the same port every time."""
        self.home.controller_ran(self.home.data_dir)
        running = self.home.start(
            # HTTP is served at the next port by default, and somebody else may have that one.
            *("serve", "--data-dir", self.home.data_dir, "--listen", self.address, "--http", "none"),
            *self.controller_flags,
            module="controller.main",
        )
        until(lambda: running.process.poll() is not None or self.answers(), "the controller answers")
        assert running.process.poll() is None, running.ended()
        return running

    def agent(
        self,
        name: str = "studio",
        *flags: str | Path,
        environment: Mapping[str, str] = NOTHING,
        module: str = "agent.main",
    ) -> Running:
        """Starts an agent, whose folder is `agent` in the home's data unless it is named, and waits until it is
        registered.
        """
        folder = "agent" if name == "studio" else name
        self.home.agent_ran(self.home.data_dir / folder)
        running = self.home.start(
            *("serve", "--data-dir", self.home.data_dir / folder, "--controller", self.address, "--name", name),
            *("--media-root", self.home.folder, "--label", "colour=green", *self.agent_flags, *flags),
            environment=environment,
            module=module,
        )

        def registered() -> bool:
            return name in {agent.name for agent in client.agents()}

        with self.client() as client:
            until(lambda: running.process.poll() is not None or registered(), "the agent registers")
        assert running.process.poll() is None, running.ended()
        return running

    def client(self) -> Client:
        return Client(self.address, credentials=self.credentials)

    def run(self, *arguments: str | Path, code: int = 0) -> Any:
        """The JSON that `mediactl` prints; its standard error where it fails.

        Absolute paths of jobs are those of the agents: `file:` URIs.
        """
        return self.at_home(*of_agents(*arguments), code=code)

    def at_home(self, *arguments: str | Path, code: int = 0) -> Any:
        """The same, but with paths as they are: files of whoever runs `mediactl`."""
        ran = self.home.run("--controller", self.address, *self.client_flags, *arguments, "-o", "json", code=code)
        return json.loads(ran.stdout) if ran.stdout else ran.stderr

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
