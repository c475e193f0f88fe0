"""What one would write without packing: one SendMessage per event.

    python send_singly.py QUEUE_URL SECONDS < lines

Prints how many were sent.
"""

import asyncio
import itertools
import sys
import time

import aioboto3
from aiobotocore.config import AioConfig

IN_FLIGHT = 50


async def send(url: str, seconds: float, lines: list[str]) -> int:
    endpoint = "/".join(url.split("/")[:3])
    source, sent = itertools.cycle(lines), 0
    config = AioConfig(max_pool_connections=IN_FLIGHT)
    async with aioboto3.Session().client("sqs", endpoint_url=endpoint, config=config) as client:
        until = time.monotonic() + seconds

        async def work() -> None:
            nonlocal sent
            while time.monotonic() < until:
                await client.send_message(QueueUrl=url, MessageBody=next(source))
                sent += 1

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return sent


if __name__ == "__main__":
    print(asyncio.run(send(sys.argv[1], float(sys.argv[2]), sys.stdin.read().splitlines())))
