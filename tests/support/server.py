"""The HTTP server in this process, for tests that look at its objects."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from eventmill.runtime.connections import Connections
from eventmill.runtime.pieces import open_connection
from support.mill import wait_until


@asynccontextmanager
async def serving(app: ASGIApp, keep_alive_seconds: int = 5) -> AsyncIterator[tuple[int, ServerState]]:
    """Yield the port and the state of a server with eventmill's protocol."""
    connections = Connections(1000)
    config = uvicorn.Config(
        app,
        host="127.0.0.1",
        port=0,
        http=partial(open_connection, connections=connections),  # type: ignore[arg-type]  # uvicorn calls it
        log_config=None,
        lifespan="off",
        timeout_keep_alive=keep_alive_seconds,
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    watching = asyncio.create_task(connections.watch())
    await asyncio.to_thread(wait_until, lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1], server.server_state
    finally:
        server.should_exit = True
        watching.cancel()
        await running
