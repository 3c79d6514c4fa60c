"""Where frames end, and the handshake's proof."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway.websocket as websocket
from gateway.websocket import Broken, Frames, Messages, MessageTooBig, Opaque, close_frame, is_key, may_be_sent, proof
from tests.support.websockets import ACCEPT, BINARY, CLOSE, KEY, MASK, PING, TEXT, accept_of, close, frame

sent_frames = st.builds(
    frame,
    st.integers(0, 15).filter(lambda opcode: opcode != CLOSE),
    st.one_of(st.integers(0, 300), st.integers(65_500, 65_600)).map(bytes),
    fin=st.booleans(),
    mask=st.sampled_from([b"", bytes(4)]),
    reserved=st.integers(0, 7),
)


@given(st.lists(sent_frames, max_size=6), st.data())
def test_the_end_of_each_frame_is_found_however_the_bytes_are_cut(frames: list[bytes], data: st.DataObject) -> None:
    """H8."""
    whole = b"".join(frames)
    ends = {0}
    for each in frames:
        ends.add(max(ends) + len(each))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    reader, start = Frames(), 0
    for cut in (*cuts, len(whole)):
        found = reader.feed(whole[start:cut])
        before = [end for end in ends if start <= end <= cut]
        assert found == (max(before) - start if before else -1)
        assert reader.between == (cut in ends)
        start = cut
    assert reader.between
    assert not reader.closed


def test_a_close_frame_is_noticed_once_its_header_is_whole() -> None:
    """H8."""
    reader = Frames()
    sent = close(1000, mask=MASK)
    for byte in sent[:5]:
        reader.feed(bytes((byte,)))
    assert (reader.closed, reader.between) == (False, False)
    reader.feed(sent[5:])
    assert (reader.closed, reader.between) == (True, True)
    assert repr(reader) == "<Frames closed>"


@pytest.mark.parametrize(
    ("sent", "at"),
    [
        (frame(BINARY, bytes(101)), 0),
        (frame(TEXT, b"ok") + frame(BINARY, bytes(101)), 8),
        (frame(TEXT, bytes(60), fin=False) + frame(0, bytes(41)), 66),
        (frame(TEXT, bytes(60), fin=False) + frame(PING, bytes(125)) + frame(0, bytes(41), fin=False), 66 + 131),
        (b"\x82\xff\xff" + bytes(11), 0),
    ],
    ids=["a frame", "the second one", "parts", "parts around a ping", "a length of 64 bits"],
)
def test_a_message_beyond_the_bound_is_found_at_its_header(sent: bytes, at: int) -> None:
    """H8: before its payload has come."""
    with pytest.raises(MessageTooBig) as found:
        Frames(100).feed(sent[: at + 14])
    assert found.value.at == at


def test_of_a_header_in_two_pieces_some_has_passed_already() -> None:
    """H8: then nothing can be placed before it."""
    reader = Frames(100)
    reader.feed(b"\x82")
    reader.feed(b"\xff\x00")
    with pytest.raises(MessageTooBig) as found:
        reader.feed(b"\xff" * 12)
    assert found.value.at == -1
    assert not reader.between


def test_messages_within_the_bound_and_control_frames_are_no_concern() -> None:
    """H8."""
    reader = Frames(100)
    for _ in range(3):
        reader.feed(frame(TEXT, bytes(50), fin=False) + frame(PING, bytes(125)) + frame(0, bytes(50)) + frame(BINARY, bytes(100)))
    assert reader.between
    with pytest.raises(MessageTooBig):
        Frames(0).feed(frame(TEXT, b"x"))


def test_of_another_protocol_nothing_is_known() -> None:
    """H8."""
    reader = Opaque()
    assert (reader.feed(close(1000)), reader.between, reader.closed) == (-1, False, False)


def test_close_frames_are_those_of_the_standard() -> None:
    """H8 (RFC 6455 section 5.5.1)."""
    assert close_frame(1001) == b"\x88\x02\x03\xe9" == close(1001)
    assert close_frame(1008, MASK) == close(1008, mask=MASK)


def test_the_proof_is_that_of_the_standard() -> None:
    """H8 (RFC 6455 section 1.3)."""
    assert proof(KEY) == ACCEPT == accept_of(KEY)
    assert is_key(KEY)
    assert not any(map(is_key, (b"", KEY + b"\n", KEY[:-1], KEY[:-3] + b"R==", b" " + KEY)))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 125, 126, 65535, 65536])
@pytest.mark.parametrize("mask", [b"", MASK, b"\x00\x00\x00\x01"])
def test_whole_frames_are_spelled_as_the_standard_has_them(size: int, mask: bytes) -> None:
    """H8 (RFC 6455 section 5.2)."""
    payload = bytes(number % 251 for number in range(size))
    assert websocket.frame(BINARY, payload, mask) == frame(BINARY, payload, mask=mask)


messages = st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), st.lists(st.binary(max_size=300), min_size=1, max_size=4)), max_size=4)


@given(messages, st.lists(st.integers(0, 5000), max_size=12))
def test_messages_are_read_however_they_are_fragmented_and_cut(sent: list[tuple[int, list[bytes]]], cuts: list[int]) -> None:
    """H8: with pings in between."""
    whole, expected = b"", []
    for opcode, parts in sent:
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            whole += frame(0 if place else opcode, part, fin=last, mask=b"") + frame(PING, b"ping", mask=b"")
            expected += [(opcode, b"".join(parts))] * last + [(PING, b"ping")]
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    reader = Messages(10_000)
    found = [each for start, end in itertools.pairwise(places) for each in reader.feed(whole[start:end])]
    assert found == expected


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"x", mask=b"", reserved=1), 1002),
        (frame(TEXT, b"x"), 1002),
        (frame(5, b"x", mask=b""), 1002),
        (frame(PING, bytes(126), mask=b""), 1002),
        (frame(CLOSE, b"", mask=b"", fin=False), 1002),
        (frame(0, b"x", mask=b""), 1002),
        (frame(TEXT, b"x", mask=b"", fin=False) + frame(BINARY, b"x", mask=b""), 1002),
        (frame(BINARY, bytes(101), mask=b""), 1009),
        (frame(BINARY, bytes(60), mask=b"", fin=False) + frame(0, bytes(41), mask=b""), 1009),
    ],
)
def test_a_frame_that_may_not_be_is_refused_with_its_code(sent: bytes, code: int) -> None:
    """H8 (RFC 6455 section 5)."""
    with pytest.raises(Broken) as found:
        Messages(100).feed(sent)
    assert found.value.code == code


def test_only_some_codes_may_be_sent() -> None:
    """H8 (RFC 6455 section 7.4)."""
    assert [code for code in range(5100) if may_be_sent(code)] == [*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)]
