"""From a file, a text or keyword settings to frozen `Settings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import gateway.config.models as models
from discovery.instance import ConsulAgent
from gateway.config.authentication import authentication
from gateway.config.document import MAXIMUM_CHARACTERS, Document, read
from gateway.config.files import Files, is_token
from gateway.config.limits import limit
from gateway.config.pem import pem_files, server_tls
from gateway.config.problems import ConfigProblems, KeyPath, Mark, Marks, Problem, Report
from gateway.config.routes import Names, check_unique, route
from gateway.config.services import first_and_rest, service
from gateway.config.validation import Parts, parts, validate
from gateway.errors import ConfigError
from gateway.route import Limit, Local, Route, Service
from gateway.router import Router
from gateway.settings import (
    MAXIMUM_AUDIT_LABELS,
    AccessLogSettings,
    AdminSettings,
    AuditSettings,
    DrainSettings,
    Maxima,
    OverloadSettings,
    ServerSettings,
    ServerTimeouts,
    Settings,
    StateSettings,
    TelemetrySettings,
    TraceSettings,
)

ADMIN_TOKEN_VARIABLE = "GATEWAY_ADMIN_TOKEN"  # nosec B105 # noqa: S105 - the name of a variable


def load(path: Path, environ: Mapping[str, str], *, require_files: bool = True) -> Settings:
    """Reads a configuration file.

    Args:
        path: shown in messages as it is; relative paths in the file are relative to its directory.
        environ: where `${NAME}` is looked up.
        require_files: False does not open the files that the configuration names, to check it away from where it runs: secrets are empty.

    Raises:
        ConfigProblems: with everything that is wrong.
    """
    try:
        with path.open("rb") as opened:
            # One byte more than the longest text can have tells that it is too long; the file may have no end.
            content = opened.read(4 * MAXIMUM_CHARACTERS + 1)
            text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigProblems([Problem(str(path), 0, 0, "", f"can't read the file: {error.strerror or error}")]) from error
    except UnicodeDecodeError as error:
        raise ConfigProblems([Problem(str(path), 0, 0, "", f"not UTF-8: byte {error.start}")]) from error
    settings = load_text(text, environ, file=str(path), directory=path.absolute().parent, require_files=require_files)
    return replace(settings, files={str(path.absolute()): sha256(content).hexdigest(), **settings.files})


def load_text(
    text: str, environ: Mapping[str, str], *, file: str = "gateway.yaml", directory: Path | None = None, require_files: bool = True
) -> Settings:
    """Like `load`, for a text; `directory` is what relative paths are relative to, the current one when None."""
    document = read(text, environ, file)
    return _settings(document, environ, directory or Path.cwd(), require_files=require_files)


def settings_from_mapping(values: Mapping[str, object], environ: Mapping[str, str], *, directory: Path | None = None) -> Settings:
    """Settings from plain data with the keys of the file; `version` may be missing and None means not given.

    Raises:
        ConfigProblems: with everything that is wrong, by key path.
    """
    document = Document({"version": 1} | {key: value for key, value in values.items() if value is not None}, Marks("", {}, {}), ())
    return _settings(document, environ, directory or Path.cwd())


def build_route(
    values: Mapping[str, object],
    *,
    target: Local | None = None,
    services: Mapping[str, Service],
    limits: Mapping[str, Limit],
    line: str = "",
) -> Route:
    """A route from plain data with the keys of the file's routes.

    Args:
        values: without `service` when `target` is given; None means not given.
        target: an application in this process; otherwise `service` names one of `services`.
        limits: what names in `limits` and `shadow_limits` refer to; rates such as `10/second` need no name.
        line: where it was declared, for messages.

    Raises:
        ConfigProblems: with everything that is wrong, by key path.
    """
    report = _report_for(line)
    model: type[models.RouteFields] = models.RouteSection if target is None else models.RouteFields
    section = validate(model, {key: value for key, value in values.items() if value is not None}, (), report)
    if section is None:
        raise ConfigProblems(report.problems)
    names = Names(services, limits, limits)
    row = route(section, target or _service_of(section), names, (), report, line=line)
    report.close()
    return row


def build_service(name: str, values: Mapping[str, object], *, directory: Path | None = None, line: str = "") -> Service:
    """A service from plain data with the keys of the file's services; raises `ConfigProblems`."""
    report = _report_for(line)
    services = {name: {key: value for key, value in values.items() if value is not None}}
    checked = parts({"version": 1, "services": services}, report).services
    built = {key: service(key, section, (), report, Files(directory or Path.cwd(), report)) for key, section in checked.items()}
    report.close()
    return built[name]


