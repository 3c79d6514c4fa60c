"""Whether a client's certificate may use a route: compiled once, held against the connection's certificate on every request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from gateway.certificates import ClientCertificate
from gateway.errors import CertificateForbidden
from gateway.route import CertificateRule

#: Raises CertificateForbidden, or returns.
CertificateCheck = Callable[[ClientCertificate | None], None]


def compile_certificate_rule(rule: CertificateRule | None) -> CertificateCheck | None:
    """The check of a route; None for a route that asks for no certificate.

    Of each kind that the rule names, one of the certificate's values has to be among those allowed.
    """
    if rule is None:
        return None
    named = [(field.name, frozenset(getattr(rule, field.name))) for field in fields(rule)]
    wanted = tuple((kind, allowed) for kind, allowed in named if allowed)

    def check(certificate: ClientCertificate | None) -> None:
        if certificate is None:
            raise CertificateForbidden("This route needs a client certificate.", reason="client_certificate_missing")
        for kind, allowed in wanted:
            if allowed.isdisjoint(certificate.values(kind)):
                raise CertificateForbidden(reason="client_certificate_mismatch")

    return check
