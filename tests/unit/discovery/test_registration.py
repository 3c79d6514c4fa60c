"""Arguments of a registration, and the lifespan around it; what Consul makes of it is in tests/integration."""

from typing import Any

import pytest

from discovery.registration import Registration


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "name of a service"),
        ({"port": 0}, "allowed are 1..65535"),
        ({"port": 65536}, "allowed are 1..65535"),
        ({"weight": 0}, "the weight of 'web' is 0"),
        ({"check": "tcp"}, "allowed are 'ttl' and 'http'"),
        ({"ttl_seconds": 0.1}, "the least is 1"),
        ({"consul": "ftp://consul"}, "the Consul URL"),
    ],
)
def test_arguments_out_of_range_are_told_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Registration(**{"name": "web", "port": 80, **arguments})


def test_the_id_is_stable_so_that_a_restart_replaces_what_it_left_behind() -> None:
    assert Registration("web", 80, address="10.0.0.1").id == "web-10.0.0.1-80"
    assert Registration("web", 80).id == Registration("web", 80).id


def test_repr_tells_the_state_in_one_line() -> None:
    assert repr(Registration("web", 80, id="w1")) == "<Registration web id=w1 not registered>"
