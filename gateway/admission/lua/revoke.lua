-- Writes one revocation, and forgets those that have expired.
--
-- KEYS   1 sorted set of identities by their latest expiry, 2 hash entry -> JSON (both read by admit.lua), 3 sorted set of entries by expiry
-- ARGV   1 identity (16 bytes), 2 entry (48 bytes, begins with the identity), 3 JSON, 4 expiry in microseconds
-- Reply  1 when the entry is new, 0 when it replaced one
--
-- All three keys expire with the last entry. Forgetting comes first on purpose: a script that has begun to write may go on when the
-- server's memory is full, and of all writes this one should.

local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000000 + time[2])
local identity, entry, document, expiry = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

-- A bounded share each time, so that no call takes long.
local expired = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1000)
for i = 1, #expired do
  redis.call('HDEL', KEYS[2], expired[i])
  redis.call('ZREM', KEYS[3], expired[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)

redis.call('ZADD', KEYS[1], 'GT', expiry, identity)
local created = redis.call('HSET', KEYS[2], entry, document)
redis.call('ZADD', KEYS[3], expiry, entry)

local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2]
local milliseconds = string.format('%.0f', math.ceil(tonumber(last) / 1000))
for i = 1, 3 do redis.call('PEXPIREAT', KEYS[i], milliseconds) end
return created
