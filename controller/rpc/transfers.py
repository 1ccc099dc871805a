"""TransferService."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import grpc

from controller.deposits import PIECE_BYTES, Deposits
from controller.rpc.messages import timestamp
from controller.store.deposits import DropDeposit, uri_of
from controller.store.queries import Record
from controller.store.tables import DEFAULT_TENANT
from mediactl.errors import MediactlError
from mediactl.v1 import transfer_service_pb2 as pb
from mediactl.v1 import transfer_service_pb2_grpc
from presets.problems import InvalidRequest, Problem
from presets.reasons import Reason
from presets.uris import deposit_path

MOST_NAME_BYTES = 255
MOST_ID = 128
_SHA256 = re.compile(r"[0-9a-f]{64}")

_Context = grpc.aio.ServicerContext[Any, Any]


class TransferServicer(transfer_service_pb2_grpc.TransferServiceServicer):
    """Thin: what a request may say is decided here, all else by `Deposits`."""

    def __init__(self, deposits: Deposits) -> None:
        self._deposits = deposits

    async def BeginUpload(self, request: pb.BeginUploadRequest, context: _Context) -> pb.BeginUploadResponse:
        path = _checked(request)
        row = await self._deposits.begin(
            DEFAULT_TENANT,
            name=request.name,
            path=path,
            attempt_id=request.attempt_id,
            size_bytes=request.size_bytes,
            sha256=request.sha256,
        )
        return pb.BeginUploadResponse(deposit=_deposit(row))

    async def ExtendUpload(
        self, request_iterator: AsyncIterator[pb.ExtendUploadRequest], context: _Context
    ) -> pb.ExtendUploadResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.upload_id:
            raise InvalidRequest(_wrong("upload_id", "the id of an upload is expected in the first message"))
        row = await self._deposits.extend(DEFAULT_TENANT, _id(first.upload_id), _pieces(first, request_iterator))
        return pb.ExtendUploadResponse(deposit=_deposit(row))

    async def GetDeposit(self, request: pb.GetDepositRequest, context: _Context) -> pb.GetDepositResponse:
        if bool(request.upload_id) == bool(request.uri):
            raise InvalidRequest(_wrong("upload_id", "either this or `uri` is expected"))
        if request.upload_id:
            row = await self._deposits.upload(DEFAULT_TENANT, _id(request.upload_id))
        else:
            row = await self._deposits.at(DEFAULT_TENANT, _path(request.uri))
        return pb.GetDepositResponse(deposit=_deposit(row))

    async def FinishUpload(
        self, request: pb.FinishUploadRequest, context: _Context
    ) -> AsyncIterator[pb.FinishUploadResponse]:
        upload_id = _id(request.upload_id)
        async for told in self._deposits.finish(DEFAULT_TENANT, upload_id, overwrite=request.overwrite):
            if isinstance(told, int):
                yield pb.FinishUploadResponse(verified_bytes=told)
            else:
                yield pb.FinishUploadResponse(verified_bytes=told.size_bytes, deposit=_deposit(told))

    async def ReadDeposit(
        self, request: pb.ReadDepositRequest, context: _Context
    ) -> AsyncIterator[pb.ReadDepositResponse]:
        row = await self._deposits.at(DEFAULT_TENANT, _path(request.uri))
        if request.upload_id and request.upload_id != row.id:
            raise MediactlError(Reason.INPUT_CHANGED, f"{uri_of(row)} was replaced by another file")
        for field, asked in (("offset", request.offset), ("length", request.length)):
            if not 0 <= asked <= row.size_bytes:
                raise InvalidRequest(_wrong(field, f"0 to {row.size_bytes} is expected, got {asked}"))
        yield pb.ReadDepositResponse(deposit=_deposit(row))
        async for data in self._deposits.read(row, request.offset, request.length):
            yield pb.ReadDepositResponse(data=data)

    async def DeleteDeposit(self, request: pb.DeleteDepositRequest, context: _Context) -> pb.DeleteDepositResponse:
        if bool(request.upload_id) == bool(request.uri):
            raise InvalidRequest(_wrong("upload_id", "either this or `uri` is expected"))
        existed = await self._deposits.drop(
            DropDeposit(
                DEFAULT_TENANT,
                deposit_id=_id(request.upload_id),
                path=_path(request.uri) if request.uri else "",
                attempt_id=_id(request.attempt_id, "attempt_id"),
            )
        )
        return pb.DeleteDepositResponse(existed=existed)


def _checked(request: pb.BeginUploadRequest) -> str:
    """The path of an attempt's output, or none. Raises InvalidRequest, naming every problem."""
    problems = []
    path = ""
    if bool(request.name) == bool(request.uri):
        problems.append(_wrong("name", "either this or `uri` is expected"))
    elif request.uri:
        try:
            path = deposit_path(request.uri)
        except ValueError as error:
            problems.append(_wrong("uri", str(error)))
        else:
            if not path.startswith("results/"):
                problems.append(_wrong("uri", "a file to be uploaded is named by `name`; this is for results"))
    elif (
        request.name in (".", "..")
        or not {"/", "\0"}.isdisjoint(request.name)
        or len(request.name.encode()) > MOST_NAME_BYTES
    ):
        told = f"the name of a file is expected, without a folder, at most {MOST_NAME_BYTES} bytes"
        problems.append(_wrong("name", told))
    if bool(request.attempt_id) != bool(request.uri) or not _fits(request.attempt_id):
        problems.append(_wrong("attempt_id", "the id of an attempt is expected with `uri`, and with it alone"))
    if request.size_bytes < 1:
        problems.append(_wrong("size_bytes", f"at least 1 is expected, got {request.size_bytes}"))
    if not _SHA256.fullmatch(request.sha256):
        problems.append(_wrong("sha256", "64 lower-case hexadecimal digits are expected"))
    if problems:
        raise InvalidRequest(*problems)
    return path


async def _pieces(
    first: pb.ExtendUploadRequest, rest: AsyncIterator[pb.ExtendUploadRequest]
) -> AsyncIterator[tuple[int, bytes]]:
    yield _piece(first)
    async for message in rest:
        yield _piece(message)


def _piece(message: pb.ExtendUploadRequest) -> tuple[int, bytes]:
    if message.offset < 0:
        raise InvalidRequest(_wrong("offset", f"at least 0 is expected, got {message.offset}"))
    if len(message.data) > PIECE_BYTES:
        raise InvalidRequest(_wrong("data", f"at most {PIECE_BYTES} bytes are expected, got {len(message.data)}"))
    return message.offset, message.data


def _path(uri: str) -> str:
    try:
        return deposit_path(uri)
    except ValueError as error:
        raise InvalidRequest(_wrong("uri", str(error))) from None


def _id(given: str, field: str = "upload_id") -> str:
    if not _fits(given):
        raise InvalidRequest(_wrong(field, "an id is expected"))
    return given


def _fits(given: str) -> bool:
    return given.isprintable() and len(given) <= MOST_ID


def _deposit(row: Record) -> pb.Deposit:
    return pb.Deposit(
        uri=uri_of(row),
        upload_id=row.id,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        received_bytes=row.received_bytes,
        whole=row.whole,
        job_id=row.job_id,
        create_time=timestamp(row.created_us),
        expire_time=timestamp(row.expires_us),
    )


def _wrong(field: str, message: str) -> Problem:
    return Problem(Reason.INVALID_ARGUMENT, field, message)
