"""Where an issuer's keys come from, and how they are kept fresh (SPEC A4).

Every source swaps an immutable `KeySet`; readers take no lock. A key that leaves its set stops verifying at once: the source reports
it, and cached tokens that it vouched for are forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from discovery.ending import end
from gateway.auth.fetch import MAX_DOCUMENT_BYTES, FetchError, fetch
from gateway.auth.jwk import ASYMMETRIC_ALGORITHMS, SYMMETRIC_ALGORITHMS, DroppedKey, KeySet, WeakKey, read_key_set, secret_key
from gateway.auth.strict_json import loads_object
from gateway.errors import ConfigError
from gateway.settings import FIPS_ALGORITHMS, Issuer

log = logging.getLogger("gateway.auth")

OnRemoved = Callable[[Collection[bytes]], None]
#: Told the name of what we depend on, and whether it answers.
OnReached = Callable[[str, bool], None]

#: Names of unknown keys that are remembered; the oldest makes room.
_MAX_UNKNOWN = 256


class KeySource(Protocol):
    """What the verifier asks."""

    @property
    def keys(self) -> KeySet | None:
        """The keys as last known; None when they are not known, or not fresh enough to be believed."""

    async def refetch(self, key_id: str | None) -> None:
        """A token names a key that `keys` lacks. Returns when it is worth to look again; at once when asking would be no use."""


class KeyMaintenance(Protocol):
    """What the authenticator does with a source, besides handing it to the verifier."""

    async def start(self) -> None:
        """Load what is local (ConfigError when unusable) and begin to keep it fresh."""

    async def close(self) -> None:
        """End the background work."""


class MaintainedKeys(KeySource, KeyMaintenance, Protocol):
    """Both sides of a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTimings:
    """Seconds that rule the freshness of keys.

    Args:
        refresh: between background fetches; each is moved by up to a tenth, so that replicas do not ask together.
        retry_first, retry_last: after a failure, doubling, half to all of it.
        refetch: at most one fetch on behalf of tokens with unknown keys in this time.
        unknown: how long the name of a key that a fetch did not bring is not asked for again.
        stale: how long keys are believed when they can't be fetched.
        timeout: of one exchange; also the longest that a request waits for a fetch.
        file_poll: between looks at a file.
    """

    refresh: float = 300.0
    retry_first: float = 1.0
    retry_last: float = 30.0
    refetch: float = 10.0
    unknown: float = 30.0
    stale: float = 3600.0
    timeout: float = 5.0
    file_poll: float = 2.0


