"""Settings of the SQS queue. Region, endpoint and credentials come from the AWS configuration."""

import json
import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from eventmill import PluginSettings, Reach, SettingsConfigDict

MAX_LEASE_SECONDS = 43_200  # the maximum of SQS, twelve hours
RETENTION_SECONDS = 14 * 86_400  # the maximum of SQS
# A backstop for poison messages. An outage of the store does not reach it, because nothing is received then.
MAX_RECEIVE_COUNT = 1_000


class SqsQueueSettings(PluginSettings):
    """Each setting is the variable EVENTMILL_QUEUE_SQS_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_SQS_")

    url: str = Field(description="the URL of a standard queue, `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`")
    dead_letter_url: str | None = Field(
        default=None, description="the URL of the dead-letter queue; default: the queue in the redrive policy"
    )
    lease_seconds: int = Field(
        default=120, ge=1, le=MAX_LEASE_SECONDS, description="seconds that a received message belongs to its receiver"
    )

    @field_validator("url", "dead_letter_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 (reading it validates it)
        except ValueError as error:
            raise ValueError(f"is not a URL: {error}") from None
        is_host = re.fullmatch(r"[\w.-]+|[0-9a-f:.]+", parts.hostname or "")
        if parts.scheme not in ("http", "https") or not is_host or len(parts.path.strip("/").split("/")) < 2:
            raise ValueError("must be the URL of a queue, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME")
        if parts.path.endswith(".fifo"):
            raise ValueError("names a FIFO queue, which is slower and drops equal bodies: use a standard queue")
        return url

    @property
    def place(self) -> str:
        return self.url

    @property
    def reach(self) -> Reach:
        return "network"

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]

    @property
    def dead_letter_name(self) -> str:
        return (self.dead_letter_url or f"{self.url}-dead").rsplit("/", 1)[-1]

    def attributes(self) -> dict[str, str]:
        """Return the attributes of a new queue."""
        return {"MessageRetentionPeriod": str(RETENTION_SECONDS), "VisibilityTimeout": str(self.lease_seconds)}

    def statements(self, retention_days: int | None = None) -> str:
        policy = {"RedrivePolicy": redrive_policy(f"arn:aws:sqs:REGION:ACCOUNT:{self.dead_letter_name}")}
        queues = {self.dead_letter_name: self.attributes(), self.name: self.attributes() | policy}
        command = "aws sqs create-queue --queue-name {} --attributes '{}'\n"
        return "".join(command.format(name, json.dumps(attributes)) for name, attributes in queues.items())


def redrive_policy(arn: str) -> str:
    """Return the attribute that makes `arn` the dead-letter queue."""
    return json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
