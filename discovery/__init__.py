"""Service discovery: where the instances of a service are, and which of them takes a request. It knows nothing of the gateway."""

from discovery.balance import Balancer
from discovery.directory import Directory, ServiceView, Snapshot, Watched
from discovery.endpoint import Endpoint
from discovery.instance import Balance, ConsulAgent, ConsulQuery, Instance
from discovery.source import Failed, Found, Source
from discovery.static import StaticSource

__all__ = [
    "Balance",
    "Balancer",
    "ConsulAgent",
    "ConsulQuery",
    "Directory",
    "Endpoint",
    "Failed",
    "Found",
    "Instance",
    "ServiceView",
    "Snapshot",
    "Source",
    "StaticSource",
    "Watched",
]
