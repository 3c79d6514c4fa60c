-- Everything that changes or compares the revocations of one shard. admit.lua reads them.
--
-- KEYS   1 sorted set: revoked identities by the latest expiry of their entries; and the name of the history by the latest expiry of all
--        2 hash: entry (identity .. issuer .. subject, 16 bytes each) -> JSON, with "version", "expires_at_us" and perhaps "removed"
--        3 sorted set: entries by expiry
--        4 string: the name of the history
--
-- ARGV   1 what to do, then for
--   revoke    entry, JSON without a version, expiry, version or 0        reply: 1 new or 0 replaced, JSON as written
--   remove    identity, version or 0                                    reply: entry, JSON as written, ... of those that were removed
--   scan      cursor                                                    reply: next cursor ("0": the end), list of entry, JSON, ...
--   restore   entry, JSON with its version, expiry, ...                 reply: how many were missing or older here
--   adopt     name                                                      reply: the name of the history; the given one when there is none
--   compare   name, then entry, version, expiry, ...                    reply: 1 when the history and all of these are here, else 0
--
-- Times are in microseconds. A version is the time of an entry's last change by the server's clock, always greater than the one before:
-- of two texts of an entry the one with the greater version holds. What is removed stays as a mark until it would have expired, so that
-- nobody who missed the removal writes it back.
-- A history begins when somebody finds the keys gone: whoever knows another name has to write back what he knows.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local IDENTITY_BYTES = 16
--- How long the name of the history outlives the last change: whoever is away for longer takes it for lost, which costs a comparison.
local YEAR_US = 366 * 86400 * 1000000
--- A bounded share each time, so that no call takes long.
local FORGOTTEN_A_CALL = 1000

local function whole(number) return string.format('%.0f', number) end

-- The version of a change: what other shards have given it, if it was made there already, and greater than the one before.
local function next_version(least, before)
  least = tonumber(least)
  return math.max(least > 0 and least or now, before + 1)
end

local function version_of(document) return document and cjson.decode(document).version or 0 end

local function versioned(document, version) return '{"version":' .. whole(version) .. ',' .. string.sub(document, 2) end

-- Before anything else is written, on purpose: a script that has begun to write may go on when the server's memory is full, and of all
-- writes these should.
-- The name of the history stays, however old what it was last settled with: without it all replicas would take everything for lost.
local function forget_expired()
  local history = redis.call('GET', KEYS[4])
  local settled_until = history and redis.call('ZSCORE', KEYS[1], history)
  local expired = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', whole(now), 'LIMIT', 0, FORGOTTEN_A_CALL)
  for i = 1, #expired do
    redis.call('HDEL', KEYS[2], expired[i])
    redis.call('ZREM', KEYS[3], expired[i])
  end
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now))
  if settled_until then redis.call('ZADD', KEYS[1], settled_until, history) end
end

local function put(entry, document, expiry, removed)
  if not removed then redis.call('ZADD', KEYS[1], 'GT', expiry, string.sub(entry, 1, IDENTITY_BYTES)) end
  redis.call('ZADD', KEYS[3], expiry, entry)
  return redis.call('HSET', KEYS[2], entry, document)
end

-- The keys end with what they hold; the name of the history, which admit.lua looks for, stays.
local function settle(history)
  local last = redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')[2] or '0'
  local last_ms = math.ceil(tonumber(last) / 1000)
  for i = 1, 3 do redis.call('PEXPIREAT', KEYS[i], whole(last_ms)) end
  if history then
    redis.call('ZADD', KEYS[1], last, history)
    local until_ms = whole(math.max(last_ms, math.ceil((now + YEAR_US) / 1000)))
    redis.call('PEXPIREAT', KEYS[1], until_ms)
    redis.call('PEXPIREAT', KEYS[4], until_ms)
  end
end

local function history() return redis.call('GET', KEYS[4]) end

local operations = {}

function operations.revoke(entry, document, expiry, least)
  forget_expired()
  local version = next_version(least, version_of(redis.call('HGET', KEYS[2], entry)))
  local written = versioned(document, version)
  local created = put(entry, written, expiry, false)
  settle(history())
  return {created, written}
end

function operations.remove(identity, least)
  local reply = {}
  for _, entry in ipairs(redis.call('HKEYS', KEYS[2])) do
    if string.sub(entry, 1, IDENTITY_BYTES) == identity then
      local found = cjson.decode(redis.call('HGET', KEYS[2], entry))
      if not found.removed then
        -- Written by hand: cjson rounds large numbers. The subject says which shard it is about.
        local subject = cjson.encode(found.kind == 'subject' and found.value or found.subject or cjson.null)
        local mark = versioned(
          '{"removed":true,"expires_at_us":' .. whole(found.expires_at_us) .. ',"subject":' .. subject .. '}',
          next_version(least, found.version or 0)
        )
        redis.call('HSET', KEYS[2], entry, mark)
        reply[#reply + 1] = entry
        reply[#reply + 1] = mark
      end
    end
  end
  redis.call('ZREM', KEYS[1], identity)
  return reply
end

function operations.scan(cursor) return redis.call('HSCAN', KEYS[2], cursor, 'COUNT', 500) end

function operations.restore(...)
  local given, restored = {...}, 0
  forget_expired()
  for i = 1, #given, 3 do
    local entry, document, expiry = given[i], given[i + 1], given[i + 2]
    local mine = cjson.decode(document)
    if tonumber(expiry) > now and (mine.version or 0) > version_of(redis.call('HGET', KEYS[2], entry)) then
      put(entry, document, expiry, mine.removed)
      restored = restored + 1
    end
  end
  settle(history())
  return restored
end

function operations.adopt(name)
  forget_expired()
  local known = history()
  if not known or not redis.call('ZSCORE', KEYS[1], known) then
    known = name
    redis.call('SET', KEYS[4], name)
  end
  settle(known)
  return known
end

function operations.compare(name, ...)
  local given = {...}
  if not redis.call('ZSCORE', KEYS[1], name) then return 0 end
  for i = 1, #given, 3 do
    local entry, version, expiry = given[i], tonumber(given[i + 1]), tonumber(given[i + 2])
    -- By this server's clock, or a caller whose clock is behind would ask for ever for what has ended.
    if expiry > now and version_of(redis.call('HGET', KEYS[2], entry)) < version then return 0 end
  end
  return 1
end

return operations[ARGV[1]](unpack(ARGV, 2))
