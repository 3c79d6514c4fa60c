"""What the self-test finds out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        what: what was looked at, in one or two words.
        level: `problem` for what keeps a gateway from doing its job, `warning` for what is dangerous.
        told: what was found, for operators; never a secret.
    """

    what: str
    level: Level
    told: str
