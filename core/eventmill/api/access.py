"""Who may do what: the principal of a request, its key, its origin, and its limits. Nothing else decides this."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from urllib.parse import urlsplit

from starlette.types import Scope

from eventmill.api.keys import Keyring
from eventmill.api.limits import Limits
from eventmill.errors import Forbidden, InvalidRequest, Unauthenticated
from eventmill.hookspecs import ANY_PROJECT, NO_KEY, Principal, RouteScope
from eventmill.ingest.body import header
from eventmill.ingest.budget import SMALL_BYTES
from eventmill.networks import Network, find_client
from eventmill.settings import PROJECT_PATTERN

Headers = Mapping[bytes, bytes]  # the last one of each name
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    Attributes:
        project: the project of requests without a key, and of admin keys for all projects.
        keys: the keys.
        is_anonymous: whether requests without a key may do everything.
        hosts: the only hosts that requests without a key may name, so that no web page can reach the server by a name
            of its own (DNS rebinding). If not empty, the first key ends anonymous mode.
        origins: the web origins that may use the API from a browser; `*` allows all.
        proxies: the networks whose X-Forwarded-For names the client.
        limits: the rate limits.
    """

    project: str
    keys: Keyring = field(default_factory=Keyring)
    is_anonymous: bool = False
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    proxies: tuple[Network, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def identify(self, scope: Scope, headers: Headers) -> Principal | None:
        """Return who sent the request, None without a key.

        Raise Unauthenticated, RateLimited, Forbidden, or InvalidRequest for a wrong X-Project.
        """
        secret = _secret_of(headers)
        if secret and (not self.is_anonymous or self.keys):
            principal = self.principal_of(secret, scope)
            named = headers.get(b"x-project") if not principal.is_for_all else None
            if named is not None and named.decode(errors="replace") != principal.project:
                raise Forbidden(f"the key is for the project {principal.project} alone, and X-Project names another")
            return principal
        if self.is_anonymous and not (self.hosts and self.keys):
            self._check_sender(scope, headers)
            if b"x-project" in headers:
                return Principal(self._project_of(scope), "admin", is_for_all=True)
            return self.anonymous
        return None

    @cached_property
    def anonymous(self) -> Principal:
        """Requests without a key, where these may do everything."""
        return Principal(self.project, "admin", is_for_all=True)

    def principal_of(self, secret: str, scope: Scope) -> Principal:
        """Return the principal with this key. Raise Unauthenticated, RateLimited or Forbidden."""
        key = self.keys.find(secret)
        if key is None:
            self.limits.take_failure(self.address_of(scope))
            raise Unauthenticated("the key is unknown, revoked or expired")
        if key.origins:
            origin = header(scope, b"origin").decode("latin-1")
            if origin and not _is_allowed(origin, key.origins):
                raise Forbidden("the key may not be used by pages of this origin")
        if key.project == ANY_PROJECT:
            return Principal(self._project_of(scope), key.scope, key.id, is_for_all=True, name=key.name)
        return _principal(key.project, key.scope, key.id, False, key.name)

    def admit_body(self, scope: Scope) -> None:
        """Admit a request whose body may contain its key. It counts as failed until the key is known.

        Raise Unauthenticated for a body that is large or compressed, and RateLimited.
        """
        length = header(scope, b"content-length")
        if not length.isdigit() or len(length) > 5 or int(length) > SMALL_BYTES or header(scope, b"content-encoding"):
            self.require(scope, None, "write")
        self.limits.take_failure(self.address_of(scope))

    def principal_of_body(self, secret: str, scope: Scope) -> Principal:
        """Return the principal with the key in a body, which must be a write key. Raise as `principal_of`."""
        if not secret:
            raise Unauthenticated(NO_KEY)
        principal = self.principal_of(secret, scope)
        if principal.scope != "write":
            raise Forbidden("a body may contain a write key only")
        self.limits.return_failure(self.address_of(scope))
        self.limits.take_request(principal.key)
        return principal

    def take_events(self, scope: Scope, principal: Principal, count: int) -> None:
        """Count events before they are published. Raise RateLimited."""
        if self.limits.has_limits:
            self.limits.take_events(self.client_of(scope, principal), count)

    def take_request(self, scope: Scope, principal: Principal | None) -> None:
        """Count a request. Raise RateLimited."""
        if self.limits.has_limits:
            self.limits.take_request(self.client_of(scope, principal))

    def require(self, scope: Scope, principal: Principal | None, wanted: RouteScope) -> None:
        """Raise Unauthenticated or Forbidden if the principal may not use a route of this scope."""
        if wanted == "open":
            return
        if principal is None:
            self.limits.take_failure(self.address_of(scope))
            raise Unauthenticated(NO_KEY)
        if not principal.may(wanted):
            raise Forbidden(f"this needs a key with the scope {wanted}, and the key has {principal.scope}")

    def allows_origin(self, origin: str) -> bool:
        """Return whether pages of this origin may read responses; which key they use is known only later."""
        return _is_allowed(origin, self.origins) or _is_allowed(origin, self.keys.origins)

    def client_of(self, scope: Scope, principal: Principal | None) -> str:
        """Return the client that the limits count: a key, or an address."""
        return principal.key if principal and principal.key else self.address_of(scope)

    def address_of(self, scope: Scope) -> str:
        """Return the address of the client, also behind trusted proxies."""
        return find_client(scope, self.proxies)

    def _check_sender(self, scope: Scope, headers: Headers) -> None:
        """Raise Forbidden for a request that a browser sends for a page of another site, or to a foreign name."""
        origin, site = headers.get(b"origin"), headers.get(b"sec-fetch-site")
        is_safe = (origin is None and site is None) or scope["method"] in _SAFE_METHODS
        if is_safe and not self.hosts:
            return
        host = headers.get(b"host", b"").lower().decode("latin-1")
        if self.hosts and _host_of(f"//{host}") not in self.hosts:
            raise Forbidden("requests must name this machine in the Host header, such as localhost")
        if is_safe:
            return
        page = (origin or b"").lower().decode("latin-1")
        is_foreign = page.partition("://")[2] != host if page else site not in (None, b"same-origin", b"none")
        if is_foreign and not _is_allowed(page, self.origins):
            raise Forbidden("pages of other sites may not use this API: see EVENTMILL_CORS_ORIGINS")

    def _project_of(self, scope: Scope) -> str:
        """Return the project that a request with a key for all projects names. Raise InvalidRequest."""
        sent = [value.decode(errors="replace") for name, value in scope["headers"] if name == b"x-project"]
        names = sent or [self.project]
        if not re.fullmatch(PROJECT_PATTERN, names[0]):
            raise InvalidRequest(f"X-Project must be the name of a project, with the pattern {PROJECT_PATTERN}")
        return str(names[0])


# Building the same dataclass for every request would be a third of what a key costs.
_principal = lru_cache(maxsize=1024)(Principal)


def _secret_of(headers: Headers) -> str:
    """Return the key in the headers, or an empty text."""
    if b"x-api-key" in headers and (secret := headers[b"x-api-key"].strip()):
        return secret.decode("latin-1")
    if (authorization := headers.get(b"authorization")) is None:
        return ""
    kind, _, value = authorization.partition(b" ")
    kind = kind.lower()
    if kind == b"bearer":
        return value.strip().decode("latin-1")
    if kind == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[0].decode("latin-1")
        except (binascii.Error, ValueError):
            return value.decode("latin-1")
    return ""


def _is_allowed(origin: str, origins: Iterable[str]) -> bool:
    return any(allowed in ("*", origin) for allowed in origins)


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
