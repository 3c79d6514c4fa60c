"""What the pipeline saw of one request: filled on the way, read once at the end by metrics, audit, access log and spans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gateway.certificates import CERTIFICATE

if TYPE_CHECKING:
    from gateway.auth.principal import Principal
    from gateway.certificates import ClientCertificate
    from gateway.route import Route
    from gateway.telemetry.trace_context import Trace


class Try:
    """One attempt to have an upstream answer.

    Times are `time.time_ns()`; `answered` is `loop.time()` at the end of the response's header, 0 before. `error` is an `upstream_*`
    reason, empty when a response came. `span_id` is 16 hexadecimal digits. `service` and `method` are set when they aren't the request's
    own: a handler calls services too.
    """

    __slots__ = ("address", "answered", "ended_ns", "error", "instance", "method", "service", "span_id", "started_ns", "status")

    def __init__(self, instance: str, address: str, span_id: bytes, started_ns: int) -> None:
        self.instance = instance
        self.address = address
        self.service = ""
        self.method = ""
        self.answered = 0.0
        self.span_id = span_id
        self.started_ns = started_ns
        self.ended_ns = 0
        self.status = 0
        self.error = ""

    @property
    def failed(self) -> bool:
        """Whether a further try at the same service is there because of this one."""
        return bool(self.error) or self.status >= 500


def resend_counts(tries: Sequence[Try]) -> list[int]:
    """How many failed tries at the same service came right before each try."""
    if len(tries) < 2:
        return [0] * len(tries)
    counts: list[int] = []
    for index, attempt in enumerate(tries):
        previous = tries[index - 1] if index else None
        again = previous is not None and previous.failed and previous.service == attempt.service
        counts.append(counts[-1] + 1 if again else 0)
    return counts


class Observation:
    """Facts of one request.

    `started_ns`/`ended_ns` are `time.time_ns()`. `scheme` is how the client spoke to us. `route` is None when nothing matched. `code` is
    the error code of CONTRACT section 5, empty when the request was admitted and answered; `reason` is the finer word for records. `limits`
    are (name, remaining), `limited` the names of those that refused. `service` is empty for local targets. `denied` is True when a step
    before the target refused. `request_bytes` and `response_bytes` count bodies. `peer_ip` is the socket's, `client_ip` what trusted
    proxies said. `memo` is shared by requests with the same fields on the same connection: records keep there what they spell from those.
    `timing` is theirs too.
    """

    # Defaults stand on the class, not in slots: most requests never touch them.
    ended_ns = 0
    method = ""
    scheme = "http"
    host = ""
    route: Route | None = None
    service = ""
    status = 0
    code = ""
    reason = ""
    denied = False
    client_ip = ""
    client_port = 0
    peer_ip = ""
    user_agent = ""
    principal: Principal | None = None
    request_id = ""
    request_bytes = 0
    response_bytes = 0
    limits: tuple[tuple[str, int], ...] = ()
    limited: tuple[str, ...] = ()
    shadow_limited: tuple[str, ...] = ()
    path_params: Mapping[str, object] = MappingProxyType({})
    generation = 1
    store_mode = "shared"
    timing: tuple[str, str] | None = None

    def __init__(self, started_ns: int, trace: Trace, memo: dict[str, Any] | None = None) -> None:
        self.started_ns = started_ns
        self.trace = trace
        self.tries: list[Try] = []
        self.memo: dict[str, Any] = {} if memo is None else memo

    @property
    def certificate(self) -> ClientCertificate | None:
        """What the client has shown on its connection."""
        found: ClientCertificate | None = self.memo.get(CERTIFICATE)
        return found
