"""The grammar of single values: names, header fields, hosts, addresses, keys. Pure; each function returns the value in its
normal form or raises `Wrong` with what is allowed."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from gateway import certificates, template
from gateway.config.problems import FromEnvironment, Wrong, shown
from gateway.errors import ConfigError
from gateway.hosts import host_and_port, split_hosts

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")  # RFC 9110 section 5.6.2
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")  # RFC 6749 section 3.3
_LABEL = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,62}[\x21-\x7e])?")
_FIELD_VALUE = re.compile(r"[\x21-\x7e\x80-\uffff]([\x20-\x7e\x80-\uffff\t]*[\x21-\x7e\x80-\uffff])?|")
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_CLAIM = re.compile(r"[^\x00-\x20\x7f]{1,256}")

_PLAIN_KEYS = ("subject", "client", "session", "client_ip", "client_certificate", "route", "global")
_QUALIFIED_KEYS = ("header", "claim", "path")

# Fields that frame a message or belong to one connection: rules that touch them would break the framing (RFC 9110 section 7.6.1).
_FRAMING_FIELDS = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "trailer", "http2-settings"}
    | {"proxy-authorization", "proxy-authenticate", "content-length", "host", "expect"}
)
# Fields by which services know who is asking: only the gateway says that.
_IDENTITY_FIELDS = frozenset({"x-auth-subject", "x-auth-scopes", "x-auth-issuer"})


@dataclass(frozen=True, slots=True)
class InstanceAddress:
    """Where one instance answers."""

    scheme: str
    host: str
    port: int


def name(text: str) -> str:
    """A name of ours: of a route, a service, a limit."""
    return _matched(_NAME, text, "is not a name", "letters, digits, `.`, `_`, `-`, at most 64, starting with a letter or digit")


def method(text: str) -> str:
    """An HTTP method, as it is sent: methods are case-sensitive (RFC 9110 section 9.1)."""
    _matched(_TOKEN, text, "is not an HTTP method", "such as GET or POST")
    if text in ("CONNECT", "TRACE"):
        raise Wrong(f"the method {text} is never routed", "such as GET or POST")
    if text.upper() != text:
        raise Wrong(f"the method {shown(text)} is not upper case", "such as GET" if isinstance(text, FromEnvironment) else text.upper())
    return text


def field_name(text: str) -> str:
    """A header field's name, in lower case."""
    return _matched(_TOKEN, text, "is not a header name", "letters, digits and !#$%&'*+-.^_`|~").lower()


def field_value(text: str) -> str:
    """A header field's value (RFC 9110 section 5.5)."""
    return _matched(_FIELD_VALUE, text, "is not a header value", "no line breaks or control characters, no space at the ends")


def label(text: str) -> str:
    """A text that records carry."""
    return _matched(_LABEL, text, "is not a label", "at most 64 visible ASCII characters and spaces, no space at the ends")


def removable_field(text: str) -> str:
    """A header field that a rule may remove, in lower case."""
    lowered = field_name(text)
    if lowered in _FRAMING_FIELDS:
        raise Wrong(f"the header {shown(text)} belongs to the connection or the framing", "a rule can't touch it")
    return lowered


def settable_field(text: str) -> str:
    """A header field that a rule may set, in lower case."""
    lowered = removable_field(text)
    if lowered in _IDENTITY_FIELDS:
        raise Wrong(f"the header {shown(text)} says who was authenticated", "a rule can't set it")
    return lowered


def scope(text: str) -> str:
    """An OAuth scope token."""
    return _matched(_SCOPE, text, "is not a scope", 'printable ASCII without space, `"` and `\\`')


def claim(text: str) -> str:
    """A claim's name, or a dotted path to one."""
    return _matched(_CLAIM, text, "is not a claim name", "text without spaces")


def listen_host(text: str) -> str:
    """An address or name to listen on."""
    if _is_address(text.strip("[]")):
        return text.strip("[]")
    return _dns_name(text, "an IP address or a host name")


def route_host(text: str) -> str:
    """A host that a route matches, in lower case: an exact name, an IP address, or `*.suffix`."""
    allowed = "a host name, an IP address, or *.suffix, without a port"
    if _is_address(text.strip("[]")):
        return text.lower()
    return ("*." if text.startswith("*.") else "") + _dns_name(text.removeprefix("*."), allowed)


def cidr(text: str) -> str:
    """A block of addresses, or one address."""
    try:
        return str(ipaddress.ip_network(text, strict=True))
    except ValueError:
        allowed = "allowed: blocks such as 10.0.0.0/8 or 2001:db8::/32, without bits set after the prefix"
        raise Wrong(f"{shown(text)} is not a block of addresses", allowed) from None


def http_url(text: str) -> str:
    """An absolute http or https URL."""
    parts = _split(text, "http://... or https://...")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise Wrong(f"{shown(text)} is not an HTTP URL", "allowed: http://... or https://..., without a fragment")
    if parts.username is not None:
        # It would be told wherever the URL names an issuer or a receiver.
        raise Wrong(f"{shown(text)} has a user in it", "allowed: http://... or https://..., without a user or a password")
    return text


