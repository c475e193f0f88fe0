"""The gate: one ASGI callable in front of every endpoint. It finds the route, authorizes and limits the request."""

import itertools
import re
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.responses import Response
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from eventmill.api.access import Access, Headers
from eventmill.api.errors import respond, respond_to_error
from eventmill.api.telemetry import DISCONNECTED, RequestTelemetry
from eventmill.errors import EventmillError, PluginError
from eventmill.hookspecs import RouteScope
from eventmill.ingest.body import header

MAX_QUERY_BYTES = 4096
SECURITY_SCHEMES = {  # of OpenAPI: the ways to send a key
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "basic": {"type": "http", "scheme": "basic", "description": "the key is the user name"},
}
_PREFLIGHT_SECONDS = 600
_SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"no-referrer"),
]
_EXPOSED = b"Retry-After, RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, X-Request-ID"
_HEADERS = "Authorization, Content-Encoding, Content-Type, X-API-Key, X-Project, X-Request-ID"


def needs(scope: RouteScope) -> dict[str, object]:
    """Return the declaration of a route's scope, in the terms of OpenAPI: `@router.get(path, openapi_extra=…)`."""
    return {"security": [] if scope == "open" else [{scheme: [scope]} for scheme in SECURITY_SCHEMES]}


@dataclass(frozen=True, slots=True)
class Routes:
    """The scopes of all routes: by path and method, and by prefix for mounted applications.

    `patterns` are the expressions of those paths that have parameters.
    """

    exact: Mapping[str, Mapping[str, RouteScope]]
    mounted: Mapping[str, RouteScope]
    patterns: Sequence[tuple[re.Pattern[str], str]] = ()

    def name(self, path: str) -> str:
        """Return the name of the route in metrics: its path or prefix, or `unknown`."""
        if path in self.exact:
            return path
        found = (template for pattern, template in self.patterns if pattern.fullmatch(path))
        mounted = (prefix for prefix in self.mounted if path.startswith(f"{prefix}/"))
        return next(itertools.chain(found, mounted), "unknown")

    def methods(self, path: str) -> Mapping[str, RouteScope] | None:
        """Return the scope of each method at this path, or None if there is no such path."""
        if (found := self.exact.get(path)) is not None:
            return found
        for pattern, template in self.patterns:
            if pattern.fullmatch(path):
                return self.exact[template]
        for prefix, scope in self.mounted.items():
            if path.startswith(f"{prefix}/"):
                return dict.fromkeys(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"), scope)
        return None


def find_routes(routes: Iterable[BaseRoute], scopes: Mapping[str, RouteScope]) -> Routes:
    """Return the scopes of all routes; `scopes` has those that are not FastAPI's. Raise PluginError if one has none."""
    exact: dict[str, dict[str, RouteScope]] = {}
    mounted: dict[str, RouteScope] = {}
    patterns: dict[str, re.Pattern[str]] = {}
    for route in routes:
        if isinstance(route, Mount):
            mounted[route.path] = _scope_of(route.path, scopes.get(route.path))
        elif isinstance(route, Route):
            extra = getattr(route, "openapi_extra", None)
            declared = scopes.get(route.path) if extra is None else _declared(extra)
            methods = dict.fromkeys(route.methods or (), _scope_of(route.path, declared))
            exact[route.path] = exact.get(route.path, {}) | methods
            if route.param_convertors:
                patterns[route.path] = route.path_regex
    return Routes(exact, mounted, [(pattern, path) for path, pattern in patterns.items()])


def _declared(extra: Mapping[str, Any]) -> RouteScope | None:
    security = extra.get("security")
    return None if security is None else security[0]["bearer"][0] if security else "open"


def _scope_of(path: str, scope: RouteScope | None) -> RouteScope:
    if scope not in ("open", "write", "read", "admin"):
        raise PluginError(f"the route {path} declares no scope: one of open, write, read, admin")
    return scope


@dataclass(frozen=True, slots=True)
class Gate:
    """Passes a request on only if its client may use the route; the endpoint finds the principal in the scope."""

    app: ASGIApp
    routes: Routes
    access: Access
    keys_in_body: frozenset[str] = frozenset()  # paths whose endpoint authenticates requests without a key
    noting: frozenset[str] = frozenset()  # paths whose POST endpoint notes the status in the state, which is cheaper
    telemetry: RequestTelemetry = field(default_factory=RequestTelemetry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the gate admits HTTP only, not {scope['type']}")
        started, path, method = time.perf_counter(), scope["path"], scope["method"]
        state = scope.setdefault("state", {})
        headers: Headers = dict(scope["headers"])
        if method != "POST":  # browsers show no response to a POST of another page
            send = _with_headers(send, _SECURITY)
        origin = headers.get(b"origin")
        if origin and self.access.allows_origin(origin.decode("latin-1")):
            send = _with_headers(send, _allow(origin))
        if method != "POST" or path not in self.noting:
            send = _noting_status(send, state)
        try:
            try:
                refusal = self._admit(scope, headers)
            except EventmillError as error:
                refusal = await respond_to_error(Request(scope), error)
            await (refusal or self.app)(scope, receive, send)
        finally:
            seconds = time.perf_counter() - started
            self.telemetry.observe(self.routes.name(path), method, state.get("status", DISCONNECTED), seconds)

    def _admit(self, scope: Scope, headers: Headers) -> Response | None:
        """Return the response to a request that ends here. Raise Unauthenticated, Forbidden or RateLimited."""
        path, method = scope["path"], scope["method"]
        methods = self.routes.methods(path)
        if methods is None:
            return respond(scope, 404, "not_found", f"Not Found: {method} {path}")
        wanted = methods.get(method)
        if wanted is None:
            return self._other_method(scope, methods)
        if len(scope["query_string"]) > MAX_QUERY_BYTES:
            return respond(scope, 414, "uri_too_long", f"the query string is longer than {MAX_QUERY_BYTES} bytes")
        principal = self.access.identify(scope, headers)
        if principal is None and path in self.keys_in_body:
            self.access.admit_body(scope)
        else:
            if wanted != "open" and self.access.limits.has_limits:
                self.access.take_request(scope, principal)
            self.access.require(scope, principal, wanted)
        scope["state"]["principal"] = principal
        return None

    def _other_method(self, scope: Scope, methods: Iterable[str]) -> Response:
        """Answer OPTIONS, also a browser's preflight, and refuse other methods."""
        allow = ", ".join(sorted({*methods, "OPTIONS"}))
        if scope["method"] != "OPTIONS":
            message = f"Method Not Allowed: {scope['method']} {scope['path']}"
            return respond(scope, 405, "method_not_allowed", message, {"Allow": allow})
        headers = {"Allow": allow}
        if header(scope, b"access-control-request-method"):
            headers |= {
                "Access-Control-Allow-Methods": allow,
                "Access-Control-Allow-Headers": _HEADERS,
                "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
            }
        return Response(status_code=204, headers=headers)


def _noting_status(send: Send, state: dict[str, Any]) -> Send:
    """Return a `send` that notes the status of the response in the state of the request."""

    def send_and_note(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            state["status"] = message["status"]
        return send(message)

    return send_and_note


def _allow(origin: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers that let pages of the origin read the response."""
    return [
        (b"access-control-allow-origin", origin),
        (b"access-control-expose-headers", _EXPOSED),
        (b"vary", b"Origin"),
    ]


def _with_headers(send: Send, added: list[tuple[bytes, bytes]]) -> Send:
    """Return a `send` that adds headers to the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return send_with_headers
