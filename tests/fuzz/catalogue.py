"""All targets."""

from __future__ import annotations

from tests.fuzz.targets import (
    audit_files,
    catalog,
    config,
    frames,
    headers,
    paths,
    published,
    records,
    requests,
    responses,
    router,
    store_replies,
    tokens,
    trace_context,
    values,
)

_MODULES = (
    audit_files,
    catalog,
    config,
    frames,
    headers,
    paths,
    published,
    records,
    requests,
    responses,
    router,
    store_replies,
    tokens,
    trace_context,
    values,
)
#: By name.
TARGETS = {module.TARGET.name: module.TARGET for module in _MODULES}
