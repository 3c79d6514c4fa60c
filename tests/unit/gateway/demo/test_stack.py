"""What the stack decides without starting anything. The processes are tested in tests/integration/deployment."""

import pytest

from gateway.demo.stack import CONFIG_FILE, INSTANCES, DemoError, DemoStack


def test_unknown_instance_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DemoError, match=r"no demo instance is named patients-3; there are patients-1, .*policies-1"):
        DemoStack(ports={"patients-3": 9001})


def test_stopping_what_never_started_does_nothing() -> None:
    stack = DemoStack()
    stack.stop()
    assert repr(stack) == "<DemoStack stopped>"
    assert stack.environment == {}


def test_configuration_names_every_instance() -> None:
    text = CONFIG_FILE.read_text(encoding="utf-8")
    for name in INSTANCES:
        assert f"${{DEMO_{name.upper().replace('-', '_')}_PORT:-" in text
