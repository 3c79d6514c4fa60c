"""Replicas that spread keys over different numbers of shards would neither share limits nor revocations: they don't work side by side."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.startup.test_bad_input import assert_refused
from tests.support.ports import free_port
from tests.support.redis_server import redis_server, wait_until
from tests.support.whole_gateway import Json, ProcessGateway, base_document, process_gateway, running, write


def document_for(directory: Path, port: int, shards: int) -> Json:
    return base_document(directory, state={"url": f"redis://127.0.0.1:{port}/0", "shards": shards}, routes=[], services={})


def disagreeing(gateway: ProcessGateway) -> float:
    found = re.search(r"(?m)^gateway_replicas_disagreeing (\S+)", gateway.admin("GET", "/metrics").text)
    assert found is not None
    return float(found[1])


def test_a_replica_with_other_shards_does_not_start_beside_others(tmp_path: Path) -> None:
    """V2, L1: it says which replica disagrees and about what; nothing happens to the others, and once these are gone it starts."""
    with redis_server("redis") as server:
        one, other = (document_for(tmp_path / name, server.port, shards) for name, shards in (("one", 1), ("other", 4)))
        with running(tmp_path / "one", one) as first:
            (described,) = first.admin("GET", "/v1/replicas").json()["replicas"]
            assert described["shards"] == 1
            others = re.escape(f"others that live do not ({described['name']} over 1)")
            told = rf"state\.shards: this replica spreads keys over 4 shards, {others}"
            assert_refused(tmp_path / "other", other, told)
            checked = [sys.executable, "-m", "gateway", "doctor", "-c", str(write(tmp_path / "other", other, "file"))]
            doctor = subprocess.run(checked, capture_output=True, text=True, timeout=60, check=False)
            assert doctor.returncode == 1
            assert re.search(told, doctor.stdout), doctor.stdout
            assert disagreeing(first) == 0
            assert "state.shards" not in first.said
        with running(tmp_path / "other", other) as alone:
            assert disagreeing(alone) == 0


def test_replicas_that_meet_later_say_that_they_disagree(tmp_path: Path) -> None:
    """V2, L1: neither could look for the other while the store was away."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        gateways = []
        for name, shards in (("one", 1), ("other", 4)):
            gateways.append(process_gateway(tmp_path / name, document_for(tmp_path / name, port, shards)))
            stack.callback(gateways[-1].kill)
        for gateway in gateways:
            gateway.wait_until_listening()
            assert disagreeing(gateway) == 0
        stack.enter_context(redis_server("redis", "--port", str(port)))
        for gateway, others in zip(gateways, (4, 1), strict=True):
            wait_until(lambda gateway=gateway: disagreeing(gateway) == 1, "the other one to be heard")  # type: ignore[misc]
            (line,) = [line for line in gateway.said.splitlines() if "state.shards: " in line]
            assert "ERROR" in line
            assert f" over {others})" in line
