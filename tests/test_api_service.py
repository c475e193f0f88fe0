"""Health, documentation, further routes, and what is answered where there is nothing."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

import eventmill_queue_memory
from eventmill import HttpApp, PluginError, Queue, QueueUnavailable, Services, Store, StoreUnavailable
from eventmill.api.app import App
from eventmill.testing import make_event
from eventmill_queue_memory.settings import MemoryQueueSettings
from support.mill import Mill, running_mill
from support.proxies import QueueProxy, StoreProxy

pytestmark = pytest.mark.anyio


@pytest.fixture
async def mill() -> AsyncIterator[Mill]:
    async with running_mill() as mill:
        yield mill


class QueueDown(QueueProxy):
    async def check(self) -> list[str]:
        raise QueueUnavailable("cannot reach redis://user:secret@10.0.0.1")


class QueueHangs(QueueProxy):
    async def check(self) -> list[str]:
        await asyncio.sleep(60)
        return []


class StoreDown(StoreProxy):
    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.is_down = False

    async def check(self) -> list[str]:
        if self.is_down:
            raise StoreUnavailable("cannot reach http://user:secret@10.0.0.1")
        return []


@pytest.mark.parametrize("path", ["/health", "/health/live"])
async def test_a_process_is_alive_whatever_else_is_broken(path: str) -> None:
    async with running_mill(QueueDown, StoreDown) as mill:
        answer = await mill.client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_health_may_be_looked_up_without_a_body(mill: Mill, path: str) -> None:
    assert (await mill.client.head(path)).status_code == 200


async def test_a_memory_queue_that_is_full_is_not_ready() -> None:
    async with eventmill_queue_memory.backend.open(MemoryQueueSettings(max_bytes=1024 * 1024)) as queue:
        assert await queue.check()
        await queue.publish([b"x" * 512 * 1024] * 2, time.monotonic() + 1)
        with pytest.raises(QueueUnavailable, match="full"):
            await queue.check()


async def test_a_whole_service_is_ready(mill: Mill) -> None:
    answer = await mill.client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["queue"]["warnings"] == ["messages in the memory queue are lost on exit"]


@pytest.mark.parametrize(("queue", "trouble"), [(QueueDown, "QueueUnavailable"), (QueueHangs, "Timeout")])
async def test_without_the_queue_it_is_not_ready(queue: Callable[[Queue], Queue], trouble: str) -> None:
    async with running_mill(queue) as mill:
        started = time.monotonic()
        answer = await mill.client.get("/health/ready")
        assert time.monotonic() - started < 4
        assert answer.status_code == 503
        assert answer.json()["status"] == "unavailable"
        assert answer.json()["queue"] == {"status": "down", "trouble": trouble, "warnings": []}
        assert "secret" not in answer.text


async def test_without_the_store_it_is_degraded_but_ready() -> None:
    async with running_mill(wrap_store=StoreDown) as mill:
        assert isinstance(mill.store, StoreDown)
        mill.store.is_down = True
        answer = await mill.client.get("/health/ready")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["store"]["trouble"] == "StoreUnavailable"
        assert "secret" not in answer.text


async def test_a_stopping_process_is_not_ready_but_still_serves(mill: Mill) -> None:
    mill.shutdown.ask()
    assert (await mill.client.get("/health/ready")).status_code == 503
    event = {"event_name": "a", "channel": "b", "user_id": "c", "timestamp": 1_700_000_000}
    assert (await mill.client.post("/events", json=event)).status_code == 202


@pytest.mark.parametrize("path", ["/docs", "/docs/index.html"])
async def test_the_documentation_needs_no_other_server(mill: Mill, path: str) -> None:
    page = await mill.client.get(path)
    assert page.status_code == 200
    assert "https://" not in page.text
    for file in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png"):
        assert f"/docs/files/{file}" in page.text
        assert (await mill.client.get(f"/docs/files/{file}")).status_code == 200


async def test_the_schema_describes_every_route_and_its_limits(mill: Mill) -> None:
    schema = (await mill.client.get("/openapi.json")).json()
    health = {"/health", "/health/live", "/health/ready"}
    operator = {
        "/status",
        "/check",
        "/pause",
        "/resume",
        "/dead-letters",
        "/dead-letters/replay",
        "/dead-letters/purge",
    }
    events = {"/events", "/events/bulk", "/events/live", "/events/lookup", "/events/refused"}
    users = {"/users", "/users/{user_id}/events"}
    questions = {
        "/metrics",
        "/event-names",
        "/properties",
        "/properties/materialize",
        "/sql",
        "/projects",
        "/funnels",
        "/retention",
    }
    assert set(schema["paths"]) == events | users | questions | health | operator
    event = schema["components"]["schemas"]["SentEvent"]
    assert set(event["required"]) == {"event_name", "channel", "user_id", "timestamp"}
    assert event["additionalProperties"] is False
    assert event["properties"]["channel"]["maxLength"] == 64
    assert set(schema["paths"]["/events"]["post"]["responses"]) == {
        *("200", "202", "400", "401", "403", "408", "413", "414", "415", "429", "503")
    }
    references = set(_references(schema))
    assert references <= {f"#/components/schemas/{name}" for name in schema["components"]["schemas"]}


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    return [found for value in node for found in _references(value)] if isinstance(node, list) else []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("DELETE", "/events", 405, "method_not_allowed"),
        ("GET", "/events/bulk", 405, "method_not_allowed"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("POST", "/events/", 404, "not_found"),
    ],
)
async def test_what_is_not_there_is_answered_as_json(
    mill: Mill, method: str, path: str, status: int, code: str
) -> None:
    answer = await mill.client.request(method, path)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert path in answer.json()["message"]
    if status == 405:
        assert answer.headers["allow"]


async def test_a_page_that_cannot_start_is_named_with_its_cause() -> None:
    def create(services: Services) -> Any:
        raise RuntimeError("out of luck")

    with pytest.raises(PluginError, match="/pages of .*test_api_service cannot start.*out of luck"):
        async with running_mill(http_apps=[HttpApp("/pages", create, "open")]):
            pass


async def test_plugins_add_routes_below_their_own_path() -> None:
    def create(services: Services) -> Any:
        async def page(
            scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
        ) -> None:
            assert services.store is not None
            text = f"store says {await services.store.check()}".encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text})

        return page

    async with running_mill(http_apps=[HttpApp("/pages", create, "open")]) as mill:
        assert "lost on exit" in (await mill.client.get("/pages/any/path")).text


async def test_pages_publish_events_and_query_the_store_through_their_services() -> None:
    event = make_event(event_name="from_a_page")

    def create(services: Services) -> Any:
        async def page(
            scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
        ) -> None:
            assert services.project == "default"
            await services.publish([])
            await services.publish([event])
            found: list[Any] = []
            while not found:
                found = await services.query(lambda store: store.find([event.identity]), receive)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": found[0].event_name.encode()})

        return page

    async with running_mill(http_apps=[HttpApp("/pages", create, "open")]) as mill:
        assert (await mill.client.get("/pages/any")).text == "from_a_page"


async def test_no_route_passes_by_a_middleware_that_was_added() -> None:
    async def take(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 202, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    class Guard:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    statuses = []
    for is_guarded in (False, True):
        app = App()
        app.add_fast("/busy", take)
        if is_guarded:
            app.add_middleware(Guard)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mill") as client:
            statuses.append((await client.post("/busy")).status_code)
    assert statuses == [202, 401]
