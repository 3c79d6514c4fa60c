"""What a sliding window costs the store, and what it admits at worst, beside other ways to count one.

    PYTHONPATH=. python benchmarks/micro/sliding_window.py [--server redis|valkey]

`us` is the server's CPU for one decision beyond that for a call without a limit, with a window that is full and as many requests as it
admits; `bytes` is what a key of it takes then; `worst span` is how many times the limit one span of a window's length holds, when the limit
is used at once and then again at the end of that span; `steady` is what is admitted of the limit under unending overload. Clocks are the
benchmark's own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import pack

import redis

import gateway.admission.admission as admission_module
from gateway.admission.limits import counted_together
from gateway.route import Limit
from tests.support.redis_server import KINDS, redis_server

DECISIONS = 6000
START_US = 1_790_000_000_000_000
PERIOD_US = 3_600_000_000

#: KEYS[1] the key; ARGV[1] now, ARGV[2] the limit, ARGV[3] the window's length; the reply is 1 for an admission.
NOTHING = "return 1"
TWO_COUNTERS = """
local now, most, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local window, current, previous = math.floor(now / period), 0, 0
local value = redis.call('GET', KEYS[1])
if value then
  local stored, counted, before = struct.unpack('<ddd', value)
  if stored == window then current, previous = counted, before elseif stored == window - 1 then previous = counted end
