"""Quarantine: settle failing messages separately, and poison messages in subprocesses, so that the others flow."""

import asyncio
import logging
import time
from collections.abc import Sequence

from eventmill import frames
from eventmill.consumer.backoff import Breaker
from eventmill.consumer.dead_letters import CROWDED_DELAY_SECONDS, DeadLetters, Letter
from eventmill.consumer.inserter import Inserter
from eventmill.consumer.leases import Leases
from eventmill.consumer.messages import Message, halves, open_message
from eventmill.consumer.telemetry import ConsumerTelemetry
from eventmill.consumer.trials import Trials, Verdict
from eventmill.errors import EventmillError
from eventmill.interfaces import Delivery

log = logging.getLogger(__name__)

ISOLATIONS = 16  # groups of messages that are isolated concurrently
UNKNOWN_DELAY_SECONDS = 30.0
FAILED_DELAY_SECONDS = (5.0, 300.0)  # doubles with every attempt


class Quarantine:
    """Settles messages in tasks of `group`.

    Attributes:
        is_trying: whether a trial is running; further quarantined messages wait.
    """

    def __init__(
        self,
        inserter: Inserter,
        breaker: Breaker,
        leases: Leases,
        dead_letters: DeadLetters,
        trials: Trials,
        group: asyncio.TaskGroup,
        max_events: int,
        telemetry: ConsumerTelemetry,
    ) -> None:
        self._telemetry = telemetry
        self.is_trying = False
        self._inserter = inserter
        self._breaker = breaker
        self._leases = leases
        self._dead_letters = dead_letters
        self._trials = trials
        self._group = group
        self._max_events = max_events
        self._events = 0
        self._turns = asyncio.Semaphore(ISOLATIONS)
        self._dissecting = asyncio.Lock()

    def isolate(self, messages: Sequence[Message]) -> None:
        """Settle messages in small groups. Release those that exceed the limit with a delay."""
        self._telemetry.isolated.inc(len(messages))
        group: list[Message] = []
        crowded: list[Delivery] = []
        for message in messages:
            if self._events and self._events + message.events > self._max_events:
                crowded.append(message.delivery)
                continue
            if sum(other.events for other in group) + message.events > frames.MAX_FRAME_EVENTS:
                self._start(group)
                group = []
            group.append(message)
            self._events += message.events
        self._start(group)
        if crowded:
            self._dead_letters.release(crowded, CROWDED_DELAY_SECONDS)

    def _start(self, messages: Sequence[Message]) -> None:
        if messages:
            self._group.create_task(self._isolate(messages))

    async def _isolate(self, messages: Sequence[Message]) -> None:
        try:
            async with self._turns:
                await self._breaker.wait()
                outcome = await self._inserter.isolate([row for message in messages for row in message.rows])
            failed = dict.fromkeys(row.delivery for row in outcome.failed)
            letters: dict[Delivery, list[Letter]] = {}
            for row, why in outcome.rejected:
                letter = Letter("rejected", frames.encode_frame([row.line]), why)
                letters.setdefault(row.delivery, []).append(letter)
            for delivery in failed:
                await self._put_off(delivery)
            for delivery, own in letters.items():
                if delivery not in failed:
                    self._dead_letters.dead_letter(delivery, own)
            stored = [message for message in messages if message.delivery not in failed | letters]
            self._telemetry.store(stored, time.time())
            await self._leases.ack([message.delivery for message in stored])
        finally:
            self._events -= sum(message.events for message in messages)

    async def _put_off(self, delivery: Delivery) -> None:
        """Release a message on which the store fails, with a delay that grows with its attempts."""
        first, longest = FAILED_DELAY_SECONDS
        delay = min(longest, first * 2 ** min(delivery.attempts - 1, 16))
        log.warning("the store fails on events of a message: retrying it in %g s", delay)
        await self._leases.release([delivery], delay)

    async def try_quarantined(self, messages: Sequence[Message]) -> None:
        """Settle the messages that a subprocess survives, each alone, and dissect those that crash it."""
        self._telemetry.quarantined.inc(len(messages))
        log.warning("%d messages were received too often: processing them in a subprocess", len(messages))
        groups = [messages]
        while groups:
            group = groups.pop()
            verdict = await self._trials.verdict([message.body for message in group])
            if verdict is Verdict.SURVIVED:
                opened = [self._dead_letters.open(message.delivery) for message in group]
                for survivor in opened:
                    self.isolate([survivor] if survivor is not None else [])
            elif verdict is Verdict.UNKNOWN:
                log.error("%d messages could not be processed in a subprocess: releasing them", len(group))
                self._dead_letters.release([message.delivery for message in group], UNKNOWN_DELAY_SECONDS)
            elif len(group) > 1:
                groups += halves(group)
            else:
                self._group.create_task(self._dissect(group[0]))

    async def _dissect(self, message: Message) -> None:
        """Find the events of a message that crash every subprocess, by halving, and store the others."""
        delivery = message.delivery
        async with self._dissecting:
            try:
                parts = await self._trials.find_survivors(frames.split_frame(message.body))
            except EventmillError as error:
                self._dead_letters.dead_letter(delivery, [Letter("poison", message.body, error)])
                return
            if parts is None:
                self._dead_letters.release([delivery], UNKNOWN_DELAY_SECONDS)
                return
            survivors, letters = parts
            failed = 0
            for survivor in survivors:  # a subprocess survived each part alone, so insert it alone
                body = frames.encode_frame(survivor)
                try:
                    rows = open_message(delivery, body).rows
                except EventmillError as error:
                    letters.append(Letter("undecodable", body, error))
                    continue
                outcome = await self._inserter.isolate(rows)
                failed += len(outcome.failed)
                letters += [Letter("rejected", frames.encode_frame([row.line]), why) for row, why in outcome.rejected]
        if failed:
            self._dead_letters.release([delivery], UNKNOWN_DELAY_SECONDS)
        elif letters:
            self._dead_letters.dead_letter(delivery, letters)
        else:
            await self._leases.ack([delivery])
