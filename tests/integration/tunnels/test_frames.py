"""Frames pass as they came, sound or not: what they say is for the two ends to judge (SPEC H8; the cases are those of Autobahn's suite)."""

from __future__ import annotations

import asyncio

import pytest

from tests.integration.tunnels.conftest import Stage
from tests.support.gateway_process import RunningGateway, run
from tests.support.recording_upstream import Link
from tests.support.websockets import BINARY, CLOSE, PING, PONG, TEXT, frame, opened, switching

BAD_UTF8 = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"
#: A frame as its sender's side has it: opcode, payload, FIN, reserved bits.
Sent = tuple[int, bytes, bool, int]


def whole(opcode: int, payload: bytes = b"", *, reserved: int = 0) -> Sent:
    return opcode, payload, True, reserved


def part(opcode: int, payload: bytes = b"") -> Sent:
    return opcode, payload, False, 0


def code(number: int, reason: bytes = b"") -> Sent:
    return whole(CLOSE, number.to_bytes(2, "big") + reason)


#: By the chapters of Autobahn's suite.
CASES: dict[str, list[Sent]] = {
    **{f"1.1 text of {size} bytes": [whole(TEXT, b"*" * size)] for size in (0, 125, 126, 127, 128, 65535, 65536)},
    **{f"1.2 binary of {size} bytes": [whole(BINARY, b"\xfe" * size)] for size in (0, 125, 126, 127, 128, 65535, 65536)},
    "2.1 ping without a payload": [whole(PING)],
    "2.2 ping with text": [whole(PING, b"Hello, world!")],
    "2.3 ping with bytes": [whole(PING, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")],
    "2.4 ping of 125 bytes": [whole(PING, b"\xfe" * 125)],
    "2.5 ping of 126 bytes": [whole(PING, b"\xfe" * 126)],
    "2.7 a pong that nobody asked for": [whole(PONG)],
    "2.9 a pong, then a ping": [whole(PONG, b"unsolicited"), whole(PING, b"payload")],
    "2.10 ten pings": [whole(PING, b"payload-%d" % number) for number in range(10)],
    **{f"3 reserved bits {bits}": [whole(TEXT, b"small", reserved=bits), whole(PING)] for bits in range(1, 8)},
    "3 a ping with reserved bits": [whole(PING, reserved=5)],
    "3 a close with reserved bits": [whole(CLOSE, reserved=7)],
    **{f"4.1 data opcode {opcode}": [whole(opcode, b"reserved"), whole(PING)] for opcode in range(3, 8)},
    **{f"4.2 control opcode {opcode}": [whole(opcode, b"reserved"), whole(PING)] for opcode in range(11, 16)},
    "5.1 a ping in two parts": [part(PING, b"frag"), whole(0, b"ment")],
    "5.2 a pong in two parts": [part(PONG, b"frag"), whole(0, b"ment")],
    "5.3 text in two parts": [part(TEXT, b"frag"), whole(0, b"ment")],
    "5.6 a ping between two parts": [part(TEXT, b"frag"), whole(PING, b"ping"), whole(0, b"ment")],
    "5.9 a part of nothing": [whole(0, b"non-continuation"), whole(TEXT, b"Hello")],
    "5.15 a part after the last one": [part(TEXT, b"a"), whole(0, b"b"), part(0, b"c"), whole(TEXT, b"d")],
    "5.18 text within text": [part(TEXT, b"a"), whole(TEXT, b"b")],
    "5.19 pings among many parts": [part(TEXT, b"1"), part(0, b"2"), whole(PING), part(0, b"3"), whole(PING), whole(0, b"5")],
    "6.1 empty parts": [part(TEXT), part(0), whole(0)],
    "6.2 a character in two parts": [part(TEXT, "µ".encode()[:1]), whole(0, "µ".encode()[1:])],
    "6.3 bad UTF-8": [whole(TEXT, BAD_UTF8)],
    "6.4 bad UTF-8 in parts": [part(TEXT, BAD_UTF8[:12]), part(0, BAD_UTF8[12:13]), whole(0, BAD_UTF8[13:])],
    "6.6 an overlong NUL": [whole(TEXT, b"\xc0\x80")],
    "7.1 text after a close": [code(1000), whole(TEXT, b"late")],
    "7.1 two closes": [code(1000), code(1001)],
    "7.3 a close without a code": [whole(CLOSE)],
    "7.3 a close of one byte": [whole(CLOSE, b"a")],
    "7.3 a close with a reason": [code(1000, b"Hello World!")],
    "7.3 a close with a long reason": [code(1000, b"*" * 123)],
    "7.3 a close that is too long": [code(1000, b"*" * 124)],
    "7.5 a close with bad UTF-8": [code(1000, BAD_UTF8)],
    **{f"7.7 close code {number}": [code(number)] for number in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1014, 3000, 4999)},
    **{f"7.9 bad close code {number}": [code(number)] for number in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)},
    "9.1 text of a mebibyte": [whole(TEXT, b"*" * (1 << 20))],
    "9.3 a mebibyte in parts": [part(TEXT, b"*" * 65536), *[part(0, b"*" * 65536)] * 14, whole(0, b"*" * 65536)],
    "10.1 a message in many small parts": [part(TEXT, b"*"), *[part(0, b"*")] * 200, whole(0)],
    "12 compressed": [whole(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", reserved=4)],
}
#: Not of the suite: headers that are longer than they need be.
RAW: dict[str, bytes] = {
    "a short length in two bytes": b"\x82\x7e\x00\x05hello",
    "a short length in eight bytes": b"\x82\x7f" + bytes(7) + b"\x05hello",
}


def spelled(frames: list[Sent], mask: bytes) -> bytes:
    return b"".join(frame(opcode, payload, fin=fin, mask=mask, reserved=bits) for opcode, payload, fin, bits in frames)


async def mirror(link: Link) -> None:
    """Switches; then each connection gives back what it got, unmasked, by the name of the case that comes first."""
    request = await link.head()
    assert request is not None
    await link.send(switching(request))
    name = request.values(b"x-case")[0].decode()
    from_client, to_client = both_ways(name)
    received = b""
    while len(received) < len(from_client):
        received += await link.read()
    assert received == from_client
    pieces = [to_client[at : at + 1] for at in range(len(to_client))] if request.values(b"x-split") else [to_client]
    await link.send(*pieces)
    await link.until_lost()


def both_ways(name: str) -> tuple[bytes, bytes]:
    if name in RAW:
        return RAW[name], RAW[name]
    # Two masks: the same for all would hide a payload that is changed by one.
    return spelled(CASES[name], b"\x37\xfa\x21\x3d"), spelled(CASES[name], b"")


async def passes(gateway: RunningGateway, name: str, split: bool) -> bool:
    """Whether a case passes both ways as it came."""
    from_client, to_client = both_ways(name)
    client = await gateway.connect()
    await opened(client, b"X-Case: " + name.encode(), *([b"X-Split: 1"] if split else []))
    await client.send(from_client, split=split)
    try:
        async with asyncio.timeout(5):
            return await client.reader.readexactly(len(to_client)) == to_client
    except (asyncio.IncompleteReadError, TimeoutError):
        return False
    finally:
        client.close()


@pytest.mark.parametrize("split", [False, True], ids=["at once", "byte by byte"])
def test_frames_pass_unchanged_in_both_directions(stage: Stage, split: bool) -> None:
    """H8."""
    names = [name for name in (*CASES, *RAW) if not split or sum(map(len, both_ways(name))) < 10_000]
    assert len(names) >= 60

    async def main() -> None:
        async with stage(mirror) as (gateway, _):
            assert [name for name in names if not await passes(gateway, name, split)] == []

    run(main())