end
local left = (window + 1) * period - now
if previous * left / period + current + 1 > most then return 0 end
local value = struct.pack('<ddd', window, current + 1, previous)
redis.call('SET', KEYS[1], value, 'PX', string.format('%.0f', math.ceil((left + period) / 1000)))
return 1
"""
SUB_WINDOWS = """
local now, most, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local grain = period / 64
local number = math.floor(now / grain)
local fields, total, gone = redis.call('HGETALL', KEYS[1]), 0, {}
for i = 1, #fields, 2 do
  local behind = number - fields[i]
  if behind > 64 then
    gone[#gone + 1] = fields[i]
  else
    local weight = 1
    if INTERPOLATED and behind == 64 then weight = 1 - (now - number * grain) / grain end
    total = total + fields[i + 1] * weight
  end
end
if total + 1 > most then return 0 end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
redis.call('HINCRBY', KEYS[1], string.format('%.0f', number), 1)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil((period + grain) / 1000)))
return 1
"""
EVERY_EVENT = """
local now, most, period = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - period))
local total = redis.call('ZCARD', KEYS[1])
if total + 1 > most then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[4])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.ceil(period / 1000)))
return 1
"""


@dataclass
class Counting:
    """A way to count: sends one decision into a pipeline; `admitted` reads its reply."""

    name: str
    script: str
    ours: bool = False

    def load(self, client: redis.Redis) -> str:
        return str(client.script_load(self.script))

    def ask(self, pipeline: redis.client.Pipeline, sha: str, key: str, now: int, number: int, limit: Limit | None) -> None:
        if not self.ours:
            most, period = (limit.count, limit.period_us) if limit else (0, 0)
            pipeline.evalsha(sha, 1, key, now, most, period, number)
            return
        pipeline.hset("clock", mapping={"s": now // 10**6, "us": now % 10**6})
        keys, plan = ["revoked", "revocations"], b""
        if limit:
            keys.append(key)
            plan = pack("<dBBddd", 1, 2, 0, limit.count, limit.period_us, counted_together(limit.count))
        pipeline.evalsha(sha, len(keys), *keys, "", plan, "")

    def admitted(self, replies: list[object]) -> list[bool]:
        if not self.ours:
            return [reply == 1 for reply in replies]
        return [reply[0] == 0 for reply in replies if isinstance(reply, list)]


def ours() -> Counting:
    text = (Path(admission_module.__file__).parent / "lua" / "admit.lua").read_text()
    return Counting("log of 64 entries (ours)", text.replace("redis.call('TIME')", "redis.call('HMGET', 'clock', 's', 'us')"), ours=True)


COUNTINGS = (
    Counting("two counters", TWO_COUNTERS),
    Counting("64 sub-windows, hash", SUB_WINDOWS.replace("INTERPOLATED", "false")),
    Counting("the same, interpolated", SUB_WINDOWS.replace("INTERPOLATED", "true")),
    Counting("every event, sorted set", EVERY_EVENT),
    ours(),
)

Offer = Iterator[int]


def steady(limit: Limit, windows: float, over: float = 1.0) -> Offer:
    """Times of requests, so many times as often as the limit allows."""
    step = limit.period_us / limit.count / over
    return (START_US + int(number * step) for number in range(int(windows * limit.count * over)))


def burst_and_on(limit: Limit, at: float) -> Offer:
    """A whole limit at once, so far (in windows) from an edge, then three limits in the last 64th of the window that this began."""
    edge = (START_US // limit.period_us + 1) * limit.period_us
    first = edge + int(at * limit.period_us)
    late = [first + limit.period_us * 63 // 64 + step * limit.period_us // (64 * 3 * limit.count) for step in range(3 * limit.count)]
    return iter([first] * limit.count + late)


def decide(client: redis.Redis, counting: Counting, limit: Limit | None, offer: Offer) -> list[int]:
    """Asks in turn on an empty server; gives the times of what was admitted."""
    client.flushdb()
    sha, times, admitted = counting.load(client), list(offer), list[int]()
    for first in range(0, len(times), 1000):
        some = times[first : first + 1000]
        pipeline = client.pipeline(transaction=False)
        for number, now in enumerate(some, first):
            counting.ask(pipeline, sha, "gw:{s00}:" + "k" * 48, now, number, limit)
        verdicts = counting.admitted(pipeline.execute())
        admitted += [now for now, allowed in zip(some, verdicts, strict=True) if allowed]
    return admitted


def worst_span(times: list[int], period_us: int) -> int:
    most = first = 0
    for last, now in enumerate(times):
        while now - times[first] >= period_us:
            first += 1
        most = max(most, last - first + 1)
    return most


def admitted_in_windows(times: list[int]) -> float:
    """How many a window, in the last five of nine."""
    return sum(now >= START_US + 4 * PERIOD_US for now in times) / 5


def microseconds(client: redis.Redis, counting: Counting, limit: Limit | None, offer: Callable[[], Offer]) -> float:
    """CPU of the server for one call, once the window is full."""
    times = list(offer())
    decide(client, counting, limit, iter(times[:-DECISIONS]))
    sha, key = counting.load(client), "gw:{s00}:" + "k" * 48
    client.config_resetstat()
    for first in range(len(times) - DECISIONS, len(times), 1000):
        pipeline = client.pipeline(transaction=False)
        for number, now in enumerate(times[first : first + 1000], first):
            counting.ask(pipeline, sha, key, now, number, limit)
        pipeline.execute()
    return float(client.info("commandstats")["cmdstat_evalsha"]["usec"]) / DECISIONS


def main(client: redis.Redis) -> None:
    print(f"{'':<26} {'limit':>7} {'us':>6} {'bytes':>8} {'worst span':>11} {'steady':>7}")
    for count in (20, 600, 20_000):
        limit = Limit(name="window", kind="sliding_window", count=count, period_us=PERIOD_US, key=("subject",))
        for counting in COUNTINGS:
            empty = Counting("", NOTHING) if not counting.ours else counting

            def rate(limit: Limit = limit) -> Offer:
                return steady(limit, 1 + (DECISIONS + 1) / limit.count)

            # The better of three: other work on the machine only ever adds.
            us = min(microseconds(client, counting, limit, rate) for _ in range(3))
            us -= min(microseconds(client, empty, None, rate) for _ in range(3))
            size = int(client.memory_usage(_key_of(client, counting, limit)) or 0)
            few = Limit(name="window", kind="sliding_window", count=min(count, 600), period_us=PERIOD_US, key=("subject",))
            spans = [worst_span(decide(client, counting, few, burst_and_on(few, at)), PERIOD_US) for at in (-0.0001, -0.0157, 0.5)]
            kept = min(admitted_in_windows(decide(client, counting, few, steady(few, 9, over))) for over in (1.02, 3))
            print(f"{counting.name:<26} {count:>7} {us:>6.1f} {size:>8} {max(spans) / few.count:>11.3f} {kept / few.count:>7.3f}")


def _key_of(client: redis.Redis, counting: Counting, limit: Limit) -> str:
    decide(client, counting, limit, steady(limit, 1.5))
    return "gw:{s00}:" + "k" * 48


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=KINDS, default="valkey")
    arguments = parser.parse_args()
    with redis_server(arguments.server) as server, server.client() as client:
        main(client)
