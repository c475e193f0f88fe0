"""Reads connections in pieces: uvloop would read up to 8 MB from each connection in one pass of the event loop."""

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from eventmill.runtime.connections import Connections
from eventmill.runtime.protocol import Connection


def open_connection(
    config: Config,
    server_state: ServerState,
    app_state: dict[str, Any],
    _loop: Any = None,
    *,
    connections: Connections,
) -> "Pieces":
    """Return the protocol of a new connection. uvicorn calls this."""
    return Pieces(Connection(config, server_state, app_state, connections), connections.buffer)


class Pieces(asyncio.BufferedProtocol):
    """Passes what a transport reads on to a connection, at most one buffer at a time."""

    def __init__(self, connection: Connection, buffer: memoryview) -> None:
        self._connection = connection
        self._buffer = buffer

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._connection.data_received(bytes(self._buffer[:nbytes]))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connection.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()
