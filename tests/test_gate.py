"""The gate: keys, scopes, projects, origins, hosts and rate limits, in front of every route."""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import httpx
import pytest

from eventmill import HttpApp, PluginError, Services, principal_of
from eventmill.api.access import LOOPBACK_HOSTS, Access
from eventmill.api.keys import Key, Keyring, create_key
from eventmill.api.limits import Limits
from eventmill.hookspecs import KeyScope, RouteScope
from eventmill.testing.contract import eventually
from support.mill import Mill, running_mill

pytestmark = pytest.mark.anyio

EVENT = {"event_name": "page_view", "channel": "web", "user_id": "ada", "timestamp": 1766717657}
QUESTION = {"event_name": "page_view", "from": "1766717657", "to": "1766717657"}


def ring(*keys: tuple[str, Key]) -> Keyring:
    return Keyring([key for _, key in keys])


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def page(services: Services) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        body = principal_of(scope).project.encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})

    return answer


async def total(mill: Mill, secret: str, **headers: str) -> int:
    answer = await mill.client.get("/metrics", params=QUESTION, headers=bearer(secret) | headers)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["total_count"])


OPERATOR = {"/projects", "/properties/materialize", "/sql", "/status", "/check", "/pause", "/resume"}
OPERATOR |= {f"/dead-letters{path}" for path in ("", "/replay", "/purge")}
ALLOWED: Mapping[RouteScope, set[str]] = {
    "open": {"none", "expired", "write", "read", "admin", "all"},
    "write": {"write", "admin", "all"},
    "read": {"read", "admin", "all"},
    "admin": {"admin", "all"},
}


async def test_every_route_admits_exactly_the_keys_of_its_scope() -> None:
    scopes: tuple[KeyScope, ...] = ("write", "read", "admin")
    keys = {scope: create_key(scope, "default") for scope in scopes}
    secrets: dict[str, str] = {scope: secret for scope, (secret, _) in keys.items()}
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    secrets["expired"], expired = create_key("admin", "default", expires_at=long_ago)
    secrets["all"], everything = create_key("admin", "*")
    proxies = (ip_network("127.0.0.1"),)
    access = Access("default", ring(*keys.values(), ("", expired), ("", everything)), proxies=proxies)
    pages = [HttpApp(f"/{scope}", page, scope) for scope in ("write", "read", "admin")]
    async with running_mill(http_apps=pages, access=access) as mill:
        routes = [
            (path, method, scope) for path, some in mill.app.routes.exact.items() for method, scope in some.items()
        ]
        routes += [(f"{path}/x", "GET", scope) for path, scope in mill.app.routes.mounted.items()]
        assert {"/events", "/events/bulk", "/metrics", "/status", "/write/x"} <= {path for path, _, _ in routes}
        for number, (path, method, scope) in enumerate(routes):
            for name in ("none", "unknown", *secrets):
                headers = {} if name == "none" else bearer(secrets.get(name, "emw_unknown"))
                headers["X-Forwarded-For"] = f"10.0.0.{number}"  # an address may fail 50 times only
                query = "?tz=none" if path == "/events/live" else ""  # else it would not end
                answer = await mill.client.request(method, path + query, headers=headers)
                is_refused = answer.status_code in (401, 403)
                if name == "unknown" or (name == "expired" and scope != "open"):
                    assert answer.status_code == 401, (path, method, name)
                elif path in OPERATOR and name == "admin":
                    assert answer.status_code == 403  # the queue belongs to all projects
                elif name != "expired":
                    assert is_refused == (name not in ALLOWED[scope]), (path, method, name, answer.text)


async def test_a_page_without_a_scope_does_not_start() -> None:
    with pytest.raises(PluginError, match="/pages declares no scope"):
        async with running_mill(http_apps=[HttpApp("/pages", page, "everything")]):  # type: ignore[arg-type]  # wrong
            pass


