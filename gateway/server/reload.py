"""Loading the configuration again: when a signal says so, an administrator, or a file that has changed. All of it, or nothing (F-54)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Literal, Protocol

from discovery.ending import end
from gateway.config.files import digest_of
from gateway.config.problems import ConfigProblems, Problem
from gateway.errors import ConfigError
from gateway.failure import outline
from gateway.settings import Settings
from gateway.telemetry.audit import EventKind

logger = logging.getLogger("gateway.reload")

Trigger = Literal["signal", "file", "admin"]

#: Between looks at the files.
POLL_SECONDS = 1.0
#: A file that has changed is read once it has not changed any more for so long: whoever writes it in place may not be done.
SETTLE_SECONDS = 0.25
#: Sections of which nothing can change while the process runs, and single keys of the others.
FIXED_SECTIONS = ("state", "telemetry", "audit")
FIXED_KEYS = {"server": ("host", "port", "workers"), "admin": ("host", "port")}
#: What may change of them: files that are read again for each connection.
CHANGEABLE = frozenset(("state.fingerprint",))

#: What tells whether a file may have changed, without reading it; None when it isn't there.
Stamp = tuple[int, int, int, int] | None


class Target(Protocol):
    """The gateway at work."""

    @property
    def draining(self) -> bool:
        """Whether it ends: then nothing is loaded any more."""

    @property
    def generation(self) -> int:
        """Number of the configuration at work."""

    async def adopt(self, settings: Settings) -> int:
        """Put other settings to work; the number of the generation. Raises ConfigError."""


class Recorder(Protocol):
    """The audit."""

    def event(self, kind: EventKind, detail: Mapping[str, object]) -> None:
        """Record something that is no request."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A configuration that was accepted.

    Args:
        generation: the one at work now.
        changed: whether it is another one than before.
    """

    generation: int
    changed: bool


class Reloader:
    """Loads the configuration of one process again.

    Args:
        read: loads the settings, as at the start. Called in a thread. Raises ConfigError.
        declared: what it gave at the start.
        target: what the settings are put to work in.
        recorder: of what was accepted and refused.
        on_accepted: called after each change.
    """

    def __init__(
        self,
        read: Callable[[], Settings],
        declared: Settings,
        target: Target,
        recorder: Recorder,
        on_accepted: Callable[[], None],
    ) -> None:
        self._read = read
        self._declared = declared
        self._target = target
        self._recorder = recorder
        self._on_accepted = on_accepted
        self._lock = asyncio.Lock()
        #: What the files held when they were last loaded, accepted or not.
        self._seen = dict(declared.files)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to watch the files."""
        self._run(self._watch())

    async def close(self) -> None:
        """Stop watching."""
        await end(self._tasks)

    def request(self, trigger: Trigger) -> None:
        """Load again soon. What comes of it is in the log and in the audit."""
        self._run(self._try(trigger))

    async def reload(self, trigger: Trigger) -> Reloaded:
        """Load again.

        Raises:
            ConfigError: it can't be used, so the one before stays at work. A `ConfigProblems` says everything that is wrong.
        """
        async with self._lock:
            before = self._target.generation
            try:
                generation = await self._load()
            except ConfigError as error:
                self._refused(trigger, error)
                raise
            if generation == before:
                logger.info("configuration loaded again (%s): nothing has changed", trigger)
                return Reloaded(generation, changed=False)
            logger.info("configuration loaded again (%s): generation %d is at work", trigger, generation)
            self._recorder.event("config", {"action": "reload", "trigger": trigger, "result": "accepted", "generation": generation})
            self._on_accepted()
            return Reloaded(generation, changed=True)

    async def _load(self) -> int:
        if self._target.draining:
            raise ConfigError("the gateway is ending")
        # A configuration that is refused names no files: those of the one before are watched on, as they are now.
        await asyncio.to_thread(self._hold_something_else)
        settings = await asyncio.to_thread(self._read)
        self._seen = dict(settings.files)
        if problems := [fixed_problem(key, settings) for key in fixed_changes(self._declared, settings)]:
            raise ConfigProblems(problems)
        generation = await self._target.adopt(settings)
        self._declared = settings
        return generation

    def _refused(self, trigger: Trigger, error: ConfigError) -> None:
        problems = error.problems if isinstance(error, ConfigProblems) else []
        told = [str(problem) for problem in problems] or [" ".join(str(error).split())]
        generation = self._target.generation
        logger.error("configuration refused (%s), generation %d stays at work: %s", trigger, generation, " | ".join(told))
        # Which keys, and not the sentences: these repeat values.
        keys = [problem.key_path or f"{problem.file}:{problem.line}" for problem in problems]
        self._recorder.event(
            "config",
            {"action": "reload", "trigger": trigger, "result": "refused", "generation": generation, "problems": len(told), "keys": keys},
        )

    async def _try(self, trigger: Trigger) -> None:
        try:
            await self.reload(trigger)
        except ConfigError:
            pass
        except Exception as error:
            logger.error("loading the configuration again broke down; the one before stays at work\n%s", outline(error))

    # Watching

    async def _watch(self) -> None:
        """Load again whenever a file holds something else than when it was last loaded.

        Looks, rather than being told by the kernel: that works on every file system, and for the links that Kubernetes swaps.
        """
        stamps: dict[str, Stamp] = {}
        while True:
            now = await asyncio.to_thread(self._stamps)
            if now != stamps:
                stamps = await self._settled(now)
                if await asyncio.to_thread(self._hold_something_else):
                    await self._try("file")
            await asyncio.sleep(POLL_SECONDS)

    async def _settled(self, stamps: dict[str, Stamp]) -> dict[str, Stamp]:
        while True:
            await asyncio.sleep(SETTLE_SECONDS)
            now = await asyncio.to_thread(self._stamps)
            if now == stamps:
                return now
            stamps = now

    def _stamps(self) -> dict[str, Stamp]:
        return {path: _stamp(Path(path)) for path in tuple(self._seen)}

    def _hold_something_else(self) -> bool:
        before = dict(self._seen)
        self._seen = {path: digest_of(Path(path)) for path in before}
        return self._seen != before

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="reload")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def fixed_changes(before: Settings, after: Settings) -> Iterator[str]:
    """Keys that differ and can't change while the process runs."""
    for section in FIXED_SECTIONS:
        differences = _differences(getattr(before, section), getattr(after, section), section)
        yield from (key for key in differences if key not in CHANGEABLE)
    if (before.server.tls is None) != (after.server.tls is None):
        yield "server.tls"
    for section, keys in FIXED_KEYS.items():
        for key in keys:
            yield from _differences(getattr(getattr(before, section), key), getattr(getattr(after, section), key), f"{section}.{key}")


def fixed_problem(key: str, settings: Settings) -> Problem:
    """That a key can't change. Values are left out: some are secret."""
    return Problem(
        settings.source, 0, 0, key, "can't change while the gateway runs", "restart it, or set the value that it was started with"
    )


def _differences(before: object, after: object, path: str) -> Iterator[str]:
    if before == after:
        return
    if is_dataclass(before) and not isinstance(before, type) and type(before) is type(after):
        for field in fields(before):
            yield from _differences(getattr(before, field.name), getattr(after, field.name), f"{path}.{field.name}")
    else:
        yield path


def _stamp(path: Path) -> Stamp:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev
