"""Seeds that are made of what other suites hold: the conformance tables, hostile tokens, malformed configurations.

They are put beside the corpus when fuzzing begins; `make test` has no use for them, since their own suites prove more of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generated(target: str) -> dict[str, bytes]:
    """Seeds of a target, by a name that follows from the content."""
    make = _SEEDS.get(target)
    return {f"seed-{hashlib.sha256(seed).hexdigest()[:16]}": seed for seed in (make() if make is not None else ()) if seed}


def _requests() -> Iterable[bytes]:
    from tests.conformance.http.case import AFTER
    from tests.conformance.http.test_requests import CASES

    return (case.sent + AFTER for case in CASES.values())


def _responses() -> Iterable[bytes]:
    from tests.conformance.http.answers import CASES

    return (answer.sent for answer in CASES)


def _tokens() -> Iterable[bytes]:
    from tests.conformance.tokens import claims, headers, signatures, spellings

    return (case.token for module in (claims, headers, signatures, spellings) for case in module.CASES)


def _configurations() -> Iterable[bytes]:
    table = (ROOT / "tests/unit/gateway/config/bad_configs.txt").read_text()
    fragments = ("\n".join(line for line in block.splitlines() if not line.startswith("=>")) for block in table.split("\n\n"))
    yield from (f"version: 1\n{fragment}\n".encode() for fragment in fragments)
    yield from (path.read_bytes() for path in (*ROOT.glob("examples/**/*.yaml"), *ROOT.glob("gateway/demo/*.yaml")))


_SEEDS: dict[str, Callable[[], Iterable[bytes]]] = {
    "requests": _requests,
    "responses": _responses,
    "tokens": _tokens,
    "config": _configurations,
}
