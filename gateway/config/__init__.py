"""Configuration: `gateway.yaml` and keyword settings, checked and compiled into frozen `Settings`."""

from gateway.config.caution import warnings
from gateway.config.loading import build_limit, build_route, build_service, load, load_text, settings_from_mapping
from gateway.config.problems import ConfigProblems, Problem

__all__ = [
    "ConfigProblems",
    "Problem",
    "build_limit",
    "build_route",
    "build_service",
    "load",
    "load_text",
    "settings_from_mapping",
    "warnings",
]
