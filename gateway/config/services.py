"""Services: where their instances come from and how they are used."""

from __future__ import annotations

from typing import Literal, cast

import gateway.config.models as models
import gateway.config.syntax as syntax
from discovery.instance import Balance, ConsulQuery, HealthCheck, Instance, Outlier
from gateway.config.files import Files
from gateway.config.pem import pem_files
from gateway.config.problems import FromEnvironment, KeyPath, Report, Wrong, shown, unrepeated
from gateway.route import Circuit, Retry, RetryOn, Service, Timeouts, UpstreamTLS

Policy = Literal["round_robin", "random", "least_request", "ewma", "consistent_hash"]


def service(name: str, section: models.ServiceSection, path: KeyPath, report: Report, files: Files) -> Service:
    """A service from its section; problems go into the report."""
    if (section.consul is None) == (section.instances is None):
        found = "neither consul nor instances" if section.consul is None else "both consul and instances"
        report.add(path, f"the service has {found}", "exactly one of them")
    if section.health is not None and section.instances is None:
        report.add((*path, "health"), "active checks of instances that Consul checks already", "only with instances; or a check in Consul")
    return Service(
        name=name,
        instances=_instances(section.instances, (*path, "instances"), report) if section.instances is not None else (),
        consul=_query(section.consul) if section.consul is not None else None,
        balance=_balance(section.balance),
        timeouts=Timeouts(**section.timeouts.model_dump()),
        retry=_retry(section.retry),
        circuit=Circuit(**section.circuit.model_dump()),
        outlier=Outlier(section.outlier.consecutive_failures, section.outlier.base_ejection, section.outlier.maximum_ejected),
        health=_health(section.health) if section.health is not None else None,
        slow_start=section.slow_start,
        tls=_tls(section.tls, (*path, "tls"), report, files),
        forward_client_certificate=section.forward_client_certificate,
    )


def _query(consul: str | models.ConsulService) -> ConsulQuery:
    if isinstance(consul, str):
        return ConsulQuery(consul)
    return ConsulQuery(consul.service, tuple(consul.tags), *first_and_rest(consul.datacenter))


def first_and_rest(datacenters: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The datacenter to look in, and those to fail over along."""
    return (datacenters[0], datacenters[1:]) if datacenters else ("", ())


def _instances(entries: list[str | models.StaticInstance], path: KeyPath, report: Report) -> tuple[Instance, ...]:
    if not entries:
        report.add(path, "the service has no instance", "at least one URL")
    instances: dict[str, Instance] = {}
    for index, entry in enumerate(entries):
        url, weight, place = (entry, 1, (*path, index)) if isinstance(entry, str) else (entry.url, entry.weight, (*path, index, "url"))
        try:
            instance = _instance(url, weight)
        except Wrong as error:
            report.wrong(place, unrepeated(error) if isinstance(url, FromEnvironment) else error)
            continue
        if instance.id in instances:
            report.add(place, f"the instance {shown(url)} is there twice", "each address once; weight says how much it gets")
        instances[instance.id] = instance
    return tuple(instances.values())


def _instance(url: str, weight: int) -> Instance:
    address = syntax.instance_url(url)
    scheme: Literal["http", "https"] = "https" if address.scheme == "https" else "http"
    unnamed = Instance("", address.host, address.port, weight, scheme)
    return Instance(unnamed.address, address.host, address.port, weight, scheme)


def _balance(balance: str | models.HashBalance) -> Balance:
    if isinstance(balance, str):
        return Balance(cast(Policy, balance))
    return Balance("consistent_hash", balance.consistent_hash.by)


def _retry(section: models.Retry) -> Retry:
    return Retry(
        attempts=section.attempts,
        on=tuple(cast(RetryOn, word) for word in dict.fromkeys(section.on)),
        per_try=section.per_try,
        budget_ratio=section.budget.ratio,
        budget_minimum=section.budget.minimum,
    )


def _health(section: models.Health) -> HealthCheck:
    return HealthCheck(section.path, section.interval, section.timeout, section.healthy, section.unhealthy)


def _tls(section: models.UpstreamTls, path: KeyPath, report: Report, files: Files) -> UpstreamTLS:
    pem = pem_files(section, path, report, files)
    return UpstreamTLS(**(section.model_dump() | pem), fingerprint=files.fingerprint(pem.values()))
