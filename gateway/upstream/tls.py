"""TLS towards upstreams: contexts are made once, at start, so that an unreadable file fails the start."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable

import discovery.tls
from gateway.errors import ConfigError
from gateway.route import Service, UpstreamTLS

#: Gives the context for a service's `https` instances.
ContextSource = Callable[[], ssl.SSLContext]


def context_source(service: Service) -> ContextSource:
    """Where the context for a service's `https` instances comes from.

    It is made now, unless all instances are plain ones of a list and nothing is configured: then nobody may ever ask for it, and reading
    the system's authorities takes 25 ms of CPU.

    Raises:
        ConfigError: as `client_context` does.
    """
    source = functools.cache(functools.partial(client_context, service.tls, service.name))
    if service.consul is not None or service.tls != UpstreamTLS() or any(instance.scheme == "https" for instance in service.instances):
        source()
    return source


def client_context(settings: UpstreamTLS, service: str) -> ssl.SSLContext:
    """The context for a service's `https` instances: TLS 1.2 or newer, certificate and name verified unless told otherwise.

    Raises:
        ConfigError: a file can't be read or is no PEM of its kind; the message names the key and the file.
    """
    section = f"services.{service}.tls"
    try:
        context = discovery.tls.client_context(settings.ca_file)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"{section}.ca_file: {settings.ca_file!r} is not a readable PEM bundle of certificates: {exc}") from exc
    if settings.certificate_file:
        try:
            discovery.tls.show(context, settings.certificate_file, settings.key_file)
        except (OSError, ValueError) as exc:
            pair = f"{settings.certificate_file!r} with key_file {settings.key_file!r}"
            raise ConfigError(f"{section}.certificate_file: {pair} is not a readable PEM certificate and key: {exc}") from exc
    context.set_alpn_protocols(["http/1.1"])
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
