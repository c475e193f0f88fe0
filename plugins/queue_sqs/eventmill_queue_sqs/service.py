"""The queue and its dead-letter queue as resources: URLs, attributes, checks, creation."""

import json
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from eventmill import QueueMisconfigured, QueueUnavailable, describe_skew
from eventmill_queue_sqs.clients import DENIED, MISSING, Clients, code_of
from eventmill_queue_sqs.settings import MAX_RECEIVE_COUNT, RETENTION_SECONDS, SqsQueueSettings, redrive_policy

_SHORT_RETENTION_SECONDS = 4 * 86_400
_LOW_RECEIVE_COUNT = 100
_UNIT_BYTES = 64 * 1024
_MANY_IN_FLIGHT = 100_000  # SQS delivers no more messages at 120,000


class Service:
    """The queue and its dead-letter queue, as SQS describes them."""

    def __init__(self, clients: Clients, settings: SqsQueueSettings) -> None:
        self._clients = clients
        self._settings = settings
        self._dead_letter_url = settings.dead_letter_url
        self._server_time: float | None = None  # unix seconds, when SQS last answered

    async def url(self) -> str:
        return self._settings.url

    async def dead_letter_url(self) -> str:
        """Return the URL of the dead-letter queue. Raise QueueMisconfigured if there is none."""
        if self._dead_letter_url is None:
            arn = _target(await self.attributes(self._settings.url, "RedrivePolicy"))
            if arn is None:
                raise QueueMisconfigured(
                    "SQS: no dead-letter queue. Set EVENTMILL_QUEUE_SQS_DEAD_LETTER_URL, or: run `eventmill migrate`"
                )
            *_, account, name = arn.split(":")
            answer = await self._clients.send("get_queue_url", QueueName=name, QueueOwnerAWSAccountId=account)
            self._dead_letter_url = str(answer["QueueUrl"])
        return self._dead_letter_url

    async def attributes(self, url: str, *names: str) -> dict[str, str]:
        wanted = list(names) or ["All"]
        answer = await self._clients.send("get_queue_attributes", QueueUrl=url, AttributeNames=wanted)
        self._server_time = _time_of(answer)
        return dict(answer.get("Attributes", {}))

    async def check(self, url: str) -> list[str]:
        """Return warnings about the attributes of the queue. Raise QueueUnavailable if it cannot be used."""
        try:
            attributes = await self.attributes(url)
        except QueueMisconfigured as error:
            if code_of(error.__cause__) not in DENIED:
                raise
            return await self._probe(url)
        if attributes.get("FifoQueue") == "true":
            raise QueueMisconfigured("SQS: FIFO queues are not supported: choose a standard queue")
        if "QueueArn" not in attributes:
            raise QueueUnavailable("SQS: the server responds, but not like SQS")
        skew = [] if self._server_time is None else describe_skew(self._server_time, "SQS")
        return _warnings(attributes, is_dead=url == self._dead_letter_url) + skew

    async def migrate(self) -> None:
        """Create the queues that do not exist. Raise QueueMisconfigured if that is not permitted."""
        settings = self._settings
        existing = await self._find(settings.url)
        if existing is not None and _target(existing) and not settings.dead_letter_url:
            return
        dead_url = await self._ensure(settings.dead_letter_name, settings.attributes(), settings.dead_letter_url)
        if existing is not None and _target(existing):
            return
        policy = {"RedrivePolicy": redrive_policy((await self.attributes(dead_url, "QueueArn"))["QueueArn"])}
        if existing is None:
            await self._create(settings.name, settings.attributes() | policy, settings.url)
        else:
            await self._clients.send("set_queue_attributes", QueueUrl=settings.url, Attributes=policy)

    async def _ensure(self, name: str, attributes: dict[str, str], url: str | None) -> str:
        """Return the URL of a queue, and create it if it does not exist."""
        if url is not None and await self._find(url) is not None:
            return url
        return await self._create(name, attributes, url)

    async def _find(self, url: str) -> dict[str, str] | None:
        """Return the attributes of a queue, or None if it does not exist."""
        try:
            return await self.attributes(url)
        except QueueUnavailable as error:
            if code_of(error.__cause__) in MISSING:
                return None
            raise

    async def _create(self, name: str, attributes: dict[str, str], expected: str | None) -> str:
        try:
            answer = await self._clients.send("create_queue", QueueName=name, Attributes=attributes)
        except QueueUnavailable as error:
            if code_of(error.__cause__) != "QueueAlreadyExists":
                raise
            answer = await self._clients.send("get_queue_url", QueueName=name)
        url = str(answer["QueueUrl"])
        if expected is not None and urlsplit(url).path != urlsplit(expected).path:
            raise QueueMisconfigured(f"SQS: these credentials create {url}, but the settings name {expected}")
        return url

    async def _probe(self, url: str) -> list[str]:
        """Check the permission to send, with an empty batch, which SQS rejects after checking permissions."""
        try:
            await self._clients.send("send_message_batch", QueueUrl=url, Entries=[])
        except QueueUnavailable as error:
            if "EmptyBatchRequest" not in code_of(error.__cause__):
                raise
        return ["this role may not read the queue's attributes: its settings are not checked"]


def _target(attributes: dict[str, str]) -> str | None:
    """Return the ARN of the dead-letter queue."""
    policy: dict[str, Any] = json.loads(attributes.get("RedrivePolicy", "{}"))
    return policy.get("deadLetterTargetArn")


def _time_of(answer: dict[str, Any]) -> float | None:
    """Return the time of a response in unix seconds, by the clock of SQS."""
    try:
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None


def _set(is_dead: bool) -> str:
    url = "URL_OF_THE_DEAD_LETTER_QUEUE" if is_dead else '"$EVENTMILL_QUEUE_SQS_URL"'
    return f"aws sqs set-queue-attributes --queue-url {url} --attributes"


def _warnings(attributes: dict[str, str], *, is_dead: bool) -> list[str]:
    warnings = []
    retention_seconds = int(attributes.get("MessageRetentionPeriod", _SHORT_RETENTION_SECONDS))
    if retention_seconds < _SHORT_RETENTION_SECONDS:
        hours = retention_seconds / 3600
        warnings.append(
            f"SQS deletes messages after {hours:g} hours, and a longer outage of the store loses events:"
            f" run `{_set(is_dead)} MessageRetentionPeriod={RETENTION_SECONDS}`"
        )
    policy = json.loads(attributes.get("RedrivePolicy", "{}"))
    if int(policy.get("maxReceiveCount", _LOW_RECEIVE_COUNT)) < _LOW_RECEIVE_COUNT:
        count = policy["maxReceiveCount"]
        warnings.append(
            f"SQS moves messages to the dead letters after {count} receives: set maxReceiveCount to {MAX_RECEIVE_COUNT}"
        )
    if not policy and not is_dead:
        warnings.append("SQS has no redrive policy for this queue: run `eventmill migrate`")
    if int(attributes.get("MaximumMessageSize", _UNIT_BYTES)) < _UNIT_BYTES:
        size = attributes["MaximumMessageSize"]
        warnings.append(f"SQS rejects messages above {size} bytes: run `{_set(is_dead)} MaximumMessageSize=1048576`")
    in_flight = int(attributes.get("ApproximateNumberOfMessagesNotVisible", 0))
    if in_flight > _MANY_IN_FLIGHT:
        warnings.append(f"{in_flight} messages are in flight: SQS delivers no more at 120,000")
    return warnings
