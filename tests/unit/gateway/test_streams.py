"""Which lasting exchanges a revocation ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gateway.auth.principal import Principal
from gateway.errors import GatewayError
from gateway.streams import NO_STREAMS, OpenStreams
from tests.support.admission import principal


@dataclass(eq=False)
class Lasting:
    """An exchange that lasts."""

    principal: Principal | None
    ended: list[str] = field(default_factory=list)

    def end(self, error: GatewayError) -> None:
        self.ended.append(f"{error.status} {error.code} {error.reason}")


def test_a_look_ends_what_was_revoked_and_nothing_else() -> None:
    """V7: every stream of the principal, once, however many revocations came in one turn."""

    async def main() -> None:
        alice, bob = principal("alice"), principal("bob")
        revoked: dict[Principal, str] = {}
        streams = OpenStreams(lambda who: revoked.get(who, ""))
        first, second, other, nobody = Lasting(alice), Lasting(alice), Lasting(bob), Lasting(None)
        for each in (first, second, other, nobody):
            streams.add(each)
        assert len(streams) == 3
        revoked[alice] = "session"
        streams.look()
        streams.look()
        await asyncio.sleep(0)
        assert first.ended == second.ended == ["401 token_revoked revoked_session"]
        assert other.ended == nobody.ended == []
        for each in (first, second, other, nobody):
            streams.discard(each)
            streams.discard(each)
        assert len(streams) == 0

    asyncio.run(main())


def test_what_comes_too_late_is_ended_at_once() -> None:
    """V7: revoked between admission and the first piece."""
    late = Lasting(principal())
    OpenStreams(lambda who: "jti").add(late)
    assert late.ended == ["401 token_revoked revoked_jti"]


def test_public_streams_are_kept_nowhere() -> None:
    """V5."""
    NO_STREAMS.add(Lasting(None))
    NO_STREAMS.discard(Lasting(None))
    assert repr(OpenStreams(lambda who: "")) == "<OpenStreams 0>"
