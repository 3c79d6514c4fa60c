-- Renews and gives back leases of concurrency limits.
--
-- KEYS   for each lease, the sorted set that holds it
-- ARGV   for each lease, its name and its new life in microseconds; a life of 0 gives it back
-- Reply  the number of leases that are held now
--
-- A renewal brings back a lease that had expired in between: what it stands for is still running.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = 0

for i = 1, #KEYS do
  local name, life = ARGV[2 * i - 1], tonumber(ARGV[2 * i])
  if life > 0 then
    redis.call('ZADD', KEYS[i], string.format('%.0f', now + life), name)
    redis.call('PEXPIRE', KEYS[i], string.format('%.0f', math.max(1, math.ceil(life / 1000))))
    held = held + 1
  else
    redis.call('ZREM', KEYS[i], name)
  end
end
return held
