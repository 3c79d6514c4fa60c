"""Synthetic health records: plausible, obviously invented, and the same on every machine.

Names are built from syllables, so no record is about a person. Field names follow FHIR R4 (`Patient`, `Coverage`, `Claim`), flattened
where a demonstration gains nothing from the nesting. Amounts are decimal strings, because money is no binary fraction. No text of a
licensed code set is used.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, Final, TypeVar

Record = dict[str, Any]
T = TypeVar("T")

SEED: Final = 20_240_601
#: Everything is dated before this day, so the records don't change with the calendar.
REFERENCE_DAY: Final = date(2025, 6, 1)
PATIENTS: Final = 240
CLAIMS: Final = 180
#: `/patients/123` is the example of every page, so it has to exist.
FIRST_PATIENT: Final = 100

_ONSETS: Final = ("b", "br", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "tr", "v", "w", "z")
_VOWELS: Final = ("a", "e", "i", "o", "u", "ae", "ei")
_GIVEN_ENDINGS: Final = ("la", "ri", "no", "ven", "mir", "sa", "dan", "lis")
_FAMILY_ENDINGS: Final = ("wick", "mar", "holt", "sund", "berro", "tane", "quill", "dray")
_TOWN_ENDINGS: Final = ("ford", "haven", "mere", "fall", "stead")
_STREET_KINDS: Final = ("Street", "Avenue", "Lane", "Road")
_STATES: Final = ("CO", "GA", "ME", "MN", "NM", "OH", "OR", "PA", "TX", "VA", "WA", "WI")
_GENDERS: Final = ("female", "male", "other", "unknown")
_SERVICES: Final = (
    ("office-visit", 80, 240),
    ("laboratory-panel", 25, 190),
    ("imaging", 180, 1400),
    ("physical-therapy", 60, 160),
    ("vaccination", 20, 90),
    ("emergency-visit", 400, 3200),
)
_CLAIM_STATES: Final = ("active", "active", "active", "cancelled", "draft")
_PLANS: Final = (
    ("bronze", 6500, 40),
    ("silver", 4000, 30),
    ("gold", 1500, 20),
    ("community", 500, 10),
)


@dataclass(frozen=True, slots=True)
class Dataset:
    """All records of the demonstration, by kind."""

    patients: tuple[Record, ...]
    plans: tuple[Record, ...]
    policies: tuple[Record, ...]
    claims: tuple[Record, ...]

    def files(self) -> dict[str, str]:
        """File name -> content, one record a line, so that a change shows as the lines that changed."""
        return {f"{kind}.json": _lines(getattr(self, kind)) for kind in ("patients", "plans", "policies", "claims")}


def generate(seed: int = SEED) -> Dataset:
    """Make every record. The same seed gives the same records on every platform and Python version.

    Only `random()` is drawn from: it is the one method of the generator whose sequence Python promises to keep.
    """
    draw = _Draw(seed)
    patients = tuple(_patient(draw, FIRST_PATIENT + number) for number in range(PATIENTS))
    plans = tuple(_plan(*plan) for plan in _PLANS)
    policies = tuple(_policy(draw, patient, 20_000 + number) for number, patient in enumerate(patients))
    claims = tuple(_claim(draw, draw.choice(policies), 100 + number) for number in range(CLAIMS))
    return Dataset(patients, plans, policies, claims)


class _Draw:
    """Choices made from `random()` alone."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def below(self, bound: int) -> int:
        return int(self._random() * bound)

    def choice(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def word(self, syllables: int, endings: Sequence[str]) -> str:
        stem = "".join(self.choice(_ONSETS) + self.choice(_VOWELS) for _ in range(syllables))
        return (stem + self.choice(endings)).capitalize()

    def day(self, earliest: date, latest: date) -> date:
        return earliest + timedelta(days=self.below((latest - earliest).days + 1))


def _patient(draw: _Draw, number: int) -> Record:
    return {
        "resourceType": "Patient",
        "id": str(number),
        "active": draw.below(20) > 0,
        "identifier": f"HMS-{700_000 + number * 37}",
        "name": {"family": draw.word(1, _FAMILY_ENDINGS), "given": [draw.word(1, _GIVEN_ENDINGS)]},
        "gender": draw.choice(_GENDERS[:2] if draw.below(20) else _GENDERS),
        "birthDate": draw.day(date(1935, 1, 1), REFERENCE_DAY).isoformat(),
        "address": {
            "line": [f"{1 + draw.below(990)} {draw.word(1, _TOWN_ENDINGS)} {draw.choice(_STREET_KINDS)}"],
            "city": draw.word(1, _TOWN_ENDINGS),
            "state": draw.choice(_STATES),
        },
        "managingOrganization": f"clinic-{1 + draw.below(12):02}",
    }


def _plan(name: str, deductible: int, copay: int) -> Record:
    return {
        "resourceType": "InsurancePlan",
        "id": name,
        "name": f"HMS {name.capitalize()}",
        "deductible": {"value": deductible, "currency": "USD"},
        "copay": {"value": copay, "currency": "USD"},
    }


def _policy(draw: _Draw, patient: Record, number: int) -> Record:
    start = draw.day(date(2022, 1, 1), date(2025, 1, 1))
    return {
        "resourceType": "Coverage",
        "id": f"POL{number}",
        "status": "active" if draw.below(8) else "cancelled",
        "beneficiary": patient["id"],
        "plan": draw.choice(_PLANS)[0],
        "period": {"start": start.isoformat(), "end": (start + timedelta(days=1095)).isoformat()},
    }


def _claim(draw: _Draw, policy: Record, number: int) -> Record:
    items = [_item(draw, sequence) for sequence in range(1, 2 + draw.below(3))]
    return {
        "resourceType": "Claim",
        "id": f"CLM{number}",
        "status": draw.choice(_CLAIM_STATES),
        "patient": policy["beneficiary"],
        "insurance": policy["id"],
        "created": draw.day(date(2025, 1, 1), REFERENCE_DAY).isoformat(),
        "item": items,
        "total": {"value": str(sum((Decimal(item["net"]) for item in items), Decimal())), "currency": "USD"},
    }


def _item(draw: _Draw, sequence: int) -> Record:
    service, least, most = draw.choice(_SERVICES)
    cents = least * 100 + draw.below((most - least) * 100)
    return {"sequence": sequence, "productOrService": service, "net": str(Decimal(cents).scaleb(-2))}


def _lines(records: Sequence[Record]) -> str:
    return "[\n" + ",\n".join(json.dumps(record, separators=(",", ":")) for record in records) + "\n]\n"
