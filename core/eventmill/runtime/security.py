"""Who may use a server: its keys, anonymous mode and rate limits, from the settings."""

import ipaddress
import socket

from eventmill.api.access import LOOPBACK_HOSTS, Access
from eventmill.api.keys import Keyring, decode_keys
from eventmill.api.limits import Limits
from eventmill.errors import ConfigurationError
from eventmill.runtime.listener import load_certificate
from eventmill.settings import Settings

_NO_KEYS = (
    "there are no keys: create one with `eventmill keys new --project {project} --scope write`,"
    " or set EVENTMILL_ANONYMOUS=true if only trusted clients reach this address"
)


def choose_access(settings: Settings, listener: socket.socket, *, is_local: bool = False) -> Access:
    """Return the rules of a server. Raise ConfigurationError if there are no keys and anonymous mode is not allowed.

    Args:
        is_local: whether requests without a key are allowed on a loopback address while there are no keys.
    """
    fixed = decode_keys(settings.keys.get_secret_value(), "EVENTMILL_KEYS") if settings.keys else []
    keys = Keyring(fixed, settings.keys_file)
    is_open = is_local and not keys and not settings.anonymous and is_loopback(listener)
    if not (keys or settings.anonymous or is_open):
        raise ConfigurationError(_NO_KEYS.format(project=settings.project))
    return Access(
        project=settings.project,
        keys=keys,
        is_anonymous=settings.anonymous or is_open,
        hosts=LOOPBACK_HOSTS | {listener.getsockname()[0]} if is_open else frozenset(),
        origins=frozenset(settings.cors_origins),
        proxies=settings.trusted_proxies,
        limits=Limits(_share(settings.requests_per_second, settings), _share(settings.events_per_second, settings)),
    )


def find_troubles(settings: Settings) -> list[str]:
    """Return why `serve` would not start with the keys and the certificate of the settings."""
    troubles = []
    try:
        fixed = decode_keys(settings.keys.get_secret_value(), "EVENTMILL_KEYS") if settings.keys else []
        if not Keyring(fixed, settings.keys_file) and not settings.anonymous:
            troubles.append(_NO_KEYS.format(project=settings.project))
    except ConfigurationError as error:
        troubles.append(str(error))
    try:
        load_certificate(settings)
    except ConfigurationError as error:
        troubles.append(str(error))
    return troubles


def _share(per_second: float | None, settings: Settings) -> float | None:
    """Return the part of a limit that belongs to each process."""
    return None if per_second is None else per_second / settings.workers


def is_loopback(listener: socket.socket) -> bool:
    """Return whether only programs on this machine can reach the address."""
    return ipaddress.ip_address(listener.getsockname()[0].partition("%")[0]).is_loopback
