"""The consumer: receive → decode → batch → insert → ack, until the shutdown."""

from eventmill.consumer.consumer import DRAIN_SECONDS, Consumer
from eventmill.consumer.trials import Trial, Verdict

__all__ = ["DRAIN_SECONDS", "Consumer", "Trial", "Verdict"]
