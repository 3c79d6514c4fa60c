"""TLS towards upstreams: contexts are made once, at start, so that an unreadable file fails the start."""

from __future__ import annotations

import ssl

from gateway.errors import ConfigError
from gateway.route import UpstreamTLS


def client_context(settings: UpstreamTLS, service: str) -> ssl.SSLContext:
    """The context for a service's `https` instances: TLS 1.2 or newer, certificate and name verified unless told otherwise.

    Raises:
        ConfigError: a file can't be read or is no PEM of its kind; the message names the key.
    """
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"services.{service}.tls.ca_file: {settings.ca_file!r} is not a readable PEM bundle of certificates: {exc}"
        ) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.certificate_file:
        try:
            context.load_cert_chain(settings.certificate_file, settings.key_file or None)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"services.{service}.tls.certificate_file: {settings.certificate_file!r} with key_file {settings.key_file!r} "
                f"is not a readable PEM certificate and key: {exc}"
            ) from exc
    return context
