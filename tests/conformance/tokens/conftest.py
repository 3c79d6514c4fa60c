"""One gateway for all hostile tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.tokens.subject import configuration
from tests.support.redis_server import any_server, wait_until
from tests.support.whole_gateway import ProcessGateway, Upstream, running, upstream


@pytest.fixture(scope="package")
def service() -> Iterator[Upstream]:
    with upstream("patients") as started:
        yield started


@pytest.fixture(scope="package")
def gateway(service: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessGateway]:
    directory = tmp_path_factory.mktemp("gateway")
    with any_server("redis") as store, running(directory, configuration(directory, service, store.url)) as started:
        wait_until(lambda: started.admin("GET", "/readyz").status_code == 200, "the gateway to be ready")
        yield started