async def test_a_key_sees_only_the_events_of_its_project() -> None:
    (write, a), (read_a, b), (read_b, c) = (
        create_key("write", "shop"),
        create_key("read", "shop"),
        create_key("read", "blog"),
    )
    (everything, d) = create_key("admin", "*")
    async with running_mill(access=Access("default", Keyring([a, b, c, d]))) as mill:
        posted = await mill.client.post("/events", json=EVENT, headers=bearer(write))
        assert posted.status_code == 202
        event = {"event_name": "page_view", "timestamp": "1766717657", "event_id": posted.json()["event_id"]}

        async def is_stored() -> bool:
            return await total(mill, read_a) == 1

        await eventually(is_stored, 20)
        assert await total(mill, read_b) == 0
        assert await total(mill, everything) == 0  # of the default project
        assert await total(mill, everything, **{"X-Project": "shop"}) == 1
        assert len((await mill.client.get("/events", params=event, headers=bearer(read_a))).json()) == 1
        assert (await mill.client.get("/events", params=event, headers=bearer(read_b))).json() == []
        named = bearer(read_b) | {"X-Project": "shop"}
        assert (await mill.client.get("/events", params=event, headers=named)).status_code == 403
        own = bearer(read_a) | {"X-Project": "shop"}
        assert len((await mill.client.get("/events", params=event, headers=own)).json()) == 1
        wrong = await mill.client.get("/metrics", params=QUESTION, headers=bearer(everything) | {"X-Project": "a/b"})
        assert (wrong.status_code, wrong.json()["error"]) == (400, "validation_error")


async def test_a_key_may_be_sent_in_each_of_the_usual_ways() -> None:
    secret, key = create_key("write", "shop")
    basic = base64.b64encode(f"{secret}:".encode()).decode()
    async with running_mill(access=Access("default", Keyring([key]))) as mill:
        for headers in (bearer(secret), {"X-API-Key": secret}, {"Authorization": f"Basic {basic}"}):
            assert (await mill.client.post("/events", json=EVENT, headers=headers)).status_code == 202
            assert (await mill.client.post("/events/bulk", json=[EVENT], headers=headers)).status_code == 202
        for headers in ({"Authorization": secret}, {"Authorization": "Basic ?"}, {"Authorization": "Bearer"}, {}):
            answer = await mill.client.post("/events", json=EVENT, headers=headers)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert (await mill.client.post(f"/events?key={secret}", json=EVENT)).status_code == 401


async def test_a_bulk_may_contain_a_write_key() -> None:
    (write, a), (admin, b) = create_key("write", "shop"), create_key("admin", "shop")
    async with running_mill(access=Access("default", Keyring([a, b]))) as mill:

        async def post(body: Any) -> httpx.Response:
            return await mill.client.post("/events/bulk", json=body)

        assert (await post({"api_key": write, "events": [EVENT]})).status_code == 202
        assert (await post({"events": [EVENT], "api_key": write})).status_code == 202
        assert (await post({"events": [EVENT], "api_key": "emw_unknown"})).status_code == 401
        assert (await post({"events": [EVENT]})).status_code == 401
        assert (await post([EVENT])).status_code == 401
        assert (await post({"events": [EVENT], "api_key": admin})).status_code == 403
        large = {"api_key": write, "events": [EVENT | {"user_id": "u" * 200}] * 400}
        assert (await post(large)).status_code == 401  # only small bodies are read before the key is known
        damaged = f'{{"api_key": "{write}", "events": [{{"event_name": }}, {{}}]}}'
        assert [(await post([EVENT])).status_code for _ in range(60)][-1] == 429
        assert (await mill.client.post("/events/bulk", json=[EVENT], headers=bearer(write))).status_code == 202
    async with running_mill(access=Access("default", Keyring([a, b]))) as mill:
        answer = await mill.client.post("/events/bulk", content=damaged)
        assert (answer.status_code, answer.json()["rejected"]) == (400, 2)