def build_limit(name: str, values: Mapping[str, object] | str, *, line: str = "") -> Limit:
    """A named limit from plain data with the keys of the file's limits, or from a rate such as `100/minute`; raises `ConfigProblems`."""
    report = _report_for(line)
    section = {"rate": values} if isinstance(values, str) else values
    checked = parts({"version": 1, "limits": {name: section}}, report).limits
    built = {key: limit(key, checked[key], (), report) for key in checked}
    report.close()
    result = built[name]
    assert result is not None
    return result


def _report_for(line: str) -> Report:
    return Report(Marks(line, {}, {}))


def _service_of(section: models.RouteFields) -> str:
    assert isinstance(section, models.RouteSection)
    return section.service


def _settings(document: Document, environ: Mapping[str, str], directory: Path, *, require_files: bool = True) -> Settings:
    report = Report(document.marks)
    report.problems += document.problems
    pieces = parts(document.data, report)
    files = Files(directory, report, required=require_files)
    limits = _limits(pieces, report)
    settings = Settings(
        server=_server(pieces.server, report, files),
        admin=_admin(pieces.admin, environ, report, files),
        state=_state(pieces.state, report, files),
        consul=_consul(pieces, report, files),
        authentication=authentication(pieces.authentication, pieces.issuers, report, files),
        services={name: service(name, section, ("services", name), report, files) for name, section in pieces.services.items()},
        limits=limits,
        routes=_routes(pieces, limits, report),
        telemetry=_telemetry(pieces.telemetry),
        audit=_audit(pieces.audit, report),
        source=document.marks.file,
        files=files.seen,
        certificates=files.certificates,
    )
    report.close()
    _check_table(settings.routes, report)
    report.close()
    return settings


def _audit(section: models.Audit, report: Report) -> AuditSettings:
    if len(section.labels) > MAXIMUM_AUDIT_LABELS:
        report.add(("audit", "labels"), f"{len(section.labels)} labels", f"at most {MAXIMUM_AUDIT_LABELS}")
    return AuditSettings(
        sink=tuple(section.sink),
        format=section.format,
        when_full=section.when_full,
        chain=section.chain,
        checkpoint=section.checkpoint,
        events=tuple(section.events),
        fields=tuple(section.fields),
        labels=dict(section.labels),
    )


def _server(section: models.Server, report: Report, files: Files) -> ServerSettings:
    return ServerSettings(
        host=section.host,
        port=section.port,
        workers=section.workers,
        trusted_proxies=tuple(section.trusted_proxies),
        tls=server_tls(section.tls, report, files),
        max=Maxima(**section.max.model_dump()),
        timeouts=ServerTimeouts(**section.timeouts.model_dump()),
        drain=DrainSettings(**section.drain.model_dump()),
        overload=OverloadSettings(
            lag=section.overload.lag,
            memory=section.overload.memory,
            memory_limit=0 if section.overload.memory_limit == "auto" else section.overload.memory_limit,
        ),
    )


def _admin(section: models.Admin, environ: Mapping[str, str], report: Report, files: Files) -> AdminSettings:
    token = files.secret_text(section.token_file, ("admin", "token_file"))
    inherited = environ.get(ADMIN_TOKEN_VARIABLE, "")
    if not section.token_file and not is_token(inherited.encode("utf-8", "surrogateescape")):
        report.add(
            ("admin",), f"{ADMIN_TOKEN_VARIABLE} holds characters other than visible ASCII", "one token, without spaces or line breaks"
        )
    return AdminSettings(host=section.host, port=section.port, token=token or inherited)


