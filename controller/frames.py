"""What an agent may say at all: frames that mean nothing are refused, sizes and figures brought within bounds.

An agent repeats a report until it is acknowledged. What the database can't hold would come back for ever and hold up
everything else that the agent has to say, so figures and texts are cut to measure here; only what names nothing ends
the stream.
"""

from __future__ import annotations

import math
import re

from mediactl.v1 import agent_service_pb2 as pb
from mediactl.v1 import fleet_service_pb2, job_pb2
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason

MOST_ID = 128
"""Characters of an id, or of the name of a log."""
MOST_MESSAGE = 4096
MOST_REASON = 500
"""Characters of why an agent takes no new work."""
MOST_LOG_TAIL = 65_536
MOST_DOCUMENT = 1 << 20
"""Bytes of a plan or a record: a caller gets those of every attempt in one message."""
MOST_LOG_CHUNK = 1 << 20
MOST_REMAINS_PIECE = 1 << 20
MOST_REUSED = 200
"""Artifacts that a job may take from another."""
MOST_RUN_S = 10 * 365 * 86_400
_MOST = 2.0**53
_URL = re.compile(r"https?://[!-~]{1,16384}")
"""A signed one: signatures of some clouds hold a whole token."""


def check_hello(hello: pb.Hello) -> None:
    """Raises InvalidRequest where it introduces nobody."""
    for field in ("agent_id", "instance_id", "name", "version"):
        _name(f"hello.{field}", getattr(hello, field))
    for holding in hello.holdings:
        _name("hello.holdings.attempt_id", holding.attempt_id)


def check(frame: pb.SessionRequest) -> None:
    """Trims a frame where it is too much. Raises InvalidRequest where it names nothing."""
    match frame.WhichOneof("frame"):
        case "status":
            for holding in frame.status.holdings:
                _name("status.holdings.attempt_id", holding.attempt_id)
                holding.progress = _within(holding.progress, 1.0)
                holding.speed = _within(holding.speed, _MOST)
            if frame.status.HasField("cache"):
                _trim_cache(frame.status.cache)
            frame.status.drain_reason = frame.status.drain_reason.replace("\0", "")[:MOST_REASON]
        case "log":
            _name("log.attempt_id", frame.log.attempt_id)
            _name("log.stream", frame.log.stream)
            if frame.log.sequence < 1 or len(frame.log.data) > MOST_LOG_CHUNK:
                raise _wrong("log", f"a sequence from 1 and at most {MOST_LOG_CHUNK} bytes are expected")
        case "staged":
            _name("staged.attempt_id", frame.staged.attempt_id)
        case "decline":
            _name("decline.attempt_id", frame.decline.attempt_id)
            frame.decline.message = frame.decline.message[:MOST_MESSAGE]
        case "ended":
            _name("ended.attempt_id", frame.ended.attempt_id)
            _trim(frame.ended)
        case "recall":
            _name("recall.attempt_id", frame.recall.attempt_id)
            _name("recall.recipe", frame.recall.recipe)
        case "remains":
            _name("remains.attempt_id", frame.remains.attempt_id)
            if frame.remains.offset < 0 or len(frame.remains.data) > MOST_REMAINS_PIECE:
                raise _wrong("remains", f"an offset from 0 and at most {MOST_REMAINS_PIECE} bytes are expected")
            frame.remains.missing = frame.remains.missing[:MOST_MESSAGE]
        case "swept":
            _name("swept.attempt_id", frame.swept.attempt_id)
            if frame.swept.HasField("failure"):
                _trim_failure(frame.swept.failure)
        case "signed":
            _name("signed.request_id", frame.signed.request_id)
            for one in frame.signed.uris:
                _check_url(one)
        case _:
            pass


def _check_url(one: pb.SignedUri) -> None:
    """Whoever gets the URL opens it, so it is one of the web or none."""
    if one.HasField("failure"):
        _trim_failure(one.failure)
        one.url = ""
    elif not _URL.fullmatch(one.url):
        one.url = ""
        one.failure.reason, one.failure.message = Reason.INTERNAL, "the agent gave something that is no URL"


def _trim_cache(cache: fleet_service_pb2.CacheStatus) -> None:
    for field in cache.DESCRIPTOR.fields:
        setattr(cache, field.name, max(0, getattr(cache, field.name)))


def _trim(report: pb.EndReport) -> None:
    usage = report.usage
    if not 0 <= usage.run_time.seconds <= MOST_RUN_S or not 0 <= usage.run_time.nanos < 1_000_000_000:
        usage.ClearField("run_time")
    usage.cpu_seconds = _within(usage.cpu_seconds, _MOST)
    usage.peak_memory_bytes = max(0, usage.peak_memory_bytes)
    report.kept_bytes = max(0, report.kept_bytes)
    del report.reused[MOST_REUSED:]
    usage.bytes_read = max(0, usage.bytes_read)
    usage.bytes_written = max(0, usage.bytes_written)
    usage.media_seconds = _within(usage.media_seconds, _MOST)
    if report.HasField("failure"):
        _trim_failure(report.failure)
    if report.plan.ByteSize() > MOST_DOCUMENT:
        report.ClearField("plan")
    if len(report.record_json) > MOST_DOCUMENT:
        report.record_json = ""


def _trim_failure(failure: job_pb2.Failure) -> None:
    if len(failure.reason) > MOST_ID or not failure.reason.isprintable():
        failure.reason = Reason.INTERNAL
    failure.message = failure.message[:MOST_MESSAGE]
    failure.log_tail = failure.log_tail[-MOST_LOG_TAIL:]


def _within(figure: float, most: float) -> float:
    return 0.0 if math.isnan(figure) else min(most, max(0.0, figure))


def _name(field: str, text: str) -> None:
    if len(text) > MOST_ID or not text.isprintable():
        raise _wrong(field, f"at most {MOST_ID} printable characters are expected")


def _wrong(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(Problem(Reason.INVALID_ARGUMENT, field, message))
