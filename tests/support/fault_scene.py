"""What the fault suite makes its faults in: gateways with an ordinary configuration, under load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gateway.telemetry.verification import Verification
from tests.support.load import Ask, Reply
from tests.support.redis_server import RedisServer
from tests.support.whole_gateway import Json, Login, ProcessGateway, base_document

#: What our machine and the client may add to a time that the gateway promises: tests share the machine with others.
SLACK_SECONDS = 1.0
PATHS = ("/limited", "/public")


def scene_document(directory: Path, login: Login, store: str, instances: Sequence[str], **sections: object) -> Json:
    """A public route, one that checks revocation, one with a limit that load does not reach, and one with a scarce limit."""
    return base_document(
        directory,
        **{
            # Where the store is not what fails, a machine that is busy with other tests must not look like a store that does.
            "state": {"url": store, "budget": "2s"},
            "authentication": {"issuers": login.authentication["issuers"]},
            "services": {"patients": {"instances": list(instances)}},
            "limits": {
                "plenty": {"rate": "100000/second", "key": "subject"},
                "scarce": {"rate": "10/second", "burst": 20, "key": "subject"},
                "parallel": {"concurrency": 2, "key": "subject"},
            },
            "routes": [
                {"name": "limited", "path": "/limited", "service": "patients", "limits": ["plenty"]},
                {"name": "scarce", "path": "/scarce", "service": "patients", "limits": ["scarce"]},
                {"name": "parallel", "path": "/parallel/{what}", "service": "patients", "limits": ["parallel"]},
                {"name": "checked", "path": "/checked", "service": "patients"},
                {"name": "public", "path": "/public", "service": "patients", "authentication": "none"},
            ],
            **sections,
        },
    )


def store_url(server: RedisServer) -> str:
    """The server by TCP, as in production."""
    return f"redis://127.0.0.1:{server.port}/0"


def asks(gateways: Sequence[ProcessGateway], headers: dict[str, str], *paths: str) -> list[Ask]:
    """Each path at each gateway, in turn."""
    return [Ask(gateway.url, path, headers) for path in paths for gateway in gateways]


def only(replies: Sequence[Reply], path: str) -> list[Reply]:
    """Those to requests for the path."""
    return [reply for reply in replies if reply.path == path]


def assert_only_store_refusals(replies: Sequence[Reply]) -> None:
    """Nothing but 200, and 503 `store_unavailable` that says when to come again: no 401, 429 or 500, no connection cut."""
    for reply in replies:
        assert reply.status in (200, 503), reply
        if reply.status == 503:
            assert reply.code == "store_unavailable", reply
            assert int(reply.headers["retry-after"]) >= 1, reply


def assert_audit_holds(gateway: ProcessGateway) -> None:
    """O6: no record was changed or lost, as far as its file goes."""
    verification = Verification()
    with gateway.file.open("rb") as file:
        verification.read(gateway.file.name, file)
    problems = [str(finding) for finding in verification.judge() if finding.level == "problem"]
    assert verification.records
    assert not problems, problems


def assert_quiet(gateway: ProcessGateway) -> None:
    """It runs, and nothing surprised it."""
    assert gateway.process.poll() is None, gateway.said
    assert "Traceback" not in gateway.said, gateway.said