class StaticKeys:
    """Keys that never change: a shared secret, or a document in the settings."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    @property
    def keys(self) -> KeySet:
        return self._keys

    async def refetch(self, key_id: str | None) -> None:
        """There is nowhere to look."""

    async def start(self) -> None:
        """Nothing to load."""

    async def close(self) -> None:
        """Nothing to end."""


class FileKeys:
    """A JWK Set in a file, read again when the file changes. A file that turns bad or vanishes changes nothing but the log."""

    def __init__(self, issuer: Issuer, on_removed: OnRemoved, timings: KeyTimings) -> None:
        self._issuer = issuer
        self._path = Path(issuer.jwks_file)
        self._on_removed = on_removed
        self._timings = timings
        self._keys = KeySet()
        self._seen: tuple[int, int, int] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def keys(self) -> KeySet:
        return self._keys

    async def refetch(self, key_id: str | None) -> None:
        """The file is watched; a token is no reason to read it."""

    async def start(self) -> None:
        self._keys = self._load_first()
        self._seen = _stamp(self._path)
        self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        if self._task is not None:
            await end((self._task,))

    def _load_first(self) -> KeySet:
        try:
            document = _read_bounded(self._path)
        except (OSError, ValueError) as exc:
            raise ConfigError(f"issuer {self._issuer.name!r}: jwks_file {str(self._path)!r} can't be read: {exc}") from exc
        return local_key_set(document, self._issuer, f"jwks_file {str(self._path)!r}")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._timings.file_poll)
            stamp = await asyncio.to_thread(_stamp, self._path)
            if stamp is not None and stamp != self._seen:
                self._seen = stamp
                await self._reload()

    async def _reload(self) -> None:
        try:
            document = await asyncio.to_thread(_read_bounded, self._path)
            keys, dropped = read_key_set(document, self._issuer.algorithms, fips=self._issuer.fips)
        except (OSError, ValueError) as exc:
            log.warning("issuer %s: the changed jwks_file is not usable, the keys before it stay (%s)", self._issuer.name, exc)
            return
        _warn_dropped(self._issuer, dropped)
        self._keys = _swap(self._keys, keys, self._on_removed, self._issuer)


class RemoteKeys:
    """A JWK Set behind a URL, or behind the URL that the issuer's OpenID configuration names.

    One fetch at a time, whoever wants it. A request that is given up does not end the fetch that it started.
    """

    def __init__(
        self,
        issuer: Issuer,
        http: httpx.AsyncClient,
        on_removed: OnRemoved,
        timings: KeyTimings,
        monotonic: Callable[[], float] = time.monotonic,
        on_reached: OnReached = lambda name, answers: None,
    ) -> None:
        self._issuer = issuer
        self._http = http
        self._on_reached = on_reached
        self._on_removed = on_removed
        self._timings = timings
        self._monotonic = monotonic
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._failures = 0
        self._dropped: tuple[DroppedKey, ...] = ()
        # What tokens asked for.
        self._refetch_after = float("-inf")
        self._unknown: dict[str | None, float] = {}
        # Tasks.
        self._fetching: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def keys(self) -> KeySet | None:
        return None if self._is_stale() else self._keys

    async def start(self) -> None:
        self._task = asyncio.create_task(self._refresh())

    async def close(self) -> None:
        await end(task for task in (self._task, self._fetching) if task is not None)

    async def refetch(self, key_id: str | None) -> None:
        under_way = self._fetching
        if under_way is not None:
            await self._wait(under_way)
            if self._holds(key_id):
                return
        # What was under way may have been answered before the key was published, so it does not count as asking.
        if self._fetching is None and self._may_ask(key_id):
            await self._ask(key_id)
        elif self._fetching is not None and self._fetching is not under_way:
            await self._wait(self._fetching)

    def _holds(self, key_id: str | None) -> bool:
        return bool(self._keys) if key_id is None else self._keys is not None and self._keys.knows(key_id)

    def _may_ask(self, key_id: str | None) -> bool:
        now = self._monotonic()
        return now >= self._refetch_after and now >= self._unknown.get(key_id, now)

    async def _ask(self, key_id: str | None) -> None:
        self._refetch_after = self._monotonic() + self._timings.refetch
        await self._wait(self._fetch_once())
        if self._keys is not None and not self._holds(key_id):
            self._remember_unknown(key_id)

    async def _wait(self, task: asyncio.Task[None]) -> None:
        # `wait` neither cancels the task nor raises what it raised.
        await asyncio.wait((task,), timeout=self._timings.timeout)

    def _remember_unknown(self, key_id: str | None) -> None:
        self._unknown.pop(key_id, None)
        self._unknown[key_id] = self._monotonic() + self._timings.unknown
        if len(self._unknown) > _MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]

    def _is_stale(self) -> bool:
        return self._keys is not None and self._monotonic() - self._fetched_at >= self._timings.stale

    async def _refresh(self) -> None:
        while True:
            # Shielded because requests may be waiting for the same fetch.
            await asyncio.shield(self._fetching or self._fetch_once())
            await asyncio.sleep(self._pause())

    def _pause(self) -> float:
        if not self._failures:
            return self._timings.refresh * random.uniform(0.9, 1.1)
        ceiling = min(self._timings.retry_last, self._timings.retry_first * 2.0 ** min(self._failures - 1, 16))
        return ceiling * random.uniform(0.5, 1.0)

    def _fetch_once(self) -> asyncio.Task[None]:
        self._fetching = asyncio.create_task(self._fetch())
        self._fetching.add_done_callback(self._fetch_ended)
        return self._fetching

    def _fetch_ended(self, task: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            document = await fetch(self._http, await self._locate(), timeout_seconds=self._timings.timeout)
            keys, dropped = read_key_set(document, self._issuer.algorithms, fips=self._issuer.fips)
        except (FetchError, ValueError) as exc:
            self._failed(str(exc))
            return
        except Exception as exc:
            # Whatever a document does to a library of ours, the refreshes go on.
            self._failed(type(exc).__name__)
            return
        if dropped != self._dropped:
            _warn_dropped(self._issuer, dropped)
        self._succeeded(keys, dropped)

    async def _locate(self) -> str:
        if not self._issuer.discovery:
            return self._issuer.jwks_url
        document = await fetch(self._http, discovery_url(self._issuer.issuer), timeout_seconds=self._timings.timeout)
        return jwks_uri(document, self._issuer.issuer)

    def _succeeded(self, keys: KeySet, dropped: tuple[DroppedKey, ...]) -> None:
        if self._failures:
            log.info("issuer %s: keys are fetched again", self._issuer.name)
            self._on_reached(f"issuer:{self._issuer.name}", True)
        self._failures = 0
        self._dropped = dropped
        self._fetched_at = self._monotonic()
        if self._keys is None or keys.fingerprints != self._keys.fingerprints:
            self._unknown.clear()
        self._keys = _swap(self._keys or KeySet(), keys, self._on_removed, self._issuer)

    def _failed(self, why: str) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("issuer %s: keys can't be fetched: %s", self._issuer.name, why)
            self._on_reached(f"issuer:{self._issuer.name}", False)
        if self._keys is not None and self._is_stale():
            log.error("issuer %s: keys could not be fetched for %g s and are not believed any more", self._issuer.name, self._timings.stale)
            self._on_removed(self._keys.fingerprints)
            self._keys = None


def key_source(
    issuer: Issuer,
    http: httpx.AsyncClient,
    on_removed: OnRemoved,
    timings: KeyTimings,
    monotonic: Callable[[], float] = time.monotonic,
    on_reached: OnReached = lambda name, answers: None,
) -> MaintainedKeys:
    """The source that an issuer's settings ask for.

    Raises:
        ConfigError: none or several are named, it does not go with the algorithms, or a key in the settings is too weak.
    """
    check_algorithms(issuer)
    if issuer.secret:
        return StaticKeys(_secret_key_set(issuer))
    if issuer.jwks:
        return StaticKeys(local_key_set(issuer.jwks, issuer, "jwks"))
    if issuer.jwks_file:
        return FileKeys(issuer, on_removed, timings)
    _check_url(issuer, issuer.issuer if issuer.discovery else issuer.jwks_url)
    return RemoteKeys(issuer, http, on_removed, timings, monotonic, on_reached)


def check_algorithms(issuer: Issuer) -> None:
    """Refuse an issuer whose algorithms are unknown, mixed, or don't go with its one source of keys.

    Raises:
        ConfigError: says which value, and what is allowed.
    """
    where = f"issuer {issuer.name!r}"
    named = set(issuer.algorithms)
    unknown = sorted(named - ASYMMETRIC_ALGORITHMS - SYMMETRIC_ALGORITHMS)
    if unknown or not named:
        allowed = ", ".join(sorted(ASYMMETRIC_ALGORITHMS | SYMMETRIC_ALGORITHMS))
        raise ConfigError(f"{where}: algorithms: {', '.join(map(repr, unknown)) or 'none'} given, allowed are {allowed}")
    sources = [name for name in ("jwks", "jwks_url", "jwks_file", "secret", "discovery") if getattr(issuer, name)]
    if len(sources) != 1:
        raise ConfigError(
            f"{where}: exactly one of jwks_url, jwks_file, secret_file and discovery is needed, given: {', '.join(sources) or 'none'}"
        )
    if issuer.fips and (banned := sorted(named - set(FIPS_ALGORITHMS))):
        raise ConfigError(f"{where}: algorithms: {', '.join(banned)} is not in the FIPS-approved set: {', '.join(FIPS_ALGORITHMS)}")
    # With both kinds on one issuer a public key could be taken for a secret (RFC 8725 section 2.1).
    if named & SYMMETRIC_ALGORITHMS and named & ASYMMETRIC_ALGORITHMS:
        raise ConfigError(f"{where}: algorithms: HS* can't be used together with others")
    if bool(issuer.secret) != bool(named & SYMMETRIC_ALGORITHMS):
        raise ConfigError(f"{where}: HS* algorithms need a shared secret, and a shared secret needs one of {sorted(SYMMETRIC_ALGORITHMS)}")


def local_key_set(document: bytes, issuer: Issuer, what: str) -> KeySet:
    """The keys of a document that the operator wrote, so that every hazard in it is told at start.

    Raises:
        ConfigError: no JWK Set, no usable key, or a key that is weak or private.
    """
    try:
        keys, dropped = read_key_set(document, issuer.algorithms, fips=issuer.fips)
    except ValueError as exc:
        raise ConfigError(f"issuer {issuer.name!r}: {what} is not a JWK Set: {exc}") from exc
    if not len(keys) or any(key.weak for key in dropped):
        problems = "; ".join(map(str, dropped)) or "it has no keys"
        raise ConfigError(f"issuer {issuer.name!r}: {what} can't be used: {problems}")
    _warn_dropped(issuer, dropped)
    return keys


def discovery_url(issuer: str) -> str:
    """Where an issuer publishes its OpenID configuration (OpenID Connect Discovery 1.0 section 4)."""
    return issuer.removesuffix("/") + "/.well-known/openid-configuration"


def jwks_uri(document: bytes, issuer: str) -> str:
    """The key set's address in an OpenID configuration.

    Raises:
        ValueError: not a configuration of exactly this issuer, or the address is less protected than the configuration was.
    """
    configuration = loads_object(document)
    if configuration.get("issuer") != issuer:
        raise ValueError("the OpenID configuration is another issuer's")
    address = configuration.get("jwks_uri")
    allowed = ("https://",) if issuer.startswith("https://") else ("https://", "http://")
    if not isinstance(address, str) or not address.startswith(allowed):
        raise ValueError(f"the OpenID configuration has no jwks_uri that starts with {' or '.join(allowed)}")
    return address


def _secret_key_set(issuer: Issuer) -> KeySet:
    if len(set(issuer.algorithms)) != 1:
        raise ConfigError(f"issuer {issuer.name!r}: algorithms: a shared secret is used with exactly one algorithm (RFC 8725 section 3.1)")
    try:
        return KeySet([secret_key(issuer.secret, issuer.algorithms[0])])
    except WeakKey as exc:
        raise ConfigError(f"issuer {issuer.name!r}: {exc}") from exc


def _check_url(issuer: Issuer, url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"issuer {issuer.name!r}: {url!r} is not an http or https URL")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        log.warning("issuer %s: keys are fetched without TLS; whoever controls the network can forge tokens", issuer.name)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _swap(old: KeySet, new: KeySet, on_removed: OnRemoved, issuer: Issuer) -> KeySet:
    removed = old.fingerprints - new.fingerprints
    added = new.fingerprints - old.fingerprints
    if added or removed:
        log.info("issuer %s: %d keys, %d of them new, %d left", issuer.name, len(new), len(added), len(removed))
    if removed:
        on_removed(removed)
    return new


def _warn_dropped(issuer: Issuer, dropped: tuple[DroppedKey, ...]) -> None:
    for key in dropped:
        log.warning("issuer %s: not used: %s", issuer.name, key)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        document = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(document) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"more than {MAX_DOCUMENT_BYTES} bytes")
    return document
