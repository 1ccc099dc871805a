"""Simulated agents that log and repeat themselves, as a process to kill: `python -m tests.fakes.shaky_fleet`.

They add to what `bench.fleet` does: every attempt logs lines, reliable as any log; frames are said twice as often as
the dice want; and the journal also has

    {"what": "log_acknowledged", "agent": …, "attempt": …, "stream": …, "sequence": …, "text": …}

for each chunk that the controller called durable, with what it said. The journal outlives the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import click

from bench.fleet import Deed, Hooks, Machine, SimulatedAgent, journalling
from mediactl.v1 import agent_service_pb2 as pb

STREAM = "agent"


class ShakyAgent(SimulatedAgent):
    """`twice` is the probability that a frame is said again at once; `steady` agents work for exactly `work_s`."""

    def __init__(
        self,
        agent_id: str,
        controllers: Sequence[str],
        *,
        journal: IO[str],
        twice: float,
        hooks: Hooks,
        seed: int,
        machine: Machine,
        work_s: float,
        steady: bool,
    ) -> None:
        dice = random.Random(f"{seed} {agent_id} {os.getpid()}")  # noqa: S311 - no secret

        def script(_: pb.Lease) -> Deed:
            if steady:
                return Deed(work_s=work_s)
            # Many end at once, and some publish for long enough to be met at it.
            lasts_s = work_s * dice.choice((0.0, 0.5, 1.0, 2.0))
            return Deed(work_s=lasts_s, publish_s=dice.choice((0.0, 0.0, work_s / 2)))

        super().__init__(agent_id, controllers, machine=machine, script=script, hooks=hooks, seed=seed)
        self._journal = journal
        self._twice = twice
        self._luck = dice
        self._lines: dict[tuple[str, int], str] = {}
        # Another agent, or another life of this one, may finish the publication of an attempt: its lines are others.
        self._stream = f"{STREAM}.{agent_id}.{os.getpid()}"

    def log(self, attempt_id: str, text: str) -> None:
        """Owe the controller a line."""
        data = text.encode()
        sequence = self._ledger.log_sequence(attempt_id, self._stream, len(data))
        if sequence is None:
            raise RuntimeError("the controller acknowledges no logs")
        self._lines[attempt_id, sequence] = text
        chunk = pb.LogChunk(attempt_id=attempt_id, stream=self._stream, sequence=sequence, data=data)
        self._ledger.owe_log(attempt_id, self._stream, sequence, len(data), chunk)
        self._say(pb.SessionRequest(log=chunk))

    def _say(self, frame: pb.SessionRequest) -> None:
        super()._say(frame)
        if self._luck.random() < self._twice:
            super()._say(frame)

    def _acknowledged(self, said: pb.Acknowledgement) -> None:
        if not said.stream:
            super()._acknowledged(said)
            return
        self._ledger.acknowledge_log(said.attempt_id, said.stream, said.sequence)
        # Up to the sequence: those below it were said before it.
        for sequence in range(said.sequence, 0, -1):
            text = self._lines.pop((said.attempt_id, sequence), None)
            if text is None:
                break
            entry: dict[str, object] = {"what": "log_acknowledged", "agent": self.agent_id, "attempt": said.attempt_id}
            entry |= {"stream": said.stream, "sequence": sequence, "text": text, "at": time.monotonic()}
            self._journal.write(json.dumps(entry) + "\n")


def logging(hooks: Hooks) -> Hooks:
    """The same, and the attempt logs it too."""

    def say(agent: SimulatedAgent, attempt_id: str, what: str) -> None:
        if isinstance(agent, ShakyAgent):
            agent.log(attempt_id, f"{agent.agent_id} {what} {attempt_id} in {os.getpid()}\n")

    def leased(agent: SimulatedAgent, lease: pb.Lease) -> None:
        hooks.leased(agent, lease)
        say(agent, lease.attempt_id, "leased")

    def published(agent: SimulatedAgent, attempt_id: str, records: Sequence[pb.RedoRecord]) -> None:
        hooks.published(agent, attempt_id, records)
        say(agent, attempt_id, "published")

    return Hooks(
        connected=hooks.connected,
        leased=leased,
        stopped=hooks.stopped,
        published=published,
        ended=hooks.ended,
        acknowledged=hooks.acknowledged,
    )


@click.command()
@click.option("--controller", "controllers", multiple=True, required=True)
@click.option("--prefix", required=True)
@click.option("--agents", default=2)
@click.option("--slots", default=3)
@click.option("--work-ms", default=400.0)
@click.option("--fixed-ms", default=0.0, help="Every attempt works for exactly so long.")
@click.option("--twice", default=0.3)
@click.option("--seed", default=0)
@click.option("--label", "labels", multiple=True, metavar="K=V")
@click.option("--journal", "path", type=click.Path(path_type=Path), required=True)
def main(
    controllers: tuple[str, ...],
    prefix: str,
    agents: int,
    slots: int,
    work_ms: float,
    fixed_ms: float,
    twice: float,
    seed: int,
    labels: tuple[str, ...],
    path: Path,
) -> None:
    """Simulated agents that log and repeat themselves."""
    machine = Machine(slots=slots, labels=dict(label.split("=", 1) for label in labels))

    async def run(journal: IO[str]) -> None:
        hooks = logging(journalling(journal))
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    ShakyAgent(
                        f"{prefix}{number + 1}",
                        # Spread over the controllers.
                        [*controllers[number % len(controllers) :], *controllers[: number % len(controllers)]],
                        journal=journal,
                        twice=twice,
                        hooks=hooks,
                        seed=seed,
                        machine=machine,
                        work_s=(fixed_ms or work_ms) / 1000,
                        steady=bool(fixed_ms),
                    ).run()
                )
                for number in range(agents)
            ]
            for name in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(name, lambda: [task.cancel() for task in tasks])

    with path.open("a", buffering=1) as journal, suppress(asyncio.CancelledError):
        asyncio.run(run(journal))


if __name__ == "__main__":
    main()
