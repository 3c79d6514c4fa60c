"""One path policy, applied once before routing: request targets are split, ambiguous spellings are refused, nothing is rewritten.

The upstream gets the path byte for byte as it came. What is routed, authorised, limited and recorded is the decoded text of the same
bytes. The two can't be read differently by a service behind us, because every spelling that servers are known to read differently is
refused with 400:

- dot segments (`.`, `..`, `%2e%2e`, `.%2E`), empty segments (`//`);
- `;`, plain or as `%3b`: many servers cut it and what follows off a segment before they match, so `/admin;x` would pass for another path;
- `%2f`, `%5c` and a plain backslash (hidden separators), `%00` and every other control character, plain or encoded;
- `%25` before two hexadecimal digits (`%252f`: decoded twice, it is something else); a lone percent sign such as `100%25` is fine;
- `%` without two hexadecimal digits, bytes that aren't UTF-8 when decoded (overlong forms and surrogates included), plain bytes
  outside ASCII, spaces, and `#` (a fragment never belongs into a request).

Letters that are encoded without need (`/%61dmin`) are decoded for routing, so no spelling of a protected path falls through to a wider
route. The query is checked for control characters, spaces, `#` and bytes outside ASCII, and is otherwise never looked at.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from gateway.errors import MalformedMessage

# Segments of RFC 3986 pchar without `%` and `;`, none empty but the last, none that starts with a dot: such a path has a single reading,
# whoever reads it. Everything else gets a second look.
_PCHARS = rb"(?!\.)[A-Za-z0-9._~!$&'()*+,=:@-]+"
_is_plain = re.compile(rb"/(?:" + _PCHARS + rb"/)*(?:" + _PCHARS + rb")?").fullmatch
# What may stand in a query: every visible ASCII character but `#`. Lenient where RFC 3986 is strict (`|`, `{`), as browsers send those.
_VISIBLE = bytes(byte for byte in range(0x21, 0x7F) if byte != 0x23)
_PATH_ALLOWED = bytes(byte for byte in _VISIBLE if byte not in b"\\;?")

_BROKEN_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HIDDEN = re.compile(rb"%(?:2[fF]|5[cC]|3[bB])")
_ENCODED_AGAIN = re.compile(r"%[0-9A-Fa-f]{2}")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_DOT_SEGMENTS = frozenset((".", ".."))

_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(.*)", re.DOTALL)
# RFC 3986 section 3.2.2 without userinfo, which RFC 9110 section 4.2.4 wants treated as an error; `%` has no use in a host name here.
_AUTHORITY = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,=-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")


class Target(NamedTuple):
    """A request target, split and otherwise as it came.

    Args:
        authority: host and port of an absolute-form target, which wins over `Host` (RFC 9112 section 3.2.2); None for the other forms.
        path: `*` for the asterisk form. Not yet checked: `canonical` does that.
        query: with its `?`, so `path + query` is the target again; empty when there is no `?`.
    """

    authority: str | None
    path: bytes
    query: bytes


def split_target(target: bytes, method: str) -> Target:
    """Split a request target by its form (RFC 9112 section 3.2).

    Raises:
        MalformedMessage: not a form that this method may use, an authority that isn't one, or a query that `check_query` refuses.
    """
    if target.startswith(b"/"):
        path, mark, query = target.partition(b"?")
        if not mark:
            return Target(None, target, b"")
        check_query(query)
        return Target(None, path, mark + query)
    return _split_other_form(target, method)


def check_query(query: bytes) -> None:
    """Raise MalformedMessage when a query, given without its `?`, has bytes that may not travel in a request line."""
    if query.translate(None, _VISIBLE):
        raise _refusal("The query contains a character that must be percent-encoded.", "query_character")


def is_authority(value: bytes) -> bool:
    """Whether a `Host` field or an authority is well-formed: a name, an IPv4 or bracketed IPv6 address, and perhaps a port."""
    return _AUTHORITY.fullmatch(value) is not None


def canonical(path: bytes) -> str:
    """The decoded text of a path, for routing.

    Args:
        path: as it came, without the query.

    Raises:
        MalformedMessage: the path is ambiguous or malformed; see the module's list.
    """
    return path.decode("ascii") if _is_plain(path) else _examined(path)


def _refusal(detail: str, reason: str) -> MalformedMessage:
    return MalformedMessage(detail, reason=reason)


def _split_other_form(target: bytes, method: str) -> Target:
    if target == b"*" and method == "OPTIONS":
        return Target(None, b"*", b"")
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or method == "CONNECT":
        raise _refusal("The request target has a form that this method does not allow.", "target_form")
    authority, rest = absolute.groups()
    if not is_authority(authority):
        raise _refusal("The authority of the request target is malformed.", "target_authority")
    # RFC 9112 section 3.2.4: OPTIONS without a path asks about the server as a whole.
    if not rest and method == "OPTIONS":
        return Target(authority.decode("ascii"), b"*", b"")
    origin = split_target(rest if rest.startswith(b"/") else b"/" + rest, method)
    return origin._replace(authority=authority.decode("ascii"))


def _examined(path: bytes) -> str:
    """The long way for paths with something special in them: the reading that `canonical` gives, or the refusal."""
    if not path.startswith(b"/"):
        raise _refusal("The path must start with a slash.", "path_form")
    unfit = path.translate(None, _PATH_ALLOWED)
    if unfit:
        raise _unfit(unfit[0])
    if b"//" in path:
        raise _refusal("The path has an empty segment.", "path_empty_segment")
    text = _decoded(path) if b"%" in path else path.decode("ascii")
    if not _DOT_SEGMENTS.isdisjoint(text.split("/")):
        raise _refusal("The path has a dot segment.", "path_dot_segment")
    return text


def _unfit(byte: int) -> MalformedMessage:
    if byte == ord(";"):
        return _refusal("The path has a semicolon.", "path_semicolon")
    if byte == ord("\\"):
        return _refusal("The path has a backslash.", "path_backslash")
    return _refusal("The path contains a character that must be percent-encoded.", "path_character")


def _decoded(path: bytes) -> str:
    if _BROKEN_PERCENT.search(path):
        raise _refusal("The path has an invalid percent-encoding.", "path_percent")
    if _HIDDEN.search(path):
        raise _refusal("The path has an encoded slash, backslash or semicolon.", "path_encoded_separator")
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise _refusal("The path is not valid UTF-8.", "path_utf8") from exc
    if _ENCODED_AGAIN.search(text):
        raise _refusal("The path is percent-encoded more than once.", "path_double_encoding")
    if _CONTROL.search(text):
        raise _refusal("The path has a control character.", "path_control")
    return text
