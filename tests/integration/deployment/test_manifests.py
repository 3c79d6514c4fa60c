"""What the manifests promise beyond their schema: F-50, F-52, F-55 and S-41."""

import importlib.machinery
import importlib.util
import subprocess
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gateway.config import load_text
from gateway.config.caution import END_SECONDS

ROOT = Path(__file__).resolve().parents[3]
OVERLAYS = ["base", "overlays/dev"]
Object = dict[str, Any]


@cache
def validation() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("validate_deployment", str(ROOT / "scripts" / "validate-deployment"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@cache
def rendered(name: str) -> tuple[Object, ...]:
    command = [*validation().find_kubectl(), "kustomize", str(ROOT / "k8s" / name)]
    return tuple(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def objects(name: str, kind: str) -> list[Object]:
    return [each for each in rendered(name) if each["kind"] == kind]


def gateway_pod(name: str) -> Object:
    (deployment,) = (each for each in objects(name, "Deployment") if each["metadata"]["name"] == "hms-gateway")
    pod: Object = deployment["spec"]["template"]["spec"]
    return pod


def test_overlay_renders_from_a_clean_checkout() -> None:
    """No private file is needed: what is rendered is what git has."""
    tracked = subprocess.run(["git", "ls-files", "k8s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(tracked) >= {str(file.relative_to(ROOT)) for file in (ROOT / "k8s").rglob("*.yaml")}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_container_runs_with_least_privilege(name: str) -> None:
    """F-55: non-root, read-only root file system, no capabilities, seccomp, no API token."""
    for deployment in objects(name, "Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])


@pytest.mark.parametrize("name", OVERLAYS)
def test_probes_ask_the_admin_port_and_readiness_is_apart_from_liveness(name: str) -> None:
    """F-52: liveness asks the process only."""
    (container,) = gateway_pod(name)["containers"]
    paths = {probe: container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert paths == {
        "startupProbe": {"path": "/livez", "port": "admin"},
        "livenessProbe": {"path": "/livez", "port": "admin"},
        "readinessProbe": {"path": "/readyz", "port": "admin"},
    }


@pytest.mark.parametrize("name", OVERLAYS)
def test_pod_waits_before_it_stops_and_has_time_to_finish(name: str) -> None:
    """F-50, G1: endpoints are removed while the pod still serves, and the gateway knows its grace period."""
    pod = gateway_pod(name)
    (container,) = pod["containers"]
    grace_seconds = pod["terminationGracePeriodSeconds"]
    assert {"name": "GATEWAY_GRACE_PERIOD", "value": f"{grace_seconds}s"} in container["env"]
    document = yaml.safe_load((ROOT / "k8s" / name / "gateway.yaml").read_text())
    drain = document["server"]["drain"]
    assert drain["delay"] == drain["quiet"] == "8s", "traffic or not"
    settings = load_text(yaml.safe_dump({"version": 1, "server": {"drain": drain}}), {})
    assert settings.server.drain.delay + settings.server.drain.timeout + END_SECONDS <= grace_seconds


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_service_carries_the_admin_port(name: str) -> None:
    """S-41: nothing but the data port is offered to clients."""
    ports = [port for service in objects(name, "Service") for port in service["spec"]["ports"]]
    assert not [port for port in ports if port["targetPort"] in ("admin", 9080) or port["port"] == 9080]
    assert [
        port["targetPort"]
        for service in objects(name, "Service")
        if service["metadata"]["name"] == "hms-gateway"
        for port in service["spec"]["ports"]
    ] == ["http"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_of_policies_and_services_select_the_gateway(name: str) -> None:
    (deployment,) = (each for each in objects(name, "Deployment") if each["metadata"]["name"] == "hms-gateway")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [each["spec"]["selector"]["matchLabels"] for each in objects(name, "PodDisruptionBudget")]
    selectors += [each["spec"]["selector"] for each in objects(name, "Service") if each["metadata"]["name"] == "hms-gateway"]
    selectors += [
        each["spec"]["podSelector"]["matchLabels"] for each in objects(name, "NetworkPolicy") if each["metadata"]["name"] == "hms-gateway"
    ]
    assert selectors
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_base_holds_no_secret_and_does_not_fix_the_number_of_replicas() -> None:
    (deployment,) = objects("base", "Deployment")
    assert objects("base", "Secret") == []
    assert "replicas" not in deployment["spec"]
    (autoscaler,) = objects("base", "HorizontalPodAutoscaler")
    assert autoscaler["spec"]["minReplicas"] >= 2


def test_dev_overlay_is_one_replica_without_autoscaler() -> None:
    (deployment,) = (each for each in objects("overlays/dev", "Deployment") if each["metadata"]["name"] == "hms-gateway")
    assert deployment["spec"]["replicas"] == 1
    assert objects("overlays/dev", "HorizontalPodAutoscaler") == []
    assert objects("overlays/dev", "PodDisruptionBudget") == []


def test_compose_publishes_on_this_machine_only_and_shares_the_state() -> None:
    command = [*validation().find_compose(), "--file", str(ROOT / "docker-compose.yml"), "config"]
    stack = yaml.safe_load(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    gateways = [service for name, service in stack["services"].items() if name.startswith("gateway-")]
    assert len(gateways) == 2
    assert gateways[0]["environment"] == gateways[1]["environment"]
    assert all(port["host_ip"] == "127.0.0.1" for service in stack["services"].values() for port in service.get("ports", []))
    assert all(service["read_only"] and service["cap_drop"] == ["ALL"] for service in gateways)
