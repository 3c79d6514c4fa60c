"""What is told about discovery's knowledge."""

from dataclasses import replace

from discovery.condition import Condition
from gateway.telemetry.discovery import discovery_sources

WELL = Condition("patients", False, 5.0, 0.5, None, 0.0, True, 0, 0, 0)


def exposed(condition: Condition) -> dict[str, float]:
    families = [source.collect() for source in discovery_sources(lambda: [condition])]
    return {sample.name.removeprefix("gateway_discovery_"): sample.value for family in families for sample in family.samples}


def test_all_is_zero_but_ages_while_all_is_well() -> None:
    """F-17."""
    values = exposed(WELL)
    assert values.pop("confirmed_age_seconds") == 0.5
    assert set(values.values()) == {0.0}


def test_what_is_not_well_is_told() -> None:
    """F-16, F-17, D6, D8."""
    ill = replace(WELL, stale=True, restored_seconds_ago=60.0, last_contact_seconds=4.5, known_leader=False, held=3, rejected=2, fallback=1)
    assert exposed(ill) == {
        "stale": 1.0,
        "confirmed_age_seconds": 0.5,
        "last_contact_seconds": 4.5,
        "leaderless": 1.0,
        "held_instances": 3.0,
        "rejected_instances": 2.0,
        "restored": 1.0,
        "fallback": 1.0,
    }
