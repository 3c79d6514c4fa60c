"""Small damage to a message, as an attacker who looks for a difference between two parsers would do it."""

from __future__ import annotations

import random
from collections.abc import Iterator

#: What is put somewhere, or in the place of a byte.
TOKENS = (
    *(bytes((byte,)) for byte in b"\r\n\x00 \t\x0b\x0c:;,=\"'\\/?#%0159afFgx+-_.*@[]\x7f\x80\xa0\xff"),
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\n ",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"\r\nTransfer-Encoding: chunked",
    b"\r\nTransfer-Encoding: identity",
    b"\r\nContent-Length: 5",
    b"\r\nContent-Length: 0",
    b"\r\nConnection: close",
    b"\r\nConnection: upgrade\r\nUpgrade: x",
    b"\r\nHost: b",
    b"\r\nX-A: 1",
    b" HTTP/1.1",
    b"HTTP/1.0",
    b"chunked",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
)


def damaged(message: bytes, seed: str, times: int) -> Iterator[bytes]:
    """So many messages, each with one to three places damaged; the same for the same seed."""
    randomly = random.Random(seed)
    for _ in range(times):
        damage = bytearray(message)
        for _ in range(randomly.choice((1, 1, 1, 2, 3))):
            _hurt(damage, randomly)
        yield bytes(damage)


def _hurt(message: bytearray, randomly: random.Random) -> None:
    at = randomly.randrange(len(message) + 1)
    kind = randomly.randrange(5)
    if kind == 0:
        message[at:at] = randomly.choice(TOKENS)
    elif kind == 1:
        message[at : at + 1] = randomly.choice(TOKENS)
    elif kind == 2:
        del message[at : at + randomly.choice((1, 1, 2, 5))]
    elif kind == 3:
        lines = message.split(b"\r\n")
        lines.insert(randomly.randrange(len(lines)), randomly.choice(lines))
        message[:] = b"\r\n".join(lines)
    else:
        message[at : at + 1] = message[at : at + 1].swapcase()
