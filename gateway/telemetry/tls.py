"""What is known of TLS, as metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gateway.settings import OwnCertificate
from gateway.telemetry.metrics import Labels, Source


def tls_sources(
    failures: Callable[[], Iterable[tuple[Labels, float]]], certificates: Callable[[], Mapping[str, OwnCertificate]]
) -> list[Source]:
    """The metrics, from a function that returns ((place, reason), number) and one that returns our certificates by configuration key."""
    return [
        Source("gateway_tls_failures_total", "TLS handshakes that failed.", "counter", ("place", "reason"), failures),
        Source(
            "gateway_certificate_not_after_seconds",
            "When a certificate of ours expires, seconds since the epoch.",
            "gauge",
            ("certificate",),
            lambda: [((key,), certificate.not_after) for key, certificate in certificates().items()],
        ),
    ]
