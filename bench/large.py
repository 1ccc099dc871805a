"""One large object through an agent: its memory, and its speed beside obstore's over the same way.

The object is a generated WAV (RF64) of noise, sent part by part: no such file is kept. The job takes its sound out
into a WAV again, the least work there is in the catalogue: the samples go through FFmpeg as they are, and are decoded
once more to be verified.
"""

from __future__ import annotations

import asyncio
import random
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import psutil
from obstore.store import S3Store

from bench.figures import Figure
from mediactl.channel import Credentials
from mediactl.client import Client
from mediactl.errors import MediactlError
from mediactl.v1 import job_pb2
from tests.fakes.cli import Home, until
from tests.fakes.object_server import ObjectServer
from tests.fakes.programs import UP_S, AgentProgram, ControllerProgram, reserved_port

PART_BYTES = 64 * 2**20
CHUNK_BYTES = 8 * 2**20
AT_ONCE = 8
SAMPLE_S = 0.05
PHASES = ("starting", "fetching", "probing", "encode", "verify", "verifying", "staging", "waiting", "publishing")
"""First words of what an agent says that it is at in such a job."""
MOST_RSS_MB = 250
LEAST_SHARE = 0.8
_RATE, _CHANNELS, _WIDTH = 44_100, 2, 2


def wav(size: int) -> Iterator[bytes]:
    """A WAV file of about so many bytes, in parts of 64 MiB but the last."""
    frame = _CHANNELS * _WIDTH
    samples = max(1, (size - 80) // frame)
    sound = samples * frame
    head = b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<IQQQI", 28, sound + 72, sound, samples, 0)
    head += b"fmt " + struct.pack("<IHHIIHH", 16, 1, _CHANNELS, _RATE, _RATE * frame, frame, 8 * _WIDTH)
    head += b"data\xff\xff\xff\xff"
    noise = random.Random(1).randbytes(2**20 * 4 // frame * frame)  # noqa: S311 - no secret
    quiet = bytes(0 if index % 2 else value for index, value in enumerate(noise[: 2**20]))
    left, waiting = sound, bytearray(head)
    while left:
        piece = quiet[: min(left, len(quiet))]
        waiting += piece
        left -= len(piece)
        while len(waiting) >= PART_BYTES:
            yield bytes(waiting[:PART_BYTES])
            del waiting[:PART_BYTES]
    if waiting:
        yield bytes(waiting)


def measured(folder: Path, server: ObjectServer, size: int) -> Iterator[Figure]:
    """The figures, as they come."""
    bucket = server.make_bucket()
    sent = _send(server, bucket, "in/large.wav", size)
    down_s, up_s = asyncio.run(_by_obstore(folder, server, bucket))
    server.client.delete_object(Bucket=bucket, Key="by-obstore.wav")
    with ExitStack() as stack:
        took_s, phases, rss = _by_agent(folder, server, bucket, stack)
    length = server.client.head_object(Bucket=bucket, Key="out/large.wav")["ContentLength"]
    if abs(length - sent) > 2**16:
        raise SystemExit(f"{sent} bytes went in and {length} came out")
    peak_mb = max(mb for _, mb in rss)
    course = ", ".join(f"{mb:.0f} at {at_s:.0f} s" for at_s, mb in rss[:: max(1, len(rss) // 10)])
    yield Figure("RSS of the agent, at its most", peak_mb, "MB", target=MOST_RSS_MB, at_most=True, note=course)
    mb = sent / 1e6
    transfers_s = phases["fetching"] + phases["staging"]
    through = f"obstore alone, through a file: {down_s:.1f} s down, {up_s:.1f} s up"
    note = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items())
    yield Figure(
        "fetch and stage", mb / transfers_s, "MB/s", baseline=mb / (down_s + up_s), baseline_name=through, note=note
    )
    whole = Figure("the whole job", mb / took_s, "MB/s", baseline=mb / (down_s + up_s), baseline_name="obstore alone")
    yield whole
    yield Figure("share of obstore's speed, fetch and stage", (down_s + up_s) / transfers_s, "", target=LEAST_SHARE)


def _send(server: ObjectServer, bucket: str, key: str, size: int) -> int:
    client, parts, sent = server.client, [], 0
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    for number, part in enumerate(wav(size), 1):
        tag = client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=part)["ETag"]
        parts.append({"PartNumber": number, "ETag": tag})
        sent += len(part)
    done: Any = {"Parts": parts}
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=done)
    return sent


async def _by_obstore(folder: Path, server: ObjectServer, bucket: str) -> tuple[float, float]:
    """Seconds down into a file, and up again from it."""
    store = S3Store(
        bucket,
        endpoint=server.endpoint,
        region=server.region,
        access_key_id=server.access_key,
        secret_access_key=server.secret_key,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": timedelta(minutes=30)},
    )
    path = folder / "by-obstore.wav"
    begun = time.monotonic()
    found = await obstore.get_async(store, "in/large.wav")
    with path.open("wb") as file:
        async for piece in found.stream(CHUNK_BYTES):
            await asyncio.to_thread(file.write, piece)
    down_s = time.monotonic() - begun
    begun = time.monotonic()
    await obstore.put_async(
        store, "by-obstore.wav", path, use_multipart=True, chunk_size=CHUNK_BYTES, max_concurrency=AT_ONCE
    )
    up_s = time.monotonic() - begun
    path.unlink()
    return down_s, up_s


def _by_agent(
    folder: Path, server: ObjectServer, bucket: str, stack: ExitStack
) -> tuple[float, dict[str, float], list[tuple[float, float]]]:
    """Seconds from submission to completion, seconds of each phase, and the agent's RSS (MB) over time (s)."""
    home = Home(folder / "home")
    stack.callback(home.kill)
    credentials, stores = home.folder / "credentials", home.folder / "stores.toml"
    credentials.write_text(
        f"[default]\naws_access_key_id={server.access_key}\naws_secret_access_key={server.secret_key}\n"
    )
    stores.write_text(
        f'[store.archive]\nkind = "s3"\nendpoint = "{server.endpoint}"\npath_style = true\n'
        f'region = "{server.region}"\ncredentials_file = "{credentials}"\n'
    )
    home.environment["MEDIACTL_STORES"] = str(stores)
    port = stack.enter_context(reserved_port())
    controller = ControllerProgram(home, port, home.folder / "controller", "--http", "none")
    controller.up()
    agent = AgentProgram(home, "large", [controller.address])
    agent.start()
    with Client(controller.address, credentials=Credentials(), timeout_s=10.0, patience_s=UP_S) as client:

        def here() -> bool:
            with suppress(MediactlError):
                return bool(client.agents())
            return False

        until(here, "the agent registers", within_s=UP_S)
        with _watched(agent.process.pid) as rss:
            begun = time.monotonic()
            job = client.submit(
                {
                    "inputs": [{"uri": f"archive://{bucket}/in/large.wav"}],
                    "preset": "extract_audio",
                    "outputs": [{"profile": "wav_16", "uri": f"archive://{bucket}/out/large.wav"}],
                    "max_attempts": 1,
                }
            )
            job = client.wait(job.id)
            took_s = time.monotonic() - begun
        if job.state != job_pb2.JOB_STATE_COMPLETED:
            raise SystemExit(f"the job ended {job_pb2.JobState.Name(job.state)}: {job.failure.message}")
        said = b"".join(piece.data for piece in client.logs(job.id) if piece.stream == "agent").decode()
    for program in (agent, controller):
        program.terminate()
        program.ended()
    return took_s, _phases(said, took_s), rss


class _watched:  # noqa: N801 - used as a function
    """The RSS of a process alone, without what it starts, within the block."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._enough = threading.Event()
        self._seen: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> list[tuple[float, float]]:
        self._thread.start()
        return self._seen

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _look(self) -> None:
        begun = time.monotonic()
        while not self._enough.wait(SAMPLE_S):
            self._seen.append((time.monotonic() - begun, self._process.memory_info().rss / 1e6))


def _phases(said: str, whole_s: float) -> dict[str, float]:
    """Seconds by the first word of what the agent says that it is at; the last phase ends with the job."""
    found = re.findall(r"^ *([\d.]+) s  (\w+)", said, re.MULTILINE)
    lines = [(float(at), word) for at, word in found if word in PHASES]
    phases: dict[str, float] = {}
    for (at_s, word), (next_s, _) in zip(lines, [*lines[1:], (max(whole_s, lines[-1][0]), "")], strict=True):
        phases[word] = phases.get(word, 0.0) + next_s - at_s
    return phases
