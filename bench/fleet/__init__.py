"""Simulated agents: real sessions of AgentService with a controller, no FFmpeg and no files.

For scale and fault tests. An agent keeps every rule of the protocol (it uses the real agent's ledger) and invents what
it publishes:

    async with SimulatedFleet([address], 8, machine=Machine(slots=16)) as fleet:
        await fleet.until(lambda tally: tally.acknowledged >= 1000, timeout_s=30)

`python -m bench.fleet` runs one as a process of its own.
"""

from bench.fleet.agent import SimulatedAgent
from bench.fleet.deeds import Deed, Script, mixed, prompt
from bench.fleet.fleet import SimulatedFleet
from bench.fleet.hooks import Hooks, Tally
from bench.fleet.journal import journalling, read_journal
from bench.fleet.machine import ABLE, Machine

__all__ = [
    "ABLE",
    "Deed",
    "Hooks",
    "Machine",
    "Script",
    "SimulatedAgent",
    "SimulatedFleet",
    "Tally",
    "journalling",
    "mixed",
    "prompt",
    "read_journal",
]
