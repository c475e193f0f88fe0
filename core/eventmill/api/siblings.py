"""What one worker of several asks the others, since each remembers only its own requests."""

from collections.abc import Mapping
from typing import Any, Protocol

from starlette.types import Scope

_ASKED = b"x-eventmill-sibling"


class Workers(Protocol):
    """Reaches the other workers."""

    async def fetch(self, path: str, query: str, headers: Mapping[str, str]) -> tuple[list[Any], int]:
        """Return the JSON responses of the workers that answer, and the number of those that do not."""


class Siblings:
    """The other workers of this server; none without `workers`."""

    def __init__(self, workers: Workers | None = None) -> None:
        self._workers = workers

    async def ask(self, scope: Scope, path: str, query: str, project: str) -> tuple[list[Any], int]:
        """Return the answers of the other workers about a project, and how many do not answer.

        There are none if one of them asks this one.
        """
        if self._workers is None or any(name == _ASKED for name, _ in scope["headers"]):
            return [], 0
        return await self._workers.fetch(path, query, {"X-Project": project, _ASKED.decode(): "1"})
