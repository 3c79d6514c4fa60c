"""Services, proxied paths, limits, and a handler that calls a service by name.

Start three services of the demonstration first:

    python -m gateway.demo.services patients --port 9001 &
    python -m gateway.demo.services patients --port 9002 &
    python -m gateway.demo.services claims --port 9003 &

Run:  python examples/clinic_services.py
It prints a token. Then:

    curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/records/patients/123
    curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/patients/123/summary
    curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/claims \\
         --json '{"patient": "123", "insurance": "POL20023", "item": [{"productOrService": "imaging", "net": 310.50}]}'
"""

import asyncio
from typing import Any

from gateway import BackendAPIGateway

gateway = BackendAPIGateway()

# With Consul:  gateway.service("patients", consul="patients")
gateway.service("patients", instances=["http://127.0.0.1:9001", "http://127.0.0.1:9002"])
gateway.service("claims", instances=["http://127.0.0.1:9003"])

# Everything below /records goes to the service as it is, without passing through Python code of ours.
gateway.proxy(
    "/records/{path:path}",
    service="patients",
    methods=["GET"],
    rewrite="/v1/{path}",
    scopes=["patients:read"],
    limits=["10/second", "1000/day"],
)


@gateway.route("/patients/{id}/summary", methods=["GET"], scopes=["patients:read", "claims:read"], limits=["5/second"])
async def summary(request: Any) -> dict[str, Any]:
    """One answer out of two services, asked at the same time."""
    patient_id = request.path_params["id"]
    patient, claims = await asyncio.gather(
        gateway.client("patients").get(f"/v1/patients/{patient_id}"),
        gateway.client("claims").get("/v1/claims", params={"patient": patient_id}),
    )
    if patient.status_code != 200:
        return {"status": patient.status_code, "data": {"detail": "The patient could not be read."}}
    return {"data": {"patient": patient.json(), "claims": claims.json()["entry"]}}


@gateway.route("/claims", methods=["POST"], scopes=["claims:write"], limits=["10/second", "1000/day"])
async def submit_claim(request: Any) -> dict[str, Any]:
    """Hand the service's verdict through, with who submitted the claim."""
    reply = await gateway.client("claims").post("/v1/claims", json=request.json_body)
    return {"status": reply.status_code, "data": {"submitted_by": request.principal.subject, "claim": reply.json()}}


@gateway.route("/status", methods=["GET"], authentication="none", limits=["60/minute"])
def status(request: Any) -> dict[str, Any]:
    return {"data": {"status": "pass"}}


if __name__ == "__main__":
    gateway.start(port=8080)
