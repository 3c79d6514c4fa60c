"""Imports point one way: from the command line down to the declarations, without a cycle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: From the ground up. A module may import from its own layer and from those before it; the longest name that fits counts.
LAYERS: dict[str, tuple[str, ...]] = {
    "declarations": (
        "discovery.instance",
        "gateway.auth.principal",
        "gateway.errors",
        "gateway.finding",
        "gateway.route",
        "gateway.settings",
        "gateway.version",
    ),
    "pure modules": (
        "discovery.balance",
        "discovery.endpoint",
        "discovery.tls",
        "gateway.admission.limits",
        "gateway.certificates",
        "gateway.cors",
        "gateway.deadlines",
        "gateway.exchange",
        "gateway.failure",
        "gateway.handshake",
        "gateway.head",
        "gateway.headers",
        "gateway.hosts",
        "gateway.origins",
        "gateway.paths",
        "gateway.peer",
        "gateway.pieces",
        "gateway.rewrite",
        "gateway.router",
        "gateway.streams",
        "gateway.template",
        "gateway.turn",
        "gateway.websocket",
    ),
    "configuration": ("gateway.config",),
    "I/O modules": (
        "discovery",
        "gateway.admission",
        "gateway.auth",
        "gateway.store",
        "gateway.telemetry",
        "gateway.upstream",
    ),
    "pipeline": ("gateway.client", "gateway.handlers", "gateway.pipeline", "gateway.plan", "gateway.published", "gateway.server"),
    "admin": ("gateway.admin",),
    "app": ("gateway.app", "gateway.assembly", "gateway.development", "gateway.doctor", "gateway.generation", "gateway.origin"),
    "command line": ("gateway", "gateway.__main__", "gateway.cli", "gateway.demo", "hms_etl"),
}
ORDER = list(LAYERS)

#: Modules whose classes do I/O behind a Protocol: outside their package nobody below the application knows them.
CONCRETE = (
    "discovery.consul",
    "discovery.directory",
    "discovery.static",
    "gateway.admission.admission",
    "gateway.auth.authenticator",
    "gateway.store.embedded",
    "gateway.store.redis",
    "gateway.telemetry.telemetry",
    "gateway.upstream.pool",
)
PARSER = ("gateway.server.http1", "gateway.upstream.http1")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for package in ("discovery", "gateway", "hms_etl") for path in sorted((ROOT / package).rglob("*.py"))}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes(tree: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """What runs, without what only a type checker reads; with or without what runs when a function is called."""
    for child in ast.iter_child_nodes(tree):
        if is_for_types(child) or (isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not into_functions):
            continue
        yield child
        yield from nodes(child, into_functions)


def imported(module: str, *, into_functions: bool) -> set[str]:
    """Full names of what a module imports; of ours the module that it really comes from."""
    found: set[str] = set()
    for node in nodes(ast.parse(MODULES[module].read_text()), into_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in inner}
    return found


def ours(module: str, *, into_functions: bool = True) -> set[str]:
    return {name for name in imported(module, into_functions=into_functions) if name in MODULES and name != module}


def layer(module: str) -> str:
    fitting = [
        (len(prefix), name)
        for name, prefixes in LAYERS.items()
        for prefix in prefixes
        # The top of the package is a layer of its own, not of everything below it.
        if module == prefix or (prefix != "gateway" and module.startswith(prefix + "."))
    ]
    assert fitting, f"{module} has no layer: give it one in LAYERS"
    return max(fitting)[1]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_layer_and_those_below(module: str) -> None:
    here = ORDER.index(layer(module))
    wrong = {f"{name} ({layer(name)})" for name in ours(module) if ORDER.index(layer(name)) > here}
    assert not wrong, f"{module} ({layer(module)}) imports {', '.join(sorted(wrong))}"


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: ours(module, into_functions=False) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail(f"import cycle: {' -> '.join(exc.args[1])}")


def test_discovery_knows_nothing_of_the_gateway() -> None:
    """Services use `discovery` to register themselves, without a gateway."""
    guilty = {module for module in MODULES if module.startswith("discovery") and any(n.startswith("gateway") for n in ours(module))}
    assert not guilty


def test_nothing_below_the_application_names_classes_that_do_io() -> None:
    """It is given what it needs, so that a test or another product can give something else."""
    below = [module for module in MODULES if ORDER.index(layer(module)) < ORDER.index("app")]
    guilty = {
        f"{module} -> {name}"
        for module in below
        for name in ours(module) & set(CONCRETE)
        # A package knows its own parts.
        if name.rpartition(".")[0] not in (module, module.rpartition(".")[0])
    }
    assert not guilty


def test_the_parser_is_touched_in_one_file_on_each_side() -> None:
    users = {module for module in MODULES if any(name.split(".")[0] == "httptools" for name in imported(module, into_functions=True))}
    assert users <= set(PARSER)


def test_the_table_of_layers_names_what_there_is() -> None:
    named = {prefix for prefixes in LAYERS.values() for prefix in prefixes} | set(CONCRETE) | set(PARSER)
    assert named - {"hms_etl"} <= set(MODULES)
