"""Reading what Consul says of a service."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.catalog import Rules, Unusable, is_loopback, read, worst
from discovery.instance import ConsulQuery, Instance

WEB = ConsulQuery("web")
STRICT = Rules()
SERF = {"CheckID": "serfHealth", "Status": "passing"}


def entry(node: str = "n1", address: str = "10.0.0.1", checks: Any = (SERF,), **service: Any) -> dict[str, Any]:
    return {
        "Node": {"Node": node, "Address": "10.9.9.9"},
        "Service": {"ID": "web-1", "Service": "web", "Address": address, "Port": 80, "Tags": [], "Meta": {}, **service},
        "Checks": list(checks) if isinstance(checks, tuple) else checks,
    }


def only(found: dict[str, Any], rules: Rules = STRICT, query: ConsulQuery = WEB) -> Instance:
    reading = read([found], query, rules)
    assert reading.rejected == ()
    (instance,) = reading.instances
    return instance


def reason(found: Any, rules: Rules = STRICT) -> str:
    reading = read([found, entry(node="good")], WEB, rules)
    assert [instance.id for instance in reading.instances] == ["good/web-1"]
    (line,) = reading.rejected
    return line


def check(status: Any, name: str = "service:web-1") -> dict[str, Any]:
    return {"CheckID": name, "Status": status}


def test_an_instance_carries_what_was_registered() -> None:
    """D5: identity is node and service id."""
    found = entry(Tags=["v2", "blue"], Meta={"zone": "a"}, Weights={"Passing": 7, "Warning": 2})
    assert only(found) == Instance(
        id="n1/web-1", host="10.0.0.1", port=80, weight=7, scheme="http", tags=("v2", "blue"), meta={"zone": "a"}, health="passing"
    )


def test_the_node_s_address_stands_in_for_the_service_s() -> None:
    """D5: address = Service.Address else Node.Address."""
    assert only(entry(address="")).host == "10.9.9.9"


@pytest.mark.parametrize(("given_", "address"), [("2001:db8::1", "[2001:db8::1]:80"), ("[2001:DB8:0::1]", "[2001:db8::1]:80")])
def test_ipv6_is_written_one_way(given_: str, address: str) -> None:
    """D5: IPv6."""
    assert only(entry(address=given_)).address == address


def test_the_order_is_stable() -> None:
    """D1: the order of a reply is random, so content is compared in an order of our own."""
    entries: list[object] = [entry(node=name) for name in ("c", "a", "b")]
    assert read(entries, WEB, STRICT) == read(entries[::-1], WEB, STRICT)


@pytest.mark.parametrize(
    ("statuses", "state"),
    [
        ([], "passing"),
        (["passing", "passing"], "passing"),
        (["passing", "warning"], "warning"),
        (["warning", "critical", "passing"], "critical"),
        (["maintenance"], "critical"),
        ([None], "critical"),
    ],
)
def test_the_state_is_that_of_the_worst_check(statuses: list[Any], state: str) -> None:
    """D5: instance state = worst of its checks."""
    assert worst([check(status) for status in statuses]) == state


@pytest.mark.parametrize("name", ["serfHealth", "_node_maintenance", "_service_maintenance:web-1"])
def test_node_checks_and_maintenance_count(name: str) -> None:
    """D5: serfHealth and maintenance count."""
    reading = read([entry(checks=(check("passing"), check("critical", name)))], WEB, Rules(warning=True))
    assert (reading.instances, reading.rejected) == ((), ())


def test_warning_is_used_only_when_configured_and_with_its_own_weight() -> None:
    """D5: `warning` only when configured, with Weights.Warning."""
    found = entry(checks=(SERF, check("warning")), Weights={"Passing": 10, "Warning": 2})
    assert read([found], WEB, STRICT).instances == ()
    instance = only(found, Rules(warning=True))
    assert (instance.weight, instance.health) == (2, "warning")


def test_a_warning_weight_of_zero_wants_no_requests() -> None:
    """D5: Weights.Warning 0."""
    found = entry(checks=(check("warning"),), Weights={"Passing": 10, "Warning": 0})
    assert read([found], WEB, Rules(warning=True)).instances == ()


@pytest.mark.parametrize("weights", [None, {}, "7", {"Passing": "7"}, {"Passing": True}, {"Passing": -3}])
def test_senseless_weights_count_as_one(weights: Any) -> None:
    """F-18: tolerant."""
    assert only(entry(Weights=weights)).weight == 1


def test_all_tags_of_the_query_are_needed() -> None:
    """D5: tags filter, here too, whatever the server did."""
    query = ConsulQuery("web", tags=("v2", "blue"))
    assert read([entry(Tags=["v2"])], query, STRICT).instances == ()
    assert only(entry(Tags=["blue", "x", "v2"]), query=query).tags == ("blue", "x", "v2")


@pytest.mark.parametrize(
    ("meta", "scheme"), [({"scheme": "https"}, "https"), ({"protocol": "https"}, "https"), ({"scheme": "http"}, "http")]
)
def test_meta_says_the_scheme(meta: dict[str, str], scheme: str) -> None:
    assert only(entry(Meta=meta)).scheme == scheme


@pytest.mark.parametrize("service", [{"Tags": None, "Meta": None, "Weights": None}, {"Meta": {"a": 1}}, {"Tags": [1, None]}])
def test_null_fields_are_no_reason_to_refuse(service: dict[str, Any]) -> None:
    """F-18: null Meta, Tags, Weights."""
    assert only(entry(**service)).meta == {}


def test_null_checks_and_node_are_no_reason_to_refuse() -> None:
    """F-18."""
    found = entry(checks=None)
    found["Node"] = None
    assert only(found).id == "/web-1"


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "web",
        {},
        {"Service": None},
        {"Service": []},
        entry(Port=0),
        entry(Port=None),
        entry(Port="80"),
        entry(Port=True),
        entry(Port=65536),
        entry(ID="", Service=""),
        entry(ID=7),
        entry(address=7),  # type: ignore[arg-type]
        entry(checks="bad"),
        entry(checks=["bad"]),
        entry(Tags="v2"),
    ],
)
def test_one_malformed_registration_does_not_discard_the_rest(broken: Any) -> None:
    """F-18: the others count, and the reason is kept."""
    line = reason(broken)
    assert ": its " in line or ": it has " in line


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "::1",
        "::ffff:127.0.0.1",
        "localhost",
        "LOCALHOST.",
        "api.localhost",
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "255.255.255.255",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "a b",
        "user@host",
        "host/path",
        "host:80",
        "-",
        "a..b",
        "x" * 254,
        "host\r\nX: y",
    ],
)
def test_addresses_that_lead_astray_are_refused(address: str) -> None:
    """F-18: discovery data is no way to reach the gateway itself or a metadata service."""
    assert "address" in reason(entry(address=address))


def test_reasons_are_short_and_on_one_line() -> None:
    line = reason(entry(address="evil\n" + "x" * 1000))
    assert len(line) < 200
    assert "\n" not in line


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "web.node.consul", "web_1.svc", "a", "8.8.8.8", "fd00::1"])
def test_ordinary_addresses_are_used(address: str) -> None:
    assert only(entry(address=address)).host == address


def test_loopback_is_allowed_when_asked_for() -> None:
    assert only(entry(address="127.0.0.1"), Rules(loopback="allow")).host == "127.0.0.1"
    assert "link-local" in reason(entry(address="169.254.1.1"), Rules(loopback="allow"))


def test_loopback_of_one_machine_is_that_of_a_node_on_loopback() -> None:
    found = entry(address="127.0.0.1")
    found["Node"]["Address"] = "127.0.0.1"
    assert only(found, Rules(loopback="same_machine")).host == "127.0.0.1"
    found["Node"]["Address"] = "10.0.0.9"
    assert "loopback" in reason(found, Rules(loopback="same_machine"))


@pytest.mark.parametrize(("host", "is_"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("10.0.0.1", False), ("consul", False)])
def test_loopback_hosts(host: str, is_: bool) -> None:
    assert is_loopback(host) is is_


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["Node", "Service", "Checks", "ID", "Address", "Port", "Tags", "Meta", "Weights", "Status"]), inner, max_size=6
        )
    ),
    max_leaves=25,
)


@given(st.lists(anything, max_size=4))
def test_nothing_that_is_json_breaks_the_reader(entries: list[object]) -> None:
    """F-18: whatever comes, every entry is used, left out, or named."""
    reading = read([*entries, entry(node="good")], WEB, Rules(warning=True, loopback="allow"))
    assert "good/web-1" in [instance.id for instance in reading.instances]


def test_checks_that_are_none_are_told() -> None:
    with pytest.raises(Unusable, match="not a list"):
        worst({"Status": "passing"})
