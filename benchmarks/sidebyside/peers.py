"""The peers. What each one does and leaves out is told in benchmarks/README.md; how it is told to do it stands in configs/."""

from __future__ import annotations

from benchmarks.sidebyside.peer import PYTHON, ROOT, Growth, Peer, Program

NGINX = Program(name="nginx", paths=("nginx",), version_arguments=("-v",))
HAPROXY = Program(name="HAProxy", paths=("haproxy",), version_arguments=("-v",))
ENVOY = Program(name="Envoy", paths=(".cache/bench/programs/envoy", "envoy"))
TRAEFIK = Program(name="Traefik", paths=(".cache/bench/programs/traefik", "traefik"), version_arguments=("version",))
CADDY = Program(name="Caddy", paths=(".cache/bench/programs/caddy", "caddy"), version_arguments=("version",))
REDIS = Program(name="Redis", paths=("redis-server",), version_pattern=r"v=(\S+)")
WRK = Program(name="wrk", paths=("wrk",), version_arguments=("-v",), version_pattern=r"wrk (?:debian/)?(\S+)")
TASKSET = Program(name="taskset", paths=("taskset",), version_pattern=r"(\d+\.\d+(?:\.\d+)?)")

#: Go programs get one processor, as everybody does.
_ONE_PROCESSOR = {"GOMAXPROCS": "1"}
_GATEWAY_ENVIRONMENT = {"PYTHONPATH": str(ROOT)}
_BATCH_METRIC = "gateway_admission_batch_size"


def _envoy(config: str) -> tuple[str, ...]:
    return ("-c", config, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error")


def _gateway(config: str) -> tuple[str, ...]:
    return ("-m", "gateway", "run", "-c", config)


GATEWAY_PLAIN = Peer(
    name="gateway-plain",
    title="HMS Gateway",
    does="forwards",
    kind="plain",
    ours=True,
    program=PYTHON,
    arguments=_gateway("gateway-plain.yaml"),
    configs=("gateway-plain.yaml",),
    environment=_GATEWAY_ENVIRONMENT,
    admin=True,
)
GATEWAY_FULL = Peer(
    name="gateway-full",
    title="HMS Gateway",
    does="RS256, revocation, 2 limits in Redis, access log, audit, spans",
    kind="full",
    ours=True,
    program=PYTHON,
    arguments=_gateway("gateway-full.yaml"),
    configs=("gateway-full.yaml",),
    environment=_GATEWAY_ENVIRONMENT,
    admin=True,
    token="RS256",
    logs=("access.log", "audit.jsonl"),
    redis_command="evalsha",
    batched=True,
    growth=Growth(path="/metrics", pattern=rf"(?m)^{_BATCH_METRIC}_sum(?:{{[^}}]*}})? (\S+)"),
    batch=_BATCH_METRIC,
    revokes=True,
    limits_shown=True,
    traced=True,
)
NGINX_PLAIN = Peer(
    name="nginx-plain",
    title="nginx",
    does="forwards",
    kind="plain",
    program=NGINX,
    arguments=("-c", "@DIRECTORY@/nginx-plain.conf", "-p", "@DIRECTORY@"),
    configs=("nginx-plain.conf",),
)
HAPROXY_PLAIN = Peer(
    name="haproxy-plain",
    title="HAProxy",
    does="forwards",
    kind="plain",
    program=HAPROXY,
    arguments=("-db", "-f", "haproxy-plain.cfg"),
    configs=("haproxy-plain.cfg",),
)
NGINX_LUA = Peer(
    name="nginx-lua",
    title="nginx + Lua",
    does="HS256, 1 counter in Redis",
    kind="full",
    program=NGINX,
    arguments=("-c", "@DIRECTORY@/nginx-lua.conf", "-p", "@DIRECTORY@"),
    configs=("nginx-lua.conf", "nginx-lua.lua"),
    token="HS256",
    redis_command="incr",
)
ENVOY_PLAIN = Peer(
    name="envoy-plain",
    title="Envoy",
    does="forwards",
    kind="plain",
    program=ENVOY,
    arguments=_envoy("envoy-plain.yaml"),
    configs=("envoy-plain.yaml",),
    admin=True,
)
ENVOY_FULL = Peer(
    name="envoy-full",
    title="Envoy",
    does="RS256, 1 limit in memory, access log",
    kind="full",
    program=ENVOY,
    arguments=_envoy("envoy-full.yaml"),
    configs=("envoy-full.yaml",),
    values={"JWT_CACHE": "# Every signature is verified: jwt_cache_config is unset, which is the default."},
    admin=True,
    token="RS256",
    logs=("access.log",),
    growth=Growth(path="/stats?filter=http_local_rate_limit", pattern=r"http_local_rate_limit\.ok: (\d+)"),
)
ENVOY_FULL_CACHED = Peer(
    name="envoy-full-cached",
    title="Envoy with its token cache",
    does="RS256, 1 limit in memory, access log",
    kind="full",
    program=ENVOY,
    arguments=_envoy("envoy-full.yaml"),
    configs=("envoy-full.yaml",),
    values={"JWT_CACHE": "jwt_cache_config: {jwt_cache_size: 1000}"},
    admin=True,
    token="RS256",
    logs=("access.log",),
    growth=ENVOY_FULL.growth,
)
TRAEFIK_PLAIN = Peer(
    name="traefik-plain",
    title="Traefik",
    does="forwards",
    kind="plain",
    program=TRAEFIK,
    arguments=("--configFile=traefik-plain.yaml",),
    configs=("traefik-plain.yaml", "traefik-plain-routes.yaml"),
    environment=_ONE_PROCESSOR,
)
TRAEFIK_FULL = Peer(
    name="traefik-full",
    title="Traefik",
    does="no token check, 1 limit in Redis, access log",
    kind="full",
    program=TRAEFIK,
    arguments=("--configFile=traefik-full.yaml",),
    configs=("traefik-full.yaml", "traefik-full-routes.yaml"),
    environment=_ONE_PROCESSOR,
    logs=("access.log",),
    redis_command="evalsha",
)
CADDY_PLAIN = Peer(
    name="caddy-plain",
    title="Caddy",
    does="forwards",
    kind="plain",
    program=CADDY,
    arguments=("run", "--config", "caddy-plain.caddyfile", "--adapter", "caddyfile"),
    configs=("caddy-plain.caddyfile",),
    environment=_ONE_PROCESSOR,
)

PEERS: tuple[Peer, ...] = (
    GATEWAY_PLAIN,
    NGINX_PLAIN,
    HAPROXY_PLAIN,
    ENVOY_PLAIN,
    TRAEFIK_PLAIN,
    CADDY_PLAIN,
    GATEWAY_FULL,
    NGINX_LUA,
    ENVOY_FULL,
    ENVOY_FULL_CACHED,
    TRAEFIK_FULL,
)
