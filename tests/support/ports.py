"""Ports for servers that other processes start."""

from __future__ import annotations

import itertools
import random
import socket

#: Below those that the system gives to connections, and to servers that ask for any (Linux: 32768 and up): nobody gets one of these by
#: chance between the moment when it is chosen and the one when its server listens. None twice in a run, in an order of this run's own.
_CANDIDATES = itertools.cycle(random.SystemRandom().sample(range(21_000, 32_000), 11_000))


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, and that nobody else will."""
    for port in itertools.islice(_CANDIDATES, 1000):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no free port on {host}")
