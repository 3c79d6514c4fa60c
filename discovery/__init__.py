"""Service discovery: where the instances of a service are, and which of them takes a request. It knows nothing of the gateway."""

from discovery.balance import Balancer
from discovery.condition import Condition
from discovery.consul import Consul, agent_from_environment
from discovery.directory import Directory, ServiceView, Snapshot, Watched
from discovery.endpoint import Endpoint
from discovery.instance import Balance, ConsulAgent, ConsulQuery, Instance
from discovery.registration import Registration, registered
from discovery.reply import ConsulError
from discovery.source import Failed, Found, Source
from discovery.static import StaticSource
from discovery.watch import ConsulSource

__all__ = [
    "Balance",
    "Balancer",
    "Condition",
    "Consul",
    "ConsulAgent",
    "ConsulError",
    "ConsulQuery",
    "ConsulSource",
    "Directory",
    "Endpoint",
    "Failed",
    "Found",
    "Instance",
    "Registration",
    "ServiceView",
    "Snapshot",
    "Source",
    "StaticSource",
    "Watched",
    "agent_from_environment",
    "registered",
]
