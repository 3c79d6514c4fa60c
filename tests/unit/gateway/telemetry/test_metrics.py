"""What is counted, under which names."""

from __future__ import annotations

import pytest

from gateway.route import Route
from gateway.telemetry.exposition import render
from gateway.telemetry.metrics import MAXIMUM_SERIES, AdmissionObserver, CappedCounter, Metrics, Source, endpoints_source
from tests.support.observations import attempt, observation


def lines(metrics: Metrics) -> set[str]:
    return {line for line in render(metrics).decode().splitlines() if not line.startswith("#")}


def test_requests_are_counted_by_route_method_and_status() -> None:
    """CONTRACT section 6: gateway_requests_total{route,method,status}."""
    metrics = Metrics()
    for status in (200, 200, 404):
        metrics.observe(observation(status=status))
    metrics.observe(observation(method="POST"))
    metrics.observe(observation(route=None, status=404))
    assert {
        'gateway_requests_total{method="GET",route="get-patient",status="200"} 2.0',
        'gateway_requests_total{method="GET",route="get-patient",status="404"} 1.0',
        'gateway_requests_total{method="POST",route="get-patient",status="200"} 1.0',
        'gateway_requests_total{method="GET",route="_none",status="404"} 1.0',
    } <= lines(metrics)


def test_durations_are_kept_for_requests_and_tries() -> None:
    """CONTRACT section 6: both duration histograms."""
    metrics = Metrics()
    metrics.observe(observation())
    assert {
        'gateway_request_duration_seconds_bucket{le="0.001",route="get-patient"} 0.0',
        'gateway_request_duration_seconds_bucket{le="0.0025",route="get-patient"} 1.0',
        'gateway_request_duration_seconds_bucket{le="+Inf",route="get-patient"} 1.0',
        'gateway_request_duration_seconds_count{route="get-patient"} 1.0',
        'gateway_request_duration_seconds_sum{route="get-patient"} 0.0015',
        'gateway_upstream_request_duration_seconds_bucket{le="0.0005",service="patients"} 0.0',
        'gateway_upstream_request_duration_seconds_bucket{le="0.001",service="patients"} 1.0',
        'gateway_upstream_request_duration_seconds_count{service="patients"} 1.0',
    } <= lines(metrics)


def test_refusals_retries_and_ejections_are_counted() -> None:
    """CONTRACT section 6: limited, denied, retries, ejections."""
    metrics = Metrics()
    metrics.observe(observation(status=429, code="rate_limited", limited=("per-client", "daily"), denied=True, tries=[]))
    metrics.observe(observation(status=429, code="rate_limited", reason="authentication_failures", denied=True, tries=[]))
    metrics.observe(observation(status=401, code="token_expired", denied=True, tries=[]))
    metrics.observe(observation(status=502, code="bad_gateway", reason="upstream_reset", tries=[attempt(503) for _ in range(3)]))
    metrics.observe(observation(shadow_limited=("new",)))
    metrics.ejected("patients")
    assert {
        'gateway_limited_total{limit="per-client",route="get-patient"} 1.0',
        'gateway_limited_total{limit="daily",route="get-patient"} 1.0',
        'gateway_limited_total{limit="authentication_failures",route="get-patient"} 1.0',
        'gateway_shadow_limited_total{limit="new",route="get-patient"} 1.0',
        'gateway_denied_total{reason="rate_limited",route="get-patient"} 2.0',
        'gateway_denied_total{reason="token_expired",route="get-patient"} 1.0',
        'gateway_retries_total{service="patients"} 2.0',
        'gateway_ejections_total{service="patients"} 1.0',
    } <= lines(metrics)
    assert not any("bad_gateway" in line for line in lines(metrics))