async def test_pages_of_allowed_origins_may_use_the_api() -> None:
    (bound, a), (free, b) = create_key("write", "shop", origins=["https://shop.example"]), create_key("write", "shop")
    access = Access("default", Keyring([a, b]), origins=frozenset({"https://app.example"}))
    async with running_mill(access=access) as mill:
        for origin, is_allowed in (("https://shop.example", 1), ("https://app.example", 1), ("https://x.example", 0)):
            asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            preflight = await mill.client.options("/events", headers=asked)
            assert preflight.status_code == 204
            assert preflight.headers.get("Access-Control-Allow-Origin") == (origin if is_allowed else None)
            assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        shop = {"Origin": "https://shop.example"}
        posted = await mill.client.post("/events", json=EVENT, headers=bearer(bound) | shop)
        assert (posted.status_code, posted.headers["Access-Control-Allow-Origin"]) == (202, "https://shop.example")
        app = {"Origin": "https://app.example"}
        assert (await mill.client.post("/events", json=EVENT, headers=bearer(bound) | app)).status_code == 403
        assert (await mill.client.post("/events", json=EVENT, headers=bearer(free) | app)).status_code == 202
        beacon = {"Content-Type": "text/plain;charset=UTF-8"} | shop
        body = json.dumps({"api_key": bound, "events": [EVENT]})
        sent = await mill.client.post("/events/bulk", content=body, headers=beacon)
        assert (sent.status_code, sent.headers["Vary"]) == (202, "Origin")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:8080"}, 202),
        ({"Host": "127.0.0.1:8080"}, 202),
        ({"Host": "[::1]:8080"}, 202),
        ({"Host": "rebound.example:8080"}, 403),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, 202),
        ({"Host": "localhost:8080", "Origin": "https://x.example"}, 403),
        ({"Host": "localhost:8080", "Origin": "null"}, 403),
        ({"Host": "localhost:8080", "Origin": "http://["}, 403),
        ({"Host": "localhost:8080", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "localhost:8080", "Sec-Fetch-Site": "same-origin"}, 202),
        ({"Host": "localhost:8080", "Sec-Fetch-Site": "none"}, 202),
    ],
)
async def test_without_keys_only_this_machine_and_its_own_pages_may_write(headers: dict[str, str], status: int) -> None:
    access = Access("default", is_anonymous=True, hosts=LOOPBACK_HOSTS)
    async with running_mill(access=access) as mill:
        plain = headers | {"Content-Type": "text/plain"}
        assert (await mill.client.post("/events", json=EVENT, headers=plain)).status_code == status
        if headers["Host"].startswith("rebound"):
            assert (await mill.client.get("/metrics", params=QUESTION, headers=headers)).status_code == 403


async def test_a_client_over_its_limit_is_told_when_to_come_back_and_slows_nobody_else() -> None:
    (one, a), (other, b) = create_key("write", "shop"), create_key("write", "shop")
    access = Access("default", Keyring([a, b]), limits=Limits(requests_per_second=1.5, events_per_second=4))
    async with running_mill(access=access) as mill:

        async def post(secret: str, count: int) -> httpx.Response:
            return await mill.client.post("/events/bulk", json=[EVENT] * count, headers=bearer(secret))

        assert [(await post(one, 1)).status_code for _ in range(4)] == [202, 202, 202, 429]
        refused = await post(one, 1)
        assert refused.json()["error"] == "rate_limited"
        assert 1 <= int(refused.headers["Retry-After"]) <= 2
        assert (refused.headers["RateLimit-Limit"], refused.headers["RateLimit-Remaining"]) == ("1", "0")
        assert (await post(other, 20)).status_code == 202  # a large bulk is accepted once
        assert (await post(other, 1)).status_code == 429  # and paid for afterwards
        assert (await mill.client.get("/health")).status_code == 200


async def test_failed_authentications_are_limited_by_address() -> None:
    secret, key = create_key("write", "shop")
    access = Access("default", Keyring([key]), proxies=(ip_network("127.0.0.0/8"),))
    async with running_mill(access=access) as mill:

        async def post(secret: str, address: str) -> int:
            forwarded = {"X-Forwarded-For": f"6.6.6.6, {address}"}
            return (await mill.client.post("/events", json=EVENT, headers=bearer(secret) | forwarded)).status_code

        statuses = [await post("emw_guess", "10.0.0.1") for _ in range(60)]
        assert set(statuses[:50]) == {401}
        assert statuses[-1] == 429
        assert await post("emw_guess", "10.0.0.2") == 401
        assert await post(secret, "10.0.0.1") == 202
        assert [await post("emw_guess", f"2001:db8::{number}") for number in range(60)][-1] == 429  # one network
        assert [await post("emw_guess", f"10.0.0.3:{number}") for number in range(60)][-1] == 429  # one address


async def test_a_long_query_string_is_refused_before_it_is_parsed() -> None:
    async with running_mill() as mill:
        answer = await mill.client.get(f"/metrics?{'a=b&' * 1024}c")
        assert (answer.status_code, answer.json()["error"]) == (414, "uri_too_long")
        assert (await mill.client.get(f"/metrics?{'a' * 4096}")).status_code == 400


async def test_a_path_names_all_its_methods() -> None:
    async with running_mill() as mill:
        for method, status in (("DELETE", 405), ("OPTIONS", 204)):
            answer = await mill.client.request(method, "/events")
            assert (answer.status_code, answer.headers["Allow"]) == (status, "GET, OPTIONS, POST")
