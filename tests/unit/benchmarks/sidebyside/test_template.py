"""Configuration files and their blanks."""

from __future__ import annotations

import pytest

from benchmarks.sidebyside.errors import BenchmarkError
from benchmarks.sidebyside.template import fill


def test_every_blank_is_filled() -> None:
    assert fill("listen @HOST@:@PORT@; # a@b", {"HOST": "127.0.0.1", "PORT": "80"}, name="x.conf") == "listen 127.0.0.1:80; # a@b"


def test_blank_without_a_value_is_an_error_that_names_file_and_blank() -> None:
    with pytest.raises(BenchmarkError, match=r"x\.conf: there is no value for @PORT@; known are HOST"):
        fill("@PORT@", {"HOST": ""}, name="x.conf")
