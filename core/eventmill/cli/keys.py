"""eventmill keys: create, list and revoke API keys."""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from rich.console import Console

from eventmill.api.keys import Key, create_key, encode_keys, locked, read_keys, write_keys
from eventmill.cli.output import print_table
from eventmill.errors import ConfigurationError
from eventmill.hookspecs import KeyScope
from eventmill.settings import ORIGIN_PATTERN, Settings, load
from eventmill.times import parse_time

MIN_ID = 4
SCOPES: tuple[KeyScope, ...] = ("write", "read", "admin")
_COLUMNS = ("id", "scope", "project", "name", "created", "expires", "origins")
_SPAN = re.compile(r"(\d+)([dh])")


def new(
    *, scope: str, project: str | None, name: str, expires: str | None, origins: Sequence[str], as_json: bool
) -> None:
    settings = load(Settings)
    if scope not in SCOPES:
        raise ConfigurationError(f"--scope: {scope!r} is not one of {', '.join(SCOPES)}")
    for origin in origins:
        if not re.fullmatch(ORIGIN_PATTERN, origin):
            raise ConfigurationError(f"--origin: {origin!r} is not an origin such as https://app.example")
    secret, key = create_key(
        next(known for known in SCOPES if known == scope),
        project or settings.project,
        name=name,
        expires_at=_parse_expiry(expires),
        origins=origins,
    )
    if as_json:  # for EVENTMILL_KEYS; the file stays unchanged
        sys.stdout.write(msgspec.json.encode({"secret": secret, "key": key}).decode() + "\n")
        return
    path = settings.keys_file
    with locked(path):
        write_keys(path, [*read_keys(path), key])
    sys.stdout.write(secret + "\n")
    note = f"{key.scope} key {key.id} of project {key.project} added to {path}. The secret is shown only once."
    Console(stderr=True, highlight=False, markup=False).print(note)


def show(*, as_json: bool) -> None:
    path = load(Settings).keys_file
    keys = read_keys(path)
    if not keys:
        sys.stderr.write(f"there are no keys in {path} (EVENTMILL_KEYS_FILE)\n")
    if as_json:
        sys.stdout.write(encode_keys(keys).decode())
    else:
        print_table(_COLUMNS, [_row(key) for key in keys])


def revoke(ids: Sequence[str]) -> None:
    path = load(Settings).keys_file
    with locked(path):
        keys = read_keys(path)
        revoked = {key.sha256 for start in ids for key in [_find(keys, start, path)]}
        write_keys(path, [key for key in keys if key.sha256 not in revoked])
    sys.stdout.write(f"{len(revoked)} keys revoked; running processes follow within 2 s\n")


def _find(keys: Sequence[Key], start: str, path: Path) -> Key:
    """Return the key whose id, or name, this is. Raise ConfigurationError unless there is exactly one."""
    found = [key for key in keys if key.name == start or (len(start) >= MIN_ID and key.sha256.startswith(start))]
    if len(found) != 1:
        count = "no key" if not found else f"{len(found)} keys"
        raise ConfigurationError(f"{path} has {count} {start!r}: `eventmill keys list` shows them")
    return found[0]


def _parse_expiry(text: str | None) -> datetime | None:
    if text is None:
        return None
    if span := _SPAN.fullmatch(text):
        hours = int(span[1]) * (24 if span[2] == "d" else 1)
        return datetime.now(UTC).replace(microsecond=0) + timedelta(hours=min(hours, 24 * 36_500))
    try:
        moment = datetime.fromtimestamp(parse_time(text) // 1_000_000, UTC)
    except (ValueError, OverflowError, OSError):
        raise ConfigurationError(f"--expires: {text!r} is neither a time nor a span such as 90d or 12h") from None
    if moment <= datetime.now(UTC):
        raise ConfigurationError(f"--expires: {text} is in the past")
    return moment


def _row(key: Key) -> list[str]:
    created, expires = (at.isoformat() if at else "" for at in (key.created_at, key.expires_at))
    if key.is_expired:
        expires += " (expired)"
    return [key.id, key.scope, key.project, key.name, created, expires or "never", ", ".join(key.origins)]
