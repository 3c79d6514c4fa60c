"""Routes that services publish of themselves in their metadata (SPEC D10), as far as discovery understands them: words, not yet routes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from discovery.instance import Instance

PREFIX = "gateway-"
KEYS = ("gateway-path", "gateway-methods", "gateway-scopes", "gateway-limits")
#: Consul's own bound on a value of metadata.
MAXIMUM_CHARACTERS = 512


@dataclass(frozen=True, slots=True, order=True)
class Publication:
    """What a service says about its route: a path template, and words for the rest; nothing is checked yet.

    Args:
        methods: GET when it names none.
        limits: names of limits, or rates such as `10/second`.
        strange: further keys that begin with `gateway-`, which nobody reads.
    """

    path: str
    methods: tuple[str, ...] = ("GET",)
    scopes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    strange: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the instances of a service publish together.

    Args:
        publication: what most of them say; None when they publish nothing.
        problem: what is wrong with it; empty when nothing is.
    """

    publication: Publication | None = None
    problem: str = ""


def read(instances: Iterable[Instance]) -> Reading:
    """What the instances publish. While a new version is rolled out they differ: what most of them say holds until it is done."""
    said = Counter(_publication(instance) for instance in instances)
    if not said:
        return Reading()
    # Among equals always the same one, whatever the order of the instances.
    publication = max(said, key=lambda one: (said[one], repr(one)))
    others = sum(said.values()) - said[publication]
    return Reading(publication, f"{others} instances publish something else" if others else "")


def _publication(instance: Instance) -> Publication | None:
    meta = instance.meta
    path = meta.get("gateway-path", "").strip()
    if not path:
        return None
    return Publication(
        path,
        _words(meta.get("gateway-methods", "")) or ("GET",),
        _words(meta.get("gateway-scopes", "")),
        tuple(filter(None, (part.strip() for part in meta.get("gateway-limits", "").split(",")))),
        tuple(sorted(key for key in meta if key.startswith(PREFIX) and (key not in KEYS or len(meta[key]) > MAXIMUM_CHARACTERS))),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(filter(None, re.split(r"[\s,]+", text)))
