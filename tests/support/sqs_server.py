"""A program that serves the SQS protocol as documented, with faults on request.

    python sqs_server.py PORT

It speaks AWS JSON 1.0 and keeps the limits byte for byte: ten entries and 1 MiB per call, allowed characters, in-flight
cap, twelve hours of visibility. Order is best effort, as Amazon's; a stale receipt handle deletes nothing and says so
nowhere. POST /faults {"action" or "*", "kind", "after", "count"} makes calls fail, all of them with a count of -1; the
kinds are cut, lost, slow, hang, error, deny, throttle, partial, refuse, duplicate, short. GET /usage counts calls and
billing units.

With "short" a receive brings fewer messages than exist, as on Amazon's servers: messages are spread over eight, a call
gets at most two from each, and only some of the servers answer in time. A short poll asks some whether they have
messages or not, so it may bring none; a long poll brings at least one.
"""

import asyncio
import contextlib
import hashlib
import heapq
import itertools
import json
import random
import re
import sys
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

UNIT_BYTES = 64 * 1024
MAX_BYTES = 1024 * 1024
IN_FLIGHT = 120_000
TWELVE_HOURS = 43_200
ACCESS_KEY = "test"
SERVERS = 8
MESSAGES_PER_SERVER = 2  # that a call which answers short gets from one server
LONG_POLL_SERVERS, SHORT_POLL_SERVERS = 5, 3  # that answer such a call in time, at most
_SAMPLED = 200  # of the oldest messages
_CHARACTERS = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DEFAULTS = {"MessageRetentionPeriod": "345600", "VisibilityTimeout": "30", "MaximumMessageSize": str(MAX_BYTES)}


ACTIONS = {"create_queue", "get_queue_url", "get_queue_attributes", "set_queue_attributes", "receive_message"}
ACTIONS |= {"delete_queue", "send_message", "delete_message", "change_message_visibility"}


class Failure(Exception):
    """An answer that is an error: its code, its HTTP status."""

    def __init__(self, code: str, message: str = "", status: int = 400) -> None:
        super().__init__(message or code)
        self.code, self.status = code, status


@dataclass(slots=True)
class Message:
    body: str
    sent_ms: int
    server: int
    receives: int = 0
    received_at: float = 0.0
    visible_at: float = 0.0
    receipt: str = ""


@dataclass
class FakeQueue:
    name: str
    url: str
    attributes: dict[str, str]
    messages: dict[str, Message] = field(default_factory=dict)
    ready: deque[str] = field(default_factory=deque)
    hidden: list[tuple[float, str]] = field(default_factory=list)
    arrival: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def arn(self) -> str:
        return f"arn:aws:sqs:us-east-1:000000000000:{self.name}"

    def wake(self) -> None:
        now = time.monotonic()
        while self.hidden and self.hidden[0][0] <= now:
            _, key = heapq.heappop(self.hidden)
            message = self.messages.get(key)
            if message is not None and message.visible_at and message.visible_at <= now:
                message.visible_at = 0.0
                self.show(key)

    def show(self, key: str) -> None:
        self.ready.append(key)
        self.arrival.set()

    def hide(self, key: str, seconds: float) -> None:
        message = self.messages[key]
        message.visible_at = time.monotonic() + seconds
        heapq.heappush(self.hidden, (message.visible_at, key))

    def in_flight(self) -> int:
        return len(self.messages) - len(self.ready)


