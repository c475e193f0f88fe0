"""The clients of SQS, one for sending and one for receiving, and the table of their errors."""

import asyncio
import os
import re
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aioboto3
from aiobotocore.config import AioConfig
from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from eventmill import QueueMisconfigured, QueueUnavailable
from eventmill_queue_sqs.usage import Usage

CONNECT_SECONDS = 1.5
SEND_SECONDS = 5
READ_SECONDS = 60  # of the driver; the limits below are shorter and apply to a call as a whole
RECEIVE_GRACE_SECONDS = 3  # after the wait for a message; a shutdown waits for a hanging receive
_CONNECTIONS = 50
_USER_AGENT = "eventmill"

# The credentials of the client do not work, or no longer: a new client looks them up again.
CREDENTIALS = {
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "MissingAuthenticationToken",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
DENIED = {"AccessDenied", "AccessDeniedException", "KmsAccessDenied", "KMS.AccessDeniedException"}
MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"}
MISCONFIGURED = CREDENTIALS | DENIED | MISSING
MISCONFIGURED |= {
    "InvalidAddress",
    "KmsDisabled",
    "KmsInvalidKeyUsage",
    "KmsNotFound",
    "KmsOptInRequired",
    "OptInRequired",
}
MISCONFIGURED |= {"UnknownOperationException", "UnsupportedOperation"}
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, NoRegionError, CredentialRetrievalError)
RENEW_SECONDS = 5.0


class Clients:
    """The clients, created at their first use, because looking up credentials may use the network.

    A long poll occupies a connection, so receiving has a separate pool. The driver does not retry; core does.
    """

    def __init__(self, url: str) -> None:
        self.usage = Usage()
        self._url = urlsplit(url)
        self._opened: dict[str, Opened] = {}
        self._lock = asyncio.Lock()
        self._is_closed = False

    async def send(self, operation: str, payload_bytes: int = 0, **parameters: Any) -> Any:
        """Call an operation that returns at once; its payload matters for the price. Raise QueueUnavailable."""
        self.usage.count(operation, payload_bytes)
        return await self._call("send", SEND_SECONDS, operation, parameters)

    async def receive(self, wait_seconds: int, **parameters: Any) -> Any:
        """Receive messages, and wait this long for one. Raise QueueUnavailable."""
        answer: dict[str, Any] = {}
        try:
            answer = await self._call("receive", wait_seconds + RECEIVE_GRACE_SECONDS, "receive_message", parameters)
        finally:
            self.usage.count("receive_message", sum(len(message["Body"]) for message in answer.get("Messages", ())))
        return answer

    async def close(self) -> None:
        async with self._lock:
            self._is_closed = True
            for opened in self._opened.values():
                await opened.stack.aclose()

    async def _call(self, name: str, seconds: int, operation: str, parameters: dict[str, Any]) -> Any:
        try:
            opened = await self._client(name)
            opened.calls += 1
            try:
                async with asyncio.timeout(seconds):
                    return await getattr(opened.client, operation)(**parameters)
            except (*_NO_CREDENTIALS, ClientError) as error:
                opened.is_stale |= isinstance(error, _NO_CREDENTIALS) or code_of(error) in CREDENTIALS
                raise
            finally:
                opened.calls -= 1
        except QueueUnavailable:
            raise
        except TimeoutError:
            raise QueueUnavailable("SQS did not respond in time") from None
        except Exception as error:
            raise explain(error) from error

    async def _client(self, name: str) -> "Opened":
        """Return the client. Replace one whose credentials failed, at most every five seconds, when it is unused."""
        async with self._lock:
            if self._is_closed:
                raise QueueUnavailable("SQS: this queue was closed")
            opened = self._opened.get(name)
            if opened is not None and opened.is_replaceable:
                del self._opened[name]
                await opened.stack.aclose()
                opened = None
            if opened is None:
                opened = self._opened[name] = await self._open()
            return opened

    async def _open(self) -> "Opened":
        config = AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=_CONNECTIONS,
            parameter_validation=False,  # SQS validates, and the driver's validation takes 10 % of a call
            user_agent=_USER_AGENT,  # the driver would build a longer one for each call
            retries={"total_max_attempts": 1, "mode": "standard"},
        )
        client = aioboto3.Session().client(
            "sqs", region_name=self._region(), endpoint_url=self._endpoint(), config=config
        )
        stack = AsyncExitStack()
        return Opened(await stack.enter_async_context(client), stack, time.monotonic())

    def _region(self) -> str | None:
        """Return the region in the URL, or the one of the environment or the AWS configuration."""
        named = re.search(r"\b[a-z]{2}(-[a-z]+)+-\d\b", self._url.hostname or "")
        is_amazon = re.search(r"\.amazonaws\.com(\.cn)?$", self._url.hostname or "")
        return named[0] if named and is_amazon else os.environ.get("AWS_REGION")

    def _endpoint(self) -> str | None:
        """Return the server in the URL, unless the environment names another."""
        if "AWS_ENDPOINT_URL_SQS" in os.environ or "AWS_ENDPOINT_URL" in os.environ:
            return None
        return f"{self._url.scheme}://{self._url.netloc}"


@dataclass(slots=True)
class Opened:
    """A client, and the state that replacing it needs."""

    client: Any
    stack: AsyncExitStack
    since: float
    calls: int = 0
    is_stale: bool = False

    @property
    def is_replaceable(self) -> bool:
        return self.is_stale and not self.calls and time.monotonic() - self.since > RENEW_SECONDS


def code_of(error: BaseException | None) -> str:
    """Return the error code of SQS, or "" for a network error."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def explain(error: Exception) -> QueueUnavailable:
    """Return the exception for an error of the driver."""
    text = f"SQS: {error}"
    if isinstance(error, _NO_CREDENTIALS):
        return QueueMisconfigured(f"{text} (set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role; AWS_REGION)")
    is_wrong = code_of(error) in MISCONFIGURED or isinstance(error, ValueError)  # for example an invalid endpoint
    return (QueueMisconfigured if is_wrong else QueueUnavailable)(text)
