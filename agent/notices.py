"""Notices of the host: EC2's spot interruptions and scheduled events, read from the instance metadata service (IMDSv2).

Silence withdraws nothing: while the service does not answer, what it said last stands.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import structlog

from agent.core.notices import Notice, rebalance_recommendation, scheduled_events, spot_interruption, stance

log = structlog.get_logger()

PATIENCE_S = 2.0
"""For one answer. The service is in the host itself."""
TOKEN_S = 21_600
MOST_BYTES = 1 << 16

_SPOT = ("latest/meta-data/spot/instance-action", spot_interruption)
_SCHEDULED = ("latest/meta-data/events/maintenance/scheduled", scheduled_events)
_REBALANCE = ("latest/meta-data/events/recommendations/rebalance", rebalance_recommendation)


class Unavailable(Exception):
    """The service does not answer, or nothing that can be understood."""


class Metadata:
    """The instance metadata service at a base URL. `heed_rebalance`: a recommendation to leave counts as a notice."""

    def __init__(self, session: aiohttp.ClientSession, url: str, *, heed_rebalance: bool) -> None:
        self._session = session
        self._url = url.rstrip("/")
        self._sources = (_SPOT, _SCHEDULED, *((_REBALANCE,) if heed_rebalance else ()))
        self._token = ""

    async def notices(self) -> list[Notice]:
        """All that are in force. Raises Unavailable."""
        found: list[Notice] = []
        for path, read in self._sources:
            text = await self._get(path)
            try:
                found += read(text) if text else []
            except ValueError as error:
                raise Unavailable(f"{path} can't be understood: {error}") from error
        return found

    async def _get(self, path: str) -> str:
        """Empty: there is nothing of the kind."""
        status, text = await self._with_token(path)
        if status == 401:
            # Expired, or the service has been restarted.
            self._token = ""
            status, text = await self._with_token(path)
        match status:
            case 200:
                return text.strip()
            case 404:
                return ""
            case _:
                raise Unavailable(f"{path} answers {status}")

    async def _with_token(self, path: str) -> tuple[int, str]:
        if not self._token:
            asked = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
            status, self._token = await self._ask("PUT", "latest/api/token", asked)
            if status != 200:
                self._token = ""
                raise Unavailable(f"it gives no token: {status}")
        return await self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})

    async def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        try:
            async with self._session.request(
                method, f"{self._url}/{path}", headers=headers, allow_redirects=False
            ) as answer:
                body = bytearray()
                async for piece in answer.content.iter_any():
                    body += piece
                    if len(body) > MOST_BYTES:
                        raise Unavailable(f"{path} is longer than {MOST_BYTES} bytes")
        except TimeoutError:
            raise Unavailable(f"no answer within {PATIENCE_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(str(error) or type(error).__name__) from error
        return answer.status, body.decode("utf-8", "replace")


@asynccontextmanager
async def metadata_at(url: str, *, heed_rebalance: bool = False) -> AsyncIterator[Metadata]:
    """The service, usable within the block. No proxy is asked, whatever the environment says."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
        yield Metadata(session, url, heed_rebalance=heed_rebalance)


class Heed:
    """Turns notices into what the agent does. `look` every few seconds."""

    def __init__(
        self,
        metadata: Metadata,
        *,
        say: Callable[[str], None],
        hand_back: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`say` hears why nothing new is to be taken, empty for nothing; `hand_back` that what runs is to be given to
        others, again at each look as long as that is so.
        """
        self._metadata = metadata
        self._say = say
        self._hand_back = hand_back
        self._clock = clock
        self._notices: list[Notice] = []
        self._trouble = ""

    async def look(self) -> None:
        try:
            self._notices = await self._metadata.notices()
            trouble = ""
        except Unavailable as error:
            trouble = str(error)
        if trouble and not self._trouble:
            log.warning("notices of the host can't be heard; what it said last stands", message=trouble)
        if self._trouble and not trouble:
            log.info("notices of the host are heard again")
        self._trouble = trouble
        now = stance(self._notices, self._clock())
        self._say(now.reason)
        if now.hand_back:
            self._hand_back(now.reason)
