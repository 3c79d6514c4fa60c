-- Removes every revocation of one identity.
--
-- KEYS   as revoke.lua
-- ARGV   1 identity (16 bytes)
-- Reply  how many entries there were

local identity = ARGV[1]
local removed = 0
for _, entry in ipairs(redis.call('HKEYS', KEYS[2])) do
  if string.sub(entry, 1, #identity) == identity then
    redis.call('HDEL', KEYS[2], entry)
    redis.call('ZREM', KEYS[3], entry)
    removed = removed + 1
  end
end
redis.call('ZREM', KEYS[1], identity)
return removed
