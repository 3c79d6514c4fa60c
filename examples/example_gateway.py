"""The smallest gateway: two routes that are answered by Python functions.

Run:  python examples/example_gateway.py
It prints a token, because no issuer is configured. Then:

    curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8080/patients/123
    curl -H "Authorization: Bearer $TOKEN" --json '{"patient": "123"}' http://127.0.0.1:8080/claims
"""

from typing import Any

from hms_etl.gateway import BackendAPIGateway

gateway = BackendAPIGateway()


@gateway.route("/patients/{id}", methods=["GET"])
def get_patient(request: Any) -> dict[str, Any]:
    # pretend that a patient service was asked
    return {"status": 200, "data": {"id": request.path_params["id"], "name": "Jane Doe"}}


@gateway.route("/claims", methods=["POST"])
def submit_claim(request: Any) -> dict[str, Any]:
    # pretend that the claim was validated and forwarded
    claim = request.json_body
    return {"status": 201, "data": {"claim_id": "CLM123", "received": claim}}


if __name__ == "__main__":
    gateway.start(port=8080)
