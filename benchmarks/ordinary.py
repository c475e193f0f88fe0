"""What one would write without eventmill: a FastAPI route with a pydantic model and one XADD per event.

python ordinary.py PORT REDIS_URL
"""

import sys
from typing import Any

import redis.asyncio
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel


class Event(BaseModel):
    event_name: str
    channel: str
    user_id: str
    timestamp: int
    campaign_id: str = ""
    tags: list[str] = []
    metadata: dict[str, Any] = {}


def create_app(url: str) -> FastAPI:
    app = FastAPI()
    client = redis.asyncio.Redis(connection_pool=redis.asyncio.BlockingConnectionPool.from_url(url, timeout=60))

    @app.post("/events", status_code=202)
    async def post_event(event: Event) -> dict[str, str]:
        await client.xadd("ordinary", {"event": event.model_dump_json()})
        return {"status": "accepted"}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[2]), port=int(sys.argv[1]), access_log=False, log_level="warning")