def test_calls_of_a_handler_are_counted_for_their_service() -> None:
    """CONTRACT section 6: gateway_upstream_request_duration_seconds{service}, not of the route's target, which is local."""
    metrics = Metrics()
    called, unnamed = attempt(), attempt()
    called.service = "claims"
    metrics.observe(observation(service="", tries=[called, unnamed]))
    assert {
        'gateway_upstream_request_duration_seconds_count{service="claims"} 1.0',
        'gateway_upstream_request_duration_seconds_count{service="_none"} 1.0',
    } <= lines(metrics)
    assert not any(line.startswith("gateway_retries_total") for line in lines(metrics))


def test_admission_revocation_and_configuration_report() -> None:
    """CONTRACT section 6: the rest of the names."""
    metrics = Metrics()
    observer: AdmissionObserver = metrics
    observer.batch(1, 0.0002)
    observer.batch(17, 0.003)
    observer.mode("unavailable")
    observer.mode("shared")
    metrics.generation(7)
    metrics.revocation_propagated(0.02)
    assert {
        "gateway_admission_batch_size_sum 18.0",
        "gateway_admission_batch_size_count 2.0",
        'gateway_admission_batch_size_bucket{le="16.0"} 1.0',
        'gateway_admission_batch_size_bucket{le="32.0"} 2.0',
        "gateway_admission_duration_seconds_count 2.0",
        'gateway_store_state{mode="shared"} 1.0',
        'gateway_store_state{mode="unavailable"} 0.0',
        "gateway_config_generation 7.0",
        "gateway_revocation_propagation_seconds_count 1.0",
        'gateway_revocation_propagation_seconds_bucket{le="0.025"} 1.0',
    } <= lines(metrics)


def test_sources_are_read_at_each_scrape() -> None:
    """CONTRACT section 6: gateway_endpoints{service,state} comes from discovery."""
    endpoints = [(("patients", "healthy"), 2.0)]
    dropped = [0.0]
    metrics = Metrics([endpoints_source(lambda: endpoints), Source("x_total", "X.", "counter", (), lambda: [((), dropped[0])])])
    assert {'gateway_endpoints{service="patients",state="healthy"} 2.0', "x_total 0.0"} <= lines(metrics)
    endpoints.append((("patients", "ejected"), 1.0))
    dropped[0] = 3.0
    assert {'gateway_endpoints{service="patients",state="ejected"} 1.0', "x_total 3.0"} <= lines(metrics)


def test_hostile_traffic_makes_no_new_series() -> None:
    """F-62: methods outside the known set, statuses that nobody defined, and unmatched paths are counted together."""
    metrics = Metrics()
    for number in range(500):
        metrics.observe(observation(method=f"M{number}", status=600 + number, route=None, tries=[], service=""))
    requests = {line for line in lines(metrics) if line.startswith("gateway_requests_total")}
    assert requests == {'gateway_requests_total{method="_OTHER",route="_none",status="0"} 500.0'}


def test_label_sets_are_capped() -> None:
    """F-62: whatever reports, a counter's series are bounded, and nothing goes uncounted."""
    counter = CappedCounter()
    for number in range(3 * MAXIMUM_SERIES):
        counter.add((f"route-{number}", "limit"))
    assert len(counter.counts) == MAXIMUM_SERIES + 1
    assert counter.counts["_other", "_other"] == 2 * MAXIMUM_SERIES


def test_a_route_keeps_its_counters_across_generations() -> None:
    """Counters never go back: a reload makes new Route objects with the same names."""
    metrics = Metrics()
    for path in ("/a", "/b"):
        metrics.observe(observation(route=Route(name="r", path=path, target="patients")))
    assert 'gateway_requests_total{method="GET",route="r",status="200"} 2.0' in lines(metrics)


@pytest.mark.parametrize("name", ["gateway_limited", "gateway_denied", "gateway_retries", "gateway_ejections", "gateway_requests"])
def test_counters_are_declared_before_anything_happened(name: str) -> None:
    """A dashboard made on the first day finds the names."""
    assert f"# TYPE {name}_total counter" in render(Metrics()).decode()