class Server:
    def __init__(self, address: str) -> None:
        self.address = address
        self.queues: dict[str, FakeQueue] = {}
        self.faults: dict[str, tuple[str, int, int]] = {}
        self.calls: Counter[str] = Counter()
        self.units: Counter[str] = Counter()
        self.numbers = itertools.count(1)
        self.random = random.Random(1)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        action = request.headers.get("X-Amz-Target", "").removeprefix("AmazonSQS.")
        body = await request.read()
        fault = self.next_fault(action)
        if fault == "cut":
            return self.cut(request)
        try:
            self.authorise(request, fault)
            if fault == "slow":
                await asyncio.sleep(7)
            if fault == "hang":
                await asyncio.sleep(600)
            answer = await self.answer(action, json.loads(body), fault)
        except Failure as failure:
            self.count(action, body, b"")
            content = {"__type": f"com.amazonaws.sqs#{failure.code}", "message": str(failure)}
            headers = {"x-amzn-query-error": f"{failure.code};Sender"}
            return web.json_response(content, status=failure.status, headers=headers)
        reply = json.dumps(answer).encode()
        self.count(action, body, reply)
        if fault == "lost":
            return self.cut(request)
        return web.Response(body=reply, content_type="application/x-amz-json-1.0")

    def cut(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    def next_fault(self, action: str) -> str:
        for key in (action, "*"):
            kind, after, count = self.faults.get(key, ("", 0, 0))
            if count:
                self.faults[key] = (kind, after - 1, count) if after else (kind, 0, count - 1)
                return "" if after else kind
        return ""

    def authorise(self, request: web.Request, fault: str) -> None:
        if f"Credential={ACCESS_KEY}/" not in request.headers.get("Authorization", ""):
            raise Failure("InvalidClientTokenId", "The security token included in the request is invalid.", 403)
        if fault == "deny":
            raise Failure("AccessDenied", "User is not authorized to perform this action", 403)
        if fault == "throttle":
            raise Failure("RequestThrottled", "Rate exceeded", 403)
        if fault == "error":
            raise Failure("InternalError", "We encountered an internal error.", 500)

    def count(self, action: str, body: bytes, reply: bytes) -> None:
        self.calls[action] += 1
        self.units[action] += max(1, -(-max(len(body), len(reply)) // UNIT_BYTES))

    async def answer(self, action: str, data: dict[str, Any], fault: str) -> dict[str, Any]:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", action.removesuffix("Batch")).lower()
        if name not in ACTIONS:
            raise Failure("UnknownOperationException", action)
        method = getattr(self, name)
        if action in ("CreateQueue", "GetQueueUrl"):
            return method(data)  # type: ignore[no-any-return]  # found by name
        queue = self.queues.get(str(data.get("QueueUrl", "")).rsplit("/", 1)[-1])
        if queue is None:
            raise Failure("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
        if action == "ReceiveMessage":
            return await self.receive_message(queue, data, fault)
        if "Entries" in data:
            return self.each(queue, method, data["Entries"], fault)
        return method(queue, data)  # type: ignore[no-any-return]  # found by name

    def each(self, queue: FakeQueue, method: Any, entries: list[dict[str, Any]], fault: str) -> dict[str, Any]:
        if not entries:
            raise Failure("AWS.SimpleQueueService.EmptyBatchRequest")
        if len(entries) > 10:
            raise Failure("AWS.SimpleQueueService.TooManyEntriesInBatchRequest")
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise Failure("AWS.SimpleQueueService.BatchEntryIdsNotDistinct")
        if sum(len(entry.get("MessageBody", "").encode()) for entry in entries) > MAX_BYTES:
            raise Failure("AWS.SimpleQueueService.BatchRequestTooLong")
        successful, failed = [], []
        for number, entry in enumerate(entries):
            if fault in ("partial", "refuse") and number % 2:
                failed.append(
                    {"Id": entry["Id"], "SenderFault": fault == "refuse", "Code": "InternalError", "Message": "no"}
                )
                continue
            try:
                successful.append({"Id": entry["Id"]} | method(queue, entry))
            except Failure as failure:
                failed.append({"Id": entry["Id"], "SenderFault": True, "Code": failure.code, "Message": str(failure)})
        return {"Successful": successful, "Failed": failed}

    # queues

    def create_queue(self, data: dict[str, Any]) -> dict[str, Any]:
        name = data["QueueName"]
        attributes = _DEFAULTS | data.get("Attributes", {})
        queue = self.queues.setdefault(name, FakeQueue(name, f"{self.address}/000000000000/{name}", attributes))
        if any(queue.attributes.get(key) != value for key, value in data.get("Attributes", {}).items()):
            raise Failure("QueueAlreadyExists", "A queue already exists with the same name and a different value")
        return {"QueueUrl": queue.url}

    def delete_queue(self, queue: FakeQueue, data: dict[str, Any]) -> dict[str, Any]:
        del self.queues[queue.name]
        return {}

    def get_queue_url(self, data: dict[str, Any]) -> dict[str, Any]:
        if data["QueueName"] not in self.queues:
            raise Failure("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
        return {"QueueUrl": self.queues[data["QueueName"]].url}

    def get_queue_attributes(self, queue: FakeQueue, data: dict[str, Any]) -> dict[str, Any]:
        queue.wake()
        numbers = {"ApproximateNumberOfMessages": len(queue.ready), "ApproximateNumberOfMessagesDelayed": 0}
        numbers["ApproximateNumberOfMessagesNotVisible"] = queue.in_flight()
        known = queue.attributes | {"QueueArn": queue.arn} | {name: str(number) for name, number in numbers.items()}
        names = data.get("AttributeNames", [])
        return {"Attributes": {name: value for name, value in known.items() if name in names or "All" in names}}

    def set_queue_attributes(self, queue: FakeQueue, data: dict[str, Any]) -> dict[str, Any]:
        queue.attributes |= data["Attributes"]
        return {}

    # messages

    def send_message(self, queue: FakeQueue, entry: dict[str, Any]) -> dict[str, Any]:
        body = entry["MessageBody"]
        if not body or len(body.encode()) > int(queue.attributes["MaximumMessageSize"]):
            raise Failure("InvalidParameterValue", "One or more parameters are invalid: message length")
        if _CHARACTERS.search(body):
            raise Failure("InvalidMessageContents")
        key = str(uuid.uuid4())
        queue.messages[key] = Message(body, time.time_ns() // 1_000_000, self.random.randrange(SERVERS))
        queue.show(key)
        return {"MessageId": key, "MD5OfMessageBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()}

    async def receive_message(self, queue: FakeQueue, data: dict[str, Any], fault: str) -> dict[str, Any]:
        count, wait = data.get("MaxNumberOfMessages", 1), data.get("WaitTimeSeconds", 0)
        if not 1 <= count <= 10 or not 0 <= wait <= 20:
            raise Failure("InvalidParameterValue", "MaxNumberOfMessages or WaitTimeSeconds")
        until = time.monotonic() + wait
        while True:
            queue.wake()
            if queue.in_flight() >= IN_FLIGHT and not wait:
                raise Failure("OverLimit")
            if queue.ready and queue.in_flight() < IN_FLIGHT:
                return {"Messages": list(self.take(queue, self.choose(queue, count, wait, fault), data, fault))}
            left = until - time.monotonic()
            if left <= 0:
                return {}
            queue.arrival.clear()
            soonest = queue.hidden[0][0] - time.monotonic() if queue.hidden else left
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(queue.arrival.wait(), max(0.001, min(left, soonest)))

    def choose(self, queue: FakeQueue, count: int, wait: int, fault: str) -> list[str]:
        """Return keys to deliver: roughly the oldest, or with "short" those that a sample of servers has."""
        if fault == "short":
            keys = self.sample(queue, is_long=wait > 0)[:count]
            for key in keys:
                queue.ready.remove(key)
            return keys
        keys = []
        for _ in range(min(count, len(queue.ready))):
            place = self.random.randrange(min(20, len(queue.ready)))
            key, queue.ready[place] = queue.ready[place], queue.ready[0]
            queue.ready.popleft()
            keys.append(key)
        return keys

    def sample(self, queue: FakeQueue, *, is_long: bool) -> list[str]:
        held: dict[int, list[str]] = defaultdict(list)
        for key in itertools.islice(queue.ready, _SAMPLED):
            held[queue.messages[key].server].append(key)
        servers = list(held) if is_long else range(SERVERS)
        most = LONG_POLL_SERVERS if is_long else SHORT_POLL_SERVERS
        heard = self.random.sample(servers, min(len(servers), self.random.randint(1, most)))
        return [key for server in heard for key in held[server][:MESSAGES_PER_SERVER]]

    def take(self, queue: FakeQueue, keys: list[str], data: dict[str, Any], fault: str) -> Iterable[dict[str, Any]]:
        lease = data.get("VisibilityTimeout", int(queue.attributes["VisibilityTimeout"]))
        for key in keys:
            message = queue.messages[key]
            message.receives += 1
            if self.is_moved(queue, key, message):
                continue
            message.received_at = time.monotonic()
            message.receipt = f"{key}#{next(self.numbers)}"
            if fault == "duplicate":
                queue.show(key)
            else:
                queue.hide(key, lease)
            attributes = {"ApproximateReceiveCount": str(message.receives), "SentTimestamp": str(message.sent_ms)}
            yield {"MessageId": key, "Body": message.body, "ReceiptHandle": message.receipt, "Attributes": attributes}

    def is_moved(self, queue: FakeQueue, key: str, message: Message) -> bool:
        """Return whether the redrive policy moved the message."""
        policy = json.loads(queue.attributes.get("RedrivePolicy", "{}"))
        if not policy or message.receives <= int(policy["maxReceiveCount"]):
            return False
        dead = self.queues[policy["deadLetterTargetArn"].rsplit(":", 1)[-1]]
        dead.messages[key] = queue.messages.pop(key)
        dead.show(key)
        return True

    def delete_message(self, queue: FakeQueue, entry: dict[str, Any]) -> dict[str, Any]:
        key = entry["ReceiptHandle"].partition("#")[0]
        message = queue.messages.get(key)
        if message is not None and message.receipt == entry["ReceiptHandle"]:
            del queue.messages[key]
            if not message.visible_at:
                queue.ready.remove(key)
        return {}

    def change_message_visibility(self, queue: FakeQueue, entry: dict[str, Any]) -> dict[str, Any]:
        queue.wake()
        key, seconds = entry["ReceiptHandle"].partition("#")[0], entry["VisibilityTimeout"]
        message = queue.messages.get(key)
        if message is None or message.receipt != entry["ReceiptHandle"]:
            raise Failure("InvalidParameterValue", "The receipt handle has expired")
        if not message.visible_at:
            raise Failure("AWS.SimpleQueueService.MessageNotInflight")
        if not 0 <= seconds <= TWELVE_HOURS or time.monotonic() + seconds > message.received_at + TWELVE_HOURS:
            raise Failure("InvalidParameterValue", "Total VisibilityTimeout is beyond the limit of 43200 seconds")
        if seconds:
            queue.hide(key, seconds)
        else:
            message.visible_at = 0.0
            queue.show(key)
        return {}

    # the tests' own

    async def set_faults(self, request: web.Request) -> web.Response:
        fault = await request.json()
        self.faults[fault["action"]] = (fault["kind"], fault["after"], fault["count"])
        return web.Response()

    async def usage(self, request: web.Request) -> web.Response:
        waiting = {queue.name: len(queue.messages) for queue in self.queues.values()}
        return web.json_response({"calls": dict(self.calls), "units": dict(self.units), "waiting": waiting})


async def serve(port: int) -> None:
    server = Server("")
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/faults", server.set_faults)
    app.router.add_get("/usage", server.usage)
    app.router.add_post("/", server.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, backlog=1024)
    await site.start()
    server.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    sys.stdout.write(f"listening at {runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
