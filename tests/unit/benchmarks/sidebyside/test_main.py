"""The command line of the benchmark."""

from __future__ import annotations

import pytest

from benchmarks.sidebyside.__main__ import in_turn, options_of
from benchmarks.sidebyside.peers import ENVOY_PLAIN, NGINX_PLAIN, PEERS


def test_whole_run_is_kept_under_its_usual_name() -> None:
    options = options_of([])
    assert (options.only, options.rounds, options.seconds, options.name, options.strict) == (PEERS, 5, 4, "sidebyside", False)


@pytest.mark.parametrize("arguments", [["--quick"], ["--only", "nginx-plain"]])
def test_part_of_a_run_is_kept_only_when_it_is_given_a_name(arguments: list[str]) -> None:
    assert options_of(arguments).name == ""
    assert options_of([*arguments, "--name", "mine"]).name == "mine"


def test_quick_may_be_lengthened() -> None:
    options = options_of(["--quick", "--rounds", "2"])
    assert (options.rounds, options.seconds) == (2, 1)


def test_only_takes_names_in_any_order() -> None:
    assert options_of(["--only", "envoy-plain,nginx-plain"]).only == (NGINX_PLAIN, ENVOY_PLAIN)


@pytest.mark.parametrize("arguments", [["--only", "nginz"], ["--rounds", "0"], ["--seconds", "x"], ["--name", "../up"]])
def test_bad_option_is_bad_usage_and_says_which_value(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options_of(arguments)
    assert arguments[1] in capsys.readouterr().err


def test_every_other_round_goes_backwards() -> None:
    assert in_turn((NGINX_PLAIN, ENVOY_PLAIN), 0) == (NGINX_PLAIN, ENVOY_PLAIN)
    assert in_turn((NGINX_PLAIN, ENVOY_PLAIN), 1) == (ENVOY_PLAIN, NGINX_PLAIN)
