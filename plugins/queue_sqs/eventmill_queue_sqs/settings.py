"""Settings of the SQS queue. Region, endpoint and credentials come from where every AWS program takes them."""

import json
import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from eventmill import PluginSettings, Reach, SettingsConfigDict

MAX_LEASE_SECONDS = 43_200  # SQS hides a message for twelve hours at most
RETENTION_SECONDS = 14 * 86_400  # the longest that SQS knows
# A backstop for messages that kill the process. An outage of the store cannot reach it: nothing is received then.
MAX_RECEIVE_COUNT = 1_000


class SqsQueueSettings(PluginSettings):
    """Every field is the variable EVENTMILL_QUEUE_SQS_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EVENTMILL_QUEUE_SQS_")

    url: str = Field(description="the queue's URL, `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`; no FIFO queue")
    dead_letter_url: str | None = Field(
        default=None, description="where dead letters go; default: the queue named in the redrive policy"
    )
    lease_seconds: int = Field(
        default=120, ge=1, le=MAX_LEASE_SECONDS, description="how long a received message is the receiver's alone"
    )

    @field_validator("url", "dead_letter_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 (it is read to be checked)
        except ValueError as error:
            raise ValueError(f"is no URL: {error}") from None
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
        """What a queue of ours should be like."""
        return {"MessageRetentionPeriod": str(RETENTION_SECONDS), "VisibilityTimeout": str(self.lease_seconds)}

    def statements(self) -> str:
        policy = {"RedrivePolicy": redrive_policy(f"arn:aws:sqs:REGION:ACCOUNT:{self.dead_letter_name}")}
        queues = {self.dead_letter_name: self.attributes(), self.name: self.attributes() | policy}
        command = "aws sqs create-queue --queue-name {} --attributes '{}'\n"
        return "".join(command.format(name, json.dumps(attributes)) for name, attributes in queues.items())


def redrive_policy(arn: str) -> str:
    """The attribute that makes `arn` the dead-letter queue."""
    return json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVE_COUNT})
