"""The way to SQS: a client for sending and one for receiving, and what their errors mean."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from eventmill import QueueMisconfigured, QueueUnavailable

T = TypeVar("T")

CONNECT_SECONDS = 1.5
SEND_SECONDS = 5
RECEIVE_SECONDS = 25  # longer than the longest wait for a message
_CONNECTIONS = 50

DENIED = {"AccessDenied", "AccessDeniedException", "KmsAccessDenied", "KMS.AccessDeniedException"}
MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
MISCONFIGURED = (
    DENIED
    | MISSING
    | {
        "AuthFailure",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidAddress",
        "InvalidClientTokenId",
        "InvalidSecurity",
        "KmsDisabled",
        "KmsInvalidKeyUsage",
        "KmsNotFound",
        "KmsOptInRequired",
        "MissingAuthenticationToken",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "UnsupportedOperation",
    }
)


class Clients:
    """Made at their first use: looking for credentials may ask the network. A long poll keeps a connection to
    itself, so receiving has a pool of its own. The driver repeats nothing: core does."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._clients: dict[int, Any] = {}
        self._lock = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def send(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Call SQS by the client for all that answers at once. Raises QueueUnavailable."""
        return await self._call(SEND_SECONDS, call)

    async def receive(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Call SQS by the client whose calls may wait. Raises QueueUnavailable."""
        return await self._call(RECEIVE_SECONDS, call)

    async def close(self) -> None:
        await self._stack.aclose()

    async def _call(self, read_seconds: int, call: Callable[[Any], Awaitable[T]]) -> T:
        try:
            if read_seconds not in self._clients:
                async with self._lock:
                    if read_seconds not in self._clients:
                        self._clients[read_seconds] = await self._open(read_seconds)
            return await call(self._clients[read_seconds])
        except (BotoCoreError, ClientError) as error:
            raise explain(error) from error

    async def _open(self, read_seconds: int) -> Any:
        config = AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=read_seconds,
            max_pool_connections=_CONNECTIONS,
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        client = aioboto3.Session().client(
            "sqs", region_name=self._region(), endpoint_url=self._endpoint(), config=config
        )
        return await self._stack.enter_async_context(client)

    def _region(self) -> str | None:
        """The one in the URL; of other addresses the one that the environment or the AWS configuration names."""
        named = re.match(r"sqs\.([a-z0-9-]+)\.amazonaws\.com", self._url.hostname or "")
        return named[1] if named else os.environ.get("AWS_REGION")

    def _endpoint(self) -> str | None:
        """The URL's own server where it is not Amazon's and the environment names none."""
        if "AWS_ENDPOINT_URL_SQS" in os.environ or "AWS_ENDPOINT_URL" in os.environ:
            return None
        is_amazon = re.search(r"\.amazonaws\.com(\.cn)?$", self._url.hostname or "")
        return None if is_amazon else f"{self._url.scheme}://{self._url.netloc}"


def code_of(error: BaseException | None) -> str:
    """SQS's error code; "" for a network that failed."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def explain(error: Exception) -> QueueUnavailable:
    """The exception for an error of the driver."""
    words = f"SQS: {error}"
    if isinstance(error, NoCredentialsError | PartialCredentialsError | NoRegionError):
        return QueueMisconfigured(f"{words} (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role; AWS_REGION)")
    return (QueueMisconfigured if code_of(error) in MISCONFIGURED else QueueUnavailable)(words)