def check_path(text: str) -> str:
    """What an active check asks for: a path, with a query if need be, as it goes over the wire."""
    if not text.startswith("/") or not text.isascii() or not text.isprintable() or " " in text or "#" in text:
        raise Wrong(f"{shown(text)} is not a path", "a path such as /healthz, percent-encoded where it is not plain ASCII")
    return text


def consul_url(text: str) -> str:
    """Where the Consul agent answers."""
    if text.startswith("unix:///") and len(text) > len("unix:///"):
        return text
    parts = _split(text, "http://HOST:PORT, https://HOST:PORT or unix:///PATH")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise Wrong(f"{shown(text)} is not the address of a Consul agent", "allowed: http://HOST:PORT, https://HOST:PORT or unix:///PATH")
    if parts.username is not None:
        raise Wrong(f"{shown(text)} has a user in it", "give the token with token_file")
    return text.rstrip("/")


def origin(text: str) -> str:
    """A web origin, as browsers send it, or `*`."""
    allowed = "https://HOST, https://HOST:PORT, or *"
    if text == "*":
        return text
    parts = _split(text, allowed)
    if parts.scheme not in ("http", "https") or not parts.hostname or f"{parts.scheme}://{parts.netloc}".lower() != text or parts.username:
        raise Wrong(f"{shown(text)} is not an origin", f"allowed: {allowed}; lower case, without a path or a slash at the end")
    return text


