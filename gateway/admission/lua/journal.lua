-- The journal: each change of a revocation, in order, for the mirrors of all replicas.
--
-- KEYS   1 stream
-- ARGV   1 what to do, then for
--   append   entry, JSON; both empty: look at everything again      reply: the id of the record
--   last                                                            reply: the id of the last record, "0-0" when there is none
--
-- A record says which one was before it ("previous"): who knows another one has missed something, because records were trimmed or the
-- server lost them. "at" is the server's clock in microseconds. The stream is short, for a reader that missed more takes a snapshot.

local RECORDS = 10000
--- Longer than any reader stays away without noticing.
local LIFE_MS = 7 * 86400 * 1000

local function last()
  local record = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  return record and record[1] or '0-0'
end

if ARGV[1] == 'last' then return last() end

local time = redis.call('TIME')
local at = string.format('%.0f', time[1] * 1000000 + time[2])
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', RECORDS, '*', 'previous', last(), 'at', at, 'entry', ARGV[2], 'document', ARGV[3])
redis.call('PEXPIRE', KEYS[1], LIFE_MS)
return id
