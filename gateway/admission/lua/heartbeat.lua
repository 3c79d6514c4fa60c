-- Says that a replica lives, and tells which ones do.
--
-- KEYS   1 sorted set: names of replicas by their last beat, microseconds   2 hash: name -> JSON   3 hash: name -> number of shards
-- ARGV   1 name   2 JSON about it; empty: it leaves, or only looks   3 how long a beat counts, microseconds   4 over how many shards it
--        spreads its keys
-- Reply  the server's time in microseconds; name, its last beat, ... of those that live; name, number of shards, ... likewise, without
--        replicas that don't say it. In no particular order

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local name, about, life = ARGV[1], ARGV[2], tonumber(ARGV[3])

local function whole(number) return string.format('%.0f', number) end

local gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. whole(now - life))
if about == '' then gone[#gone + 1] = name end
for i = 1, #gone do
  redis.call('ZREM', KEYS[1], gone[i])
  redis.call('HDEL', KEYS[2], gone[i])
  redis.call('HDEL', KEYS[3], gone[i])
end
if about ~= '' then
  redis.call('ZADD', KEYS[1], whole(now), name)
  redis.call('HSET', KEYS[2], name, about)
  redis.call('HSET', KEYS[3], name, ARGV[4])
  for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], whole(math.ceil(life / 1000))) end
end
return {now, redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'), redis.call('HGETALL', KEYS[3])}