def upgrade_protocol(text: str) -> str:
    """A protocol's name in Upgrade, in lower case. Versions of HTTP are none that a tunnel may carry: requests in it would pass unseen."""
    name = text.lower()
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+(/[!#$%&'*+.^_`|~0-9a-z-]+)?", name):
        raise Wrong(f"{shown(text)} is not a protocol", "allowed: a name as it stands in Upgrade, such as websocket")
    if name.partition("/")[0] in ("h2", "h2c", "h3", "http", "tls"):
        raise Wrong(f"{shown(text)} would carry requests past every check", "allowed: websocket, or the name of another protocol")
    return name


def instance_url(text: str) -> InstanceAddress:
    """The URL of an instance: scheme, host and port, nothing else."""
    allowed = "http://HOST:PORT or https://HOST:PORT"
    parts = _split(text, allowed)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Wrong(f"{shown(text)} is not the URL of an instance", f"allowed: {allowed}")
    if parts.username is not None:
        raise Wrong(f"{shown(text)} has a user in it", allowed)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Wrong(
            f"{shown(text)} has more than a host and a port",
            f"allowed: {allowed}; paths are changed with rewrite, strip_prefix or add_prefix",
        )
    host = parts.hostname if _is_address(parts.hostname) else _dns_name(parts.hostname, allowed)
    if parts.port == 0:
        raise Wrong(f"{shown(text)} has port 0", "ports 1 to 65535")
    return InstanceAddress(parts.scheme, host, parts.port or {"http": 80, "https": 443}[parts.scheme])


_STORES = ("redis", "redis+sentinel", "redis+cluster", "rediss", "rediss+sentinel", "rediss+cluster")
_STORES_ALLOWED = "allowed: embedded://, embedded:///PATH, unix:///PATH, redis://, redis+sentinel://, redis+cluster://, or rediss for TLS"
_SENTINEL_FORM = "redis+sentinel://HOST1,HOST2,HOST3/NAME or .../NAME/NUMBER"


def state_url(text: str) -> str:
    """Where the shared store is."""
    scheme, separator, rest = text.partition("://")
    if scheme not in ("embedded", "unix", *_STORES) or not separator:
        raise Wrong(f"{shown(text)} is not the URL of a store", _STORES_ALLOWED)
    if scheme in _STORES:
        _check_servers(text)
    path = rest.rpartition("@")[2] if scheme == "unix" else rest
    if scheme in ("embedded", "unix") and (path or scheme == "unix") and not path.startswith("/"):
        raise Wrong(f"{shown(text)} has no absolute path", _STORES_ALLOWED)
    if scheme == "unix":
        _check_socket(text)
    return text


def _check_socket(text: str) -> None:
    try:
        parts = urlsplit(text)
    except ValueError:
        raise Wrong(f"{shown(text)} is not a URL", _STORES_ALLOWED) from None
    if not text.isprintable() or parts.path == "/":
        raise Wrong(f"{shown(text)} does not name a socket", "allowed: unix:///PATH or unix:///PATH?db=NUMBER")
    if not re.fullmatch(r"(db=[0-9]{0,5})?", parts.query) or parts.fragment:
        raise Wrong(f"{shown(text)} has more than a database behind its path", "allowed: unix:///PATH or unix:///PATH?db=NUMBER")


def _check_servers(text: str) -> None:
    _check_visible(text, _STORES_ALLOWED)
    try:
        parts, hosts = split_hosts(text)
    except ValueError:
        raise Wrong(f"{shown(text)} is not a URL", _STORES_ALLOWED) from None
    kind = parts.scheme.partition("+")[2]
    for host in hosts.split(","):
        try:
            host_and_port(host, 1)
        except ValueError:
            complaint = "has no host" if not host else "has a host that is none, or a port that is not from 1 to 65535"
            raise Wrong(f"{shown(text)} {complaint}", _STORES_ALLOWED) from None
    if parts.fragment or not _OPTIONS[kind].fullmatch(parts.query):
        raise Wrong(f"{shown(text)} has options that are none", f"allowed: {_OPTIONS_ALLOWED[kind]}")
    if "," in hosts and not kind:
        raise Wrong(f"{shown(text)} names several hosts", "one; redis+sentinel:// and redis+cluster:// take several")
    _PATHS[kind](text, parts.path)


def _check_database(text: str, path: str) -> None:
    if not re.fullmatch(r"/?[0-9]{0,5}", path):
        raise Wrong(f"{shown(text)} has a database that is no number", f"allowed: {text.partition('://')[0]}://HOST:PORT/NUMBER")


def _check_primary(text: str, path: str) -> None:
    if not re.fullmatch(r"/[^/]+(/[0-9]{0,5})?", path):
        raise Wrong(f"{shown(text)} does not name the primary", f"allowed: {_SENTINEL_FORM}")


def _check_no_database(text: str, path: str) -> None:
    if path not in ("", "/", "/0"):
        raise Wrong(f"{shown(text)} has a database, and a cluster has none but 0", "allowed: redis+cluster://HOST1,HOST2")


_NO_OPTION = re.compile("")
_OPTIONS = {
    "": _NO_OPTION,
    "sentinel": re.compile(r"((^|&)sentinel_(username|password)=[^&]*)*"),
    "cluster": _NO_OPTION,
}
_OPTIONS_ALLOWED = {"": "none", "sentinel": "sentinel_username=NAME and sentinel_password=PASSWORD", "cluster": "none"}
_PATHS = {"": _check_database, "sentinel": _check_primary, "cluster": _check_no_database}


def sink(text: str) -> str:
    """Where lines are written."""
    if text in ("stdout", "stderr") or (text.startswith("file:/") and len(text) > len("file:/")):
        return text
    raise Wrong(f"{shown(text)} is not a sink", "allowed: stdout, stderr or file:/PATH")


def limit_key(text: str) -> str:
    """What a limit counts apart. Header names in lower case."""
    return _key(text, _PLAIN_KEYS, _QUALIFIED_KEYS)


def distinguished_name(text: str) -> str:
    """A name as certificates write it, in the one spelling that rules are compared in."""
    try:
        return certificates.distinguished_name(text)
    except ValueError:
        raise Wrong(f"{shown(text)} is not a distinguished name", "allowed: names as RFC 4514 writes them: CN=lab,O=Example,C=US") from None


def fingerprint(text: str) -> str:
    """A SHA-256 digest; colons between the bytes are left out."""
    digest = text.replace(":", "").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise Wrong(f"{shown(text)} is not a SHA-256 fingerprint", "allowed: 64 hexadecimal digits, with or without colons")
    return digest


def hash_key(text: str) -> str:
    """What consistent hashing looks at. Header names in lower case."""
    return _key(text, ("subject", "client_ip"), ("header", "path"))


def path_template(text: str) -> str:
    """A route's path: literal segments and parameters."""
    template_parameters(text)
    return text


def template_parameters(text: str) -> tuple[str, ...]:
    """Names of the parameters of a route's path, in order."""
    try:
        return template.parse(text).parameters
    except ConfigError as error:
        raise Wrong(str(error)) from error


def _matched(pattern: re.Pattern[str], text: str, complaint: str, allowed: str) -> str:
    if pattern.fullmatch(text):
        return text
    raise Wrong(f"{shown(text)} {complaint}", f"allowed: {allowed}")


def _split(text: str, allowed: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        # What the parser says may repeat a part of a password.
        raise Wrong(f"{shown(text)} is not a URL", f"allowed: {allowed}") from None
    _check_visible(text, f"allowed: {allowed}")
    return parts


def _check_visible(text: str, allowed: str) -> None:
    if not text.isascii() or any(character <= " " or character == "\x7f" for character in text):
        raise Wrong(f"{shown(text)} is not a URL", allowed)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _dns_name(text: str, allowed: str) -> str:
    labels = text.split(".")
    if len(text) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        raise Wrong(f"{shown(text)} is not a host", f"allowed: {allowed}")
    return text.lower()


def _key(text: str, plain: tuple[str, ...], qualified: tuple[str, ...]) -> str:
    if text in plain:
        return text
    kind, separator, of = text.partition(":")
    if separator and of and kind in qualified:
        return f"header:{field_name(of)}" if kind == "header" else f"{kind}:{claim(of)}"
    raise Wrong(f"{shown(text)} is not a key", f"allowed: {', '.join([*plain, *(f'{kind}:NAME' for kind in qualified)])}")
