"""Response heads that an upstream repeats: read by the parser once, then recognised by their bytes.

An upstream that is asked the same again and again answers with the same fields, but for a Date that changes once a second and bodies of a
few sizes. Comparing a head's bytes with one that the parser has accepted costs a tenth of parsing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.upstream.http1 import ResponseHead

#: Heads kept of one endpoint; all are forgotten when there are more, which a new Date each second makes a common thing.
MAXIMUM_HEADS = 64
#: A longer head is not kept.
MAXIMUM_HEAD_BYTES = 2048
#: After so many new heads with less than one repetition for each, an upstream is one that repeats nothing (it numbers its answers, say).
_PATIENCE = 1024
_END = b"\r\n\r\n"


class RepeatedHeads:
    """The heads of one endpoint. Only those of whole responses with a Content-Length, after which the connection stayed open.

    Bytes that are equal to what the parser accepted between two messages mean the same, so nothing is taken that it would refuse.
    """

    __slots__ = ("_balance", "_heads")

    def __init__(self) -> None:
        self._heads: dict[bytes, ResponseHead] = {}
        #: Repetitions less new heads, within bounds.
        self._balance = 0

    def find(self, data: bytes) -> ResponseHead | None:
        """The known head that `data` begins with, if the rest of `data` is exactly its body."""
        heads = self._heads
        if not heads:
            return None
        end = data.find(_END) + 4
        head = heads.get(data[:end])
        if head is None or len(data) - end != head.length:
            return None
        if self._balance < _PATIENCE:
            self._balance += 1
        return head

    def keep(self, data: bytes, head: ResponseHead) -> None:
        """Remember the head of a response that `data` held whole, and nothing else."""
        end = data.find(_END) + 4
        if self._balance == -_PATIENCE or end > MAXIMUM_HEAD_BYTES or head.length is None or len(data) - end != head.length:
            return
        self._balance -= 1
        if len(self._heads) >= MAXIMUM_HEADS or self._balance == -_PATIENCE:
            self._heads.clear()
        self._heads[data[:end]] = head
