"""The applications of the demonstration: three small services over synthetic records.

They are ordinary services that know nothing of the gateway: JSON in and out, health at `/healthz`, problems as RFC 9457 documents.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.demo.records import Table, load
from gateway.demo.submissions import ClaimSubmission, PolicyUpdate
from gateway.demo.synthesis import Record

Handler = Callable[[Request], Awaitable[Response]]
Submission = TypeVar("Submission", bound=BaseModel)

#: A page of a search when the client asks for no other, and the most that it may ask for.
DEFAULT_PAGE: Final = 20
MAXIMUM_PAGE: Final = 100


class Unprocessable(Exception):
    """What was sent can't be stored. `problems` maps a field to what is wrong with it."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        self.problems = dict(problems)
        super().__init__(f"refused: {', '.join(self.problems)}")


def patients() -> Starlette:
    """`GET /v1/patients/{id}` and `GET /v1/patients?family=&birthdate=&gender=&organization=`."""
    table = load("patients")
    fields = {"family": "name.family", "birthdate": "birthDate", "gender": "gender", "organization": "managingOrganization"}
    return _service(
        Route("/v1/patients", _search(table, fields)),
        Route("/v1/patients/{id}", _read(table, "patient")),
    )


def claims() -> Starlette:
    """`POST /v1/claims`, `GET /v1/claims/{id}` and `GET /v1/claims?patient=&status=`. New claims live as long as the process."""
    table, known_policies = load("claims"), load("policies")
    numbers = itertools.count(1 + max(_claim_number(claim) for claim in table.search({})))

    async def submit(request: Request) -> Response:
        submission = await _submitted(request, ClaimSubmission)
        _check_cover(submission, known_policies)
        claim = _stored_claim(f"CLM{next(numbers)}", submission)
        table.put(claim)
        # Relative, so that it is right under whatever path a gateway offers the service (RFC 9110 section 10.2.2).
        return JSONResponse(claim, status_code=201, headers={"Location": f"claims/{claim['id']}"})

    return _service(
        Route("/v1/claims", _search(table, {"patient": "patient", "status": "status"})),
        Route("/v1/claims", submit, methods=["POST"]),
        Route("/v1/claims/{id}", _read(table, "claim")),
    )


def policies() -> Starlette:
    """`GET /v1/plans`, `GET /v1/policies/{id}`, `PATCH /v1/policies/{id}` and `GET /v1/policies?patient=&plan=&status=`."""
    table = load("policies")

    async def update(request: Request) -> Response:
        policy = _found(table, "policy", request)
        changes = await _submitted(request, PolicyUpdate)
        policy = {**policy, **changes.model_dump(mode="json", exclude_none=True)}
        table.put(policy)
        return JSONResponse(policy)

    return _service(
        Route("/v1/plans", _search(load("plans"), {})),
        Route("/v1/policies", _search(table, {"patient": "beneficiary", "plan": "plan", "status": "status"})),
        Route("/v1/policies/{id}", _read(table, "policy")),
        Route("/v1/policies/{id}", update, methods=["PATCH"]),
    )


def _service(*routes: Route) -> Starlette:
    return Starlette(
        routes=[Route("/healthz", _healthz), *routes],
        exception_handlers={HTTPException: _refused, Unprocessable: _unprocessable, Exception: _failed},
    )


async def _healthz(request: Request) -> Response:
    return JSONResponse({"status": "pass"}, media_type="application/health+json")


def _read(table: Table, noun: str) -> Handler:
    async def read(request: Request) -> Response:
        return JSONResponse(_found(table, noun, request))

    return read


def _found(table: Table, noun: str, request: Request) -> Record:
    record = table.get(request.path_params["id"])
    if record is None:
        raise HTTPException(404, f"There is no such {noun}.")
    return record


def _search(table: Table, fields: Mapping[str, str]) -> Handler:
    allowed = {*fields, "_count", "_offset"}

    async def search(request: Request) -> Response:
        query = request.query_params
        if unknown := sorted(set(query) - allowed):
            raise HTTPException(400, f"Unknown search parameter {', '.join(unknown)}; allowed: {', '.join(sorted(allowed))}.")
        found = table.search({fields[name]: value for name, value in query.items() if name in fields})
        count, offset = _number(query, "_count", DEFAULT_PAGE, MAXIMUM_PAGE), _number(query, "_offset", 0, len(table))
        return JSONResponse({"resourceType": "Bundle", "total": len(found), "entry": found[offset : offset + count]})

    return search


def _number(query: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    text = query.get(name, str(default))
    # isdecimal alone admits the digits of other scripts, which int() reads too: harmless, but not what the message allows.
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and int(text) <= maximum):
        raise HTTPException(400, f"{name} must be a whole number from 0 to {maximum}.")
    return int(text)


async def _submitted(request: Request, model: type[Submission]) -> Submission:
    try:
        return model.model_validate_json(await request.body())
    except ValidationError as exc:
        raise Unprocessable({".".join(map(str, error["loc"])) or "body": error["msg"] for error in exc.errors()}) from exc


def _claim_number(record: Record) -> int:
    return int(record["id"].removeprefix("CLM"))


def _check_cover(submission: ClaimSubmission, known_policies: Table) -> None:
    policy = known_policies.get(submission.insurance)
    if policy is None or policy["beneficiary"] != submission.patient:
        raise Unprocessable({"insurance": "This patient has no such policy."})


def _stored_claim(identity: str, submission: ClaimSubmission) -> Record:
    items = [{"sequence": sequence, **item.model_dump(mode="json")} for sequence, item in enumerate(submission.item, 1)]
    return {
        "resourceType": "Claim",
        "id": identity,
        "status": "active",
        "patient": submission.patient,
        "insurance": submission.insurance,
        "created": datetime.now(UTC).date().isoformat(),
        "item": items,
        "total": {"value": str(sum((item.net for item in submission.item), Decimal())), "currency": "USD"},
    }


async def _refused(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    return _problem(exc.status_code, exc.detail, headers=exc.headers)


async def _unprocessable(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, Unprocessable)
    return _problem(422, "The body is not what this service accepts.", problems=exc.problems)


async def _failed(request: Request, exc: Exception) -> Response:
    return _problem(500, "The service failed.")


def _problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> Response:
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")