def _state(section: models.State, report: Report, files: Files) -> StateSettings:
    path: KeyPath = ("state",)
    pem = pem_files(section, path, report, files)
    if any(pem.values()) and not section.url.startswith("rediss"):
        key = next(key for key, value in pem.items() if value)
        report.add((*path, key), f"{key} applies to TLS only", "a rediss:// URL, or rediss+sentinel://, rediss+cluster://", key=True)
    return StateSettings(
        url=section.url,
        budget=section.budget,
        when_unavailable=section.when_unavailable,
        mirror_age=section.mirror_age,
        shards=0 if section.shards == "auto" else section.shards,
        ca_file=pem["ca_file"],
        certificate_file=pem["certificate_file"],
        key_file=pem["key_file"],
        fingerprint=files.fingerprint(pem.values()),
    )


def _consul(pieces: Parts, report: Report, files: Files) -> ConsulAgent | None:
    section = pieces.discovery.consul
    cache_dir = files.directory(pieces.discovery.cache_dir, ("discovery", "cache_dir"))
    if section is None:
        return ConsulAgent(cache_dir=cache_dir) if any(section.consul is not None for section in pieces.services.values()) else None
    path: KeyPath = ("discovery", "consul")
    datacenter, failover = first_and_rest(section.datacenter)
    pem = pem_files(section, path, report, files)
    return ConsulAgent(
        url=section.url,
        token=files.secret_text(section.token_file, (*path, "token_file")),
        datacenter=datacenter,
        failover=failover,
        wait_seconds=section.wait,
        connections=section.connections,
        warning=section.warning,
        loopback=section.loopback,
        networks=tuple(section.networks),
        disappearance_guard=section.disappearance_guard,
        cache_dir=cache_dir,
        publish_routes=section.publish_routes,
        ca_file=pem["ca_file"],
        certificate_file=pem["certificate_file"],
        key_file=pem["key_file"],
        fingerprint=files.fingerprint(pem.values()),
    )


def _limits(pieces: Parts, report: Report) -> dict[str, Limit]:
    built = {name: limit(name, section, ("limits", name), report) for name, section in pieces.limits.items()}
    return {name: value for name, value in built.items() if value is not None}


def _routes(pieces: Parts, limits: Mapping[str, Limit], report: Report) -> tuple[Route, ...]:
    names = Names(pieces.service_names, limits, pieces.limit_names)
    rows = {}
    for index, section in pieces.routes.items():
        path: KeyPath = ("routes", index)
        rows[index] = route(section, section.service, names, path, report, line=_line(report.marks.file, report.marks.of(path)))
    check_unique(rows, [index for index, section in pieces.routes.items() if section.name], report)
    return tuple(rows.values())


def _check_table(routes: tuple[Route, ...], report: Report) -> None:
    """What only the whole table shows: two routes that match the same requests, a path that the policy refuses."""
    try:
        Router((row, None) for row in routes)
    except ConfigError as error:
        index = next((index for index, row in enumerate(routes) if row.line and str(error).startswith(f"{row.line}: ")), None)
        path: KeyPath = ("routes",) if index is None else ("routes", index)
        report.add(path, str(error) if index is None else str(error).removeprefix(f"{routes[index].line}: "))


def _line(file: str, mark: Mark) -> str:
    return f"{file}:{mark.line}" if mark.line else file


def _telemetry(section: models.Telemetry) -> TelemetrySettings:
    log = section.access_log
    return TelemetrySettings(
        traces=_traces(section.traces),
        prometheus=section.metrics.prometheus,
        access_log=AccessLogSettings(format=log.format, sink=log.sink) if log is not None else AccessLogSettings(format="off"),
    )


def _traces(section: models.Traces) -> TraceSettings:
    return TraceSettings(
        endpoint=section.endpoint,
        sample_ratio=section.sample_ratio,
        always_errors="errors" in section.always,
        always_denials="denials" in section.always,
        always_slow=next((entry.slow for entry in section.always if isinstance(entry, models.Slow)), 0.0),
        trust=section.trust,
        service_name=section.service_name,
    )
