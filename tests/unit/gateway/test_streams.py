"""Which lasting exchanges a revocation ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from gateway.auth.principal import Principal
from gateway.errors import GatewayError
from gateway.streams import NO_STREAMS, OpenStreams
from tests.support.admission import principal
from tests.support.redis_server import until


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


def test_an_expired_token_ends_its_streams_and_no_others() -> None:
    """S-38: at `exp` and the leeway, once, by one timer for all of them."""

    async def main() -> None:
        now = [1000.0]
        leeway = {"alice": 0.5}
        streams = OpenStreams(lambda who: "", lambda who: leeway.get(who.subject, 0.0), lambda: now[0])
        first, again, later, never = (
            Lasting(replace(principal(who), expires_at=expires_at))
            for who, expires_at in (("alice", 1000.5), ("alice", 1000.0), ("bob", 1900.0), ("carol", 0.0))
        )
        for each in (first, again, later, never):
            streams.add(each)
        now[0] = 1000.6
        await until(lambda: again.ended == ["401 token_expired token_expired"], "the first end")
        assert first.ended == []
        now[0] = 1001.1
        # Nothing looks before the timer that is set for its end.
        await until(lambda: first.ended == ["401 token_expired token_expired"], "the second end")
        assert later.ended == never.ended == []
        now[0] = 1900.0
        for each in (first, again, later, never):
            streams.discard(each)
        assert (len(streams), streams._timer, streams._ends) == (0, None, {})

    asyncio.run(main())


def test_a_token_that_expired_before_its_stream_began_ends_it() -> None:
    """S-38: the service took longer than the token was good for."""

    async def main() -> None:
        late = Lasting(replace(principal(), expires_at=10.0))
        OpenStreams(lambda who: "").add(late)
        await until(lambda: late.ended == ["401 token_expired token_expired"], "its end")

    asyncio.run(main())


def test_public_streams_are_kept_nowhere() -> None:
    """V5."""
    NO_STREAMS.add(Lasting(None))
    NO_STREAMS.discard(Lasting(None))
    assert repr(OpenStreams(lambda who: "")) == "<OpenStreams 0>"
