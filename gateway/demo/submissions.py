"""What clients may send to the demonstration services, validated before anything is stored."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Identity = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,40}$")]
Amount = Annotated[Decimal, Field(gt=0, le=1_000_000, decimal_places=2)]


class _Submission(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClaimItem(_Submission):
    """One service that a clinic bills. `net` is in US dollars."""

    # The spelling is FHIR's.
    productOrService: Annotated[str, Field(pattern=r"^[a-z][a-z-]{1,40}$")]
    net: Amount


class ClaimSubmission(_Submission):
    """A new claim: whose it is, which policy pays, and what is billed."""

    patient: Identity
    insurance: Identity
    item: Annotated[list[ClaimItem], Field(min_length=1, max_length=50)]


class Period(_Submission):
    """First and last day of cover."""

    start: date
    end: date

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end < self.start:
            raise ValueError("end must not be before start")
        return self


class PolicyUpdate(_Submission):
    """What a clinic may change on a policy. A field that is not sent stays as it is."""

    status: Literal["active", "cancelled"] | None = None
    plan: Literal["bronze", "silver", "gold", "community"] | None = None
    period: Period | None = None
