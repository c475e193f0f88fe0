"""API keys: their records, the file that holds them, and the ring that finds the key of a request."""

import asyncio
import contextlib
import fcntl
import hashlib
import logging
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec

from eventmill.errors import ConfigurationError
from eventmill.hookspecs import ANY_PROJECT, KeyScope
from eventmill.settings import PROJECT_PATTERN
from eventmill.shutdown import Shutdown

log = logging.getLogger(__name__)

PREFIXES: dict[KeyScope, str] = {"write": "emw_", "read": "emr_", "admin": "ema_"}
_RANDOM_BYTES = 20
_WATCH_SECONDS = 1.0


class Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key without its secret.

    Attributes:
        scope: what it may do; `admin` includes the others.
        project: the only project that it sees; `*` for an admin key of all projects.
        sha256: the digest of the secret, in hexadecimal.
        name: for people.
        created_at, expires_at: times with their zone; a key without `expires_at` never expires.
        origins: the web origins, such as `https://app.example`, that may use it; all if empty.
    """

    scope: KeyScope
    project: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    name: str = ""
    created_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.project != ANY_PROJECT and not re.fullmatch(PROJECT_PATTERN, self.project):
            raise ValueError(f"the project {self.project!r} must match {PROJECT_PATTERN}")
        if self.project == ANY_PROJECT and self.scope != "admin":
            raise ValueError(f"a {self.scope} key needs one project; only an admin key may have {ANY_PROJECT}")

    @property
    def id(self) -> str:
        """The start of the digest, which identifies the key in lists and logs."""
        return self.sha256[:12]

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at.timestamp() <= time.time()


def create_key(
    scope: KeyScope,
    project: str,
    *,
    name: str = "",
    expires_at: datetime | None = None,
    origins: Sequence[str] = (),
) -> tuple[str, Key]:
    """Return a new secret and its record. Raise ConfigurationError."""
    secret = PREFIXES[scope] + secrets.token_hex(_RANDOM_BYTES)
    now = datetime.now(UTC).replace(microsecond=0)
    try:
        key = Key(scope, project, digest(secret), name, now, expires_at, tuple(origins))
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    return secret, decode_keys(encode_keys([key]), "the key")[0]


def digest(secret: str) -> str:
    """Return the SHA-256 digest of a secret. The secret is random, so that a slow hash would add nothing."""
    return hashlib.sha256(secret.encode()).hexdigest()


def encode_keys(keys: Iterable[Key]) -> bytes:
    """Return the content of a keys file: a JSON array."""
    return msgspec.json.format(msgspec.json.encode(list(keys)), indent=2) + b"\n"


def decode_keys(text: bytes | str, source: str) -> list[Key]:
    """Return the keys of a JSON array. Raise ConfigurationError, which names the source."""
    try:
        return msgspec.json.decode(text, type=list[Key])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{source} holds no valid keys: {error}") from None


def read_keys(path: Path) -> list[Key]:
    """Return the keys of a file, none if there is no such file. Raise ConfigurationError."""
    try:
        return decode_keys(path.read_bytes() or b"[]", str(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(f"cannot read the keys in {path}: {error.strerror}") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let no other command change the file meanwhile. Raise ConfigurationError."""
    try:
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise ConfigurationError(f"cannot lock the keys in {path}: {error.strerror}") from None


def write_keys(path: Path, keys: Iterable[Key]) -> None:
    """Replace a file at once; only its owner can read it. Raise ConfigurationError."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.absolute().parent, prefix=f".{path.name}-", delete=False) as file:
            file.write(encode_keys(keys))  # mode 600 from the start
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write the keys to {path}: {error.strerror}") from None


class Keyring:
    """The keys of the settings and of a file, which is read again when it changes.

    Attributes:
        origins: the web origins of all keys.
    """

    def __init__(self, fixed: Sequence[Key] = (), path: Path | None = None) -> None:
        self._fixed = fixed
        self._path = path
        self._version = _version(path)
        self._keys = self._read()
        self._used: dict[str, Key] = {}  # by their secrets, which need not be hashed again
        self._had_keys = bool(self._keys)
        self.origins: frozenset[str] = frozenset()
        self._find_origins()

    def __bool__(self) -> bool:
        """Whether there are keys, or were: the end of the last one must not open the server to everybody."""
        return self._had_keys

    def find(self, secret: str) -> Key | None:
        """Return the key with this secret, unless it is unknown or expired."""
        key = self._used.get(secret)
        if key is None and (key := self._keys.get(digest(secret))) is not None:
            self._used[secret] = key
        return None if key is None or key.is_expired else key

    async def watch(self, shutdown: Shutdown) -> None:
        """Read the file again when it has changed, until the shutdown. Keep the keys while it cannot be read."""
        while not shutdown.is_asked:
            await shutdown.sleep(_WATCH_SECONDS)
            version = await asyncio.to_thread(_version, self._path)
            if version == self._version:
                continue
            try:
                self._keys = await asyncio.to_thread(self._read)
                self._used = {}
                self._had_keys = self._had_keys or bool(self._keys)
                self._find_origins()
                log.info("read %d keys from %s", len(self._keys), self._path)
            except ConfigurationError as error:
                log.error("%s; the former keys stay valid", error)
            except Exception:
                log.exception("cannot read the keys; the former keys stay valid")
            self._version = version

    def _find_origins(self) -> None:
        self.origins = frozenset(origin for key in self._keys.values() for origin in key.origins)

    def _read(self) -> dict[str, Key]:
        keys = [*self._fixed, *(read_keys(self._path) if self._path else ())]
        return {key.sha256: key for key in keys}


def _version(path: Path | None) -> tuple[int, int, int] | None:
    """Return a value that changes when the file is replaced or changed."""
    try:
        status = path.stat() if path else None
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size) if status else None
