-- Decides many requests of one shard in one call: revocation first, then every limit; a refused request changes nothing.
--
-- KEYS
--   1         sorted set: revoked identities -> the latest expiry of their entries, microseconds; the name of the store's history -> the
--             latest expiry of all entries (see revocations.lua)
--   2         hash: entry (identity .. issuer .. subject, 16 bytes each, zeros where the entry does not care) -> JSON
--             {"expires_at_us": n, "issued_before": seconds or null, "removed": true for the mark of a removed one, ...}
--   3 ...     one key a limit, in the order of the requests and of their plans. All keys carry the tag of the shard.
--
-- ARGV, first
--   history   "", or the name of the history that the caller has compared its own knowledge with
-- and for each request
--   plan      "" without limits, else struct "<d" cost, then for each limit "<BBddd": kind, shadow, a, b, c
--               kind 1  GCRA: a = units that one event adds, b = capacity in units, c = units that drain each microsecond
--               kind 2  sliding window: a = events a window, b = length of the window in microseconds, c = events that one entry may hold
--               kind 3  calendar quota: a and b as for kind 2; windows are counted from the epoch, UTC
--               kind 4  concurrency: a = leases at once, b = life of a lease in microseconds
--   who       "" for nobody, else struct "<d" iat in seconds (0: unknown), then 16 bytes each for jti, subject, session, client and
--             issuer, zeros for what the token does not say
--   lease     only when the plan has a limit of kind 4: the name of the lease
--
-- Reply: the error EMPTIED when the server does not know that history: it was emptied or replaced, and nothing was done. Else integers, for
-- each request
--   code      0 admitted, -1 refused by a limit, 1..5 revoked by jti, subject, session, client, issuer
--   and, unless revoked, two for each limit of its plan
--     remaining   events that are left; -1 - remaining when this limit refuses the request
--     wait        microseconds until there is more (0 when it is full), or, when it refuses, until the same request would be accepted
-- and at the end the clock: microseconds since the epoch
--
-- Requests see what the ones before them in the call have taken. A cost of 0 peeks: it takes nothing and gets no lease.
-- A shadow limit is decided and counted alone, as if it were the only limit: it counts each request that is not revoked and that it would
-- accept itself, whatever the others say, and it never refuses. A shadow limit of concurrency counts only requests that go on.
-- A sliding window is a log of what was accepted, in entries of up to c events in a row. An entry counts in full until its last event is a
-- window old: events are never counted for too short, and at most c - 1 of them (all but the last of the oldest entry) for too long. So no
-- span of a window's length holds more than a, and a request that fits beside the events of the last window is refused only when these
-- are more than a - c + 1 - cost.
-- The clock is the server's, read once, in microseconds. Time never runs backwards for a key: a quota that is ahead of the clock (the
-- server was replaced by one whose clock is behind) goes on where it is, a bucket counts as full, and events of a sliding window that have
-- not happened yet count as just happened. Every key expires when what it says no longer matters.
--
-- Values are struct: GCRA "<dd" (theoretical arrival time in whole microseconds, rest in units), quota "<dd" (number of the window, events
-- in it), sliding window "<d" events of all entries, then for each entry, the oldest first, "<dI5": time of its last event in microseconds,
-- number of events. Times grow from entry to entry. Leases are a sorted set by expiry.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local pack, unpack_struct, sub = struct.pack, struct.unpack, string.sub

local GCRA, SLIDING_WINDOW, QUOTA, CONCURRENCY = 1, 2, 3, 4
local DIGEST_BYTES = 16
local WHO_HEADER_BYTES = 8
local LIMIT_BYTES = 26
local NOTHING = string.rep('\0', DIGEST_BYTES)
local ENTRY, ENTRY_BYTES, TOTAL_BYTES = '<dI5', 13, 8

-- Plans ----------------------------------------------------------------------------------------------------------------------------

local plans = {}

local function read_plan(text)
  local plan = {limits = {}, cost = 0, leases = false}
  if text ~= '' then
    plan.cost = unpack_struct('<d', text)
    for at = 9, #text, LIMIT_BYTES do
      local kind, shadow, a, b, c = unpack_struct('<BBddd', text, at)
      plan.limits[#plan.limits + 1] = {kind = kind, shadow = shadow == 1, a = a, b = b, c = c}
      plan.leases = plan.leases or kind == CONCURRENCY
    end
  end
  plans[text] = plan
  return plan
end

-- State, read once a key, written once a key at the end ------------------------------------------------------------------------------

local states = {}
local changed = {}

local readers = {
  [GCRA] = function(key)
    local value = redis.call('GET', key)
    if not value then return {used = 0} end
    local arrival, rest = unpack_struct('<dd', value)
    return {arrival = arrival, rest = rest}
  end,
  [SLIDING_WINDOW] = function(key)
    -- Of the value, the entries from `first` up to `newest` are those that still count, as they are stored; the newest is kept apart,
    -- since only it can change: `count` events, the last one at `time`.
    local value = redis.call('GET', key)
    if not value then return {value = '', first = 1, newest = 1, total = 0, time = now, count = 0} end
    local newest = #value - ENTRY_BYTES + 1
    local time, count = unpack_struct(ENTRY, value, newest)
    return {value = value, first = TOTAL_BYTES + 1, newest = newest, total = unpack_struct('<d', value), time = time, count = count, stale = true}
  end,
  [QUOTA] = function(key, limit)
    local window = floor(now / limit.b)
    local value = redis.call('GET', key)
    if value then
      local stored, current = unpack_struct('<dd', value)
      if stored >= window then return {window = stored, current = current} end
    end
    return {window = window, current = 0}
  end,
  [CONCURRENCY] = function(key)
    return {current = redis.call('ZCOUNT', key, string.format('(%.0f', now), '+inf'), leases = {}}
  end,
}

local function state_of(key, limit)
  local state = states[key]
  if not state then
    state = readers[limit.kind](key, limit)
    state.limit = limit
    state.key = key
    states[key] = state
  end
  return state
end

-- Deciding: each returns whether `cost` fits, the remaining events if the request is admitted and if not, and the microseconds until
-- there are more in either case -----------------------------------------------------------------------------------------------------

local function mark_changed(state)
  if not state.changed then
    state.changed = true
    changed[#changed + 1] = state
  end
end

local function gcra_used(state, limit)
  if state.arrival then
    local used = (state.arrival - now) * limit.c + state.rest
    state.used = min(max(used, 0), limit.b)
    state.arrival = nil
    if used > limit.b then
      -- More than full: stored under another rate, or by a clock that was ahead. Written back as full, or it would stay so for as long.
      mark_changed(state)
    end
  end
  return state.used
end

-- Microseconds until one event more than now would fit.
local function gcra_outlook(limit, used)
  local remaining = floor((limit.b - used) / limit.a)
  if used == 0 then return remaining, 0 end
  return remaining, ceil((used + (remaining + 1) * limit.a - limit.b) / limit.c)
end

-- Entries of the future become one of this moment; it is written back, or they would stay where they are for as long.
local function pull_back(state)
  local first, newest, count = state.first, state.newest, state.count
  while newest > first do
    local time, events = unpack_struct(ENTRY, state.value, newest - ENTRY_BYTES)
    if time < now then break end
    newest = newest - ENTRY_BYTES
    count = count + events
  end
  state.newest, state.count, state.time = newest, count, now
  mark_changed(state)
end

-- Drops the entries whose last event is a window old.
local function age(state, limit)
  state.stale = false
  if state.time > now then pull_back(state) end
  local horizon = now - limit.b
  if state.time <= horizon then
    state.first, state.newest, state.total, state.count = 1, 1, 0, 0
    return
  end
  local first, newest, total = state.first, state.newest, state.total
  while first < newest do
    local time, count = unpack_struct(ENTRY, state.value, first)
    if time > horizon then break end
    first = first + ENTRY_BYTES
    total = total - count
  end
  state.first, state.total = first, total
end

-- Microseconds until `events` more fit, if nothing else comes.
local function sliding_wait(state, limit, events)
  local excess = state.total + events - limit.a
  if excess <= 0 then return 0 end
  local at, newest = state.first, state.newest
  while at < newest do
    local time, count = unpack_struct(ENTRY, state.value, at)
    excess = excess - count
    if excess <= 0 then return time + limit.b - now end
    at = at + ENTRY_BYTES
  end
  return state.time + limit.b - now
end

local deciders = {
  [GCRA] = function(state, limit, cost)
    local used = gcra_used(state, limit)
    local after = used + cost * limit.a
    if cost > 0 and after > limit.b then
      local remaining = floor((limit.b - used) / limit.a)
      return false, remaining, ceil((after - limit.b) / limit.c)
    end
    return true
  end,
  [SLIDING_WINDOW] = function(state, limit, cost)
    if state.stale then age(state, limit) end
    if cost > 0 and state.total + cost > limit.a then
      return false, max(0, limit.a - state.total), sliding_wait(state, limit, cost)
    end
    return true
  end,
  [QUOTA] = function(state, limit, cost)
    if cost > 0 and state.current + cost > limit.a then
      return false, max(0, limit.a - state.current), (state.window + 1) * limit.b - now
    end
    return true
  end,
  [CONCURRENCY] = function(state, limit, cost)
    if cost > 0 and state.current >= limit.a then
      return false, 0, 1000000
    end
    return true
  end,
}

local takers = {
  [GCRA] = function(state, limit, cost) state.used = state.used + cost * limit.a end,
  [SLIDING_WINDOW] = function(state, limit, cost)
    if state.count > 0 and state.time ~= now and state.count + cost > limit.c then
      state.value = sub(state.value, state.first, state.newest - 1) .. pack(ENTRY, state.time, state.count)
      state.first, state.newest, state.count = 1, #state.value + 1, 0
    end
    state.count, state.time, state.total = state.count + cost, now, state.total + cost
  end,
  [QUOTA] = function(state, limit, cost) state.current = state.current + cost end,
  [CONCURRENCY] = function(state, limit, cost, lease)
    state.current = state.current + 1
    local leases = state.leases
    leases[#leases + 1] = string.format('%.0f', now + limit.b)
    leases[#leases + 1] = lease
  end,
}

-- What is left after the decision: remaining events and the microseconds until there are more.
local outlooks = {
  [GCRA] = function(state, limit) return gcra_outlook(limit, gcra_used(state, limit)) end,
  [SLIDING_WINDOW] = function(state, limit)
    local remaining = max(0, limit.a - state.total)
    if state.total == 0 then return remaining, 0 end
    return remaining, sliding_wait(state, limit, remaining + 1)
  end,
  [QUOTA] = function(state, limit)
    if state.current == 0 then return limit.a, 0 end
    return max(0, limit.a - state.current), (state.window + 1) * limit.b - now
  end,
  [CONCURRENCY] = function(state, limit) return max(0, limit.a - state.current), 0 end,
}

local function milliseconds(us) return string.format('%.0f', max(1, ceil(us / 1000))) end

local writers = {
  [GCRA] = function(state, limit)
    local whole = floor(state.used / limit.c)
    redis.call('SET', state.key, pack('<dd', now + whole, state.used - whole * limit.c), 'PX', milliseconds(state.used / limit.c))
  end,
  [SLIDING_WINDOW] = function(state, limit)
    local older = sub(state.value, state.first, state.newest - 1)
    local value = pack('<d', state.total) .. older .. pack(ENTRY, state.time, state.count)
    redis.call('SET', state.key, value, 'PX', milliseconds(state.time + limit.b - now))
  end,
  [QUOTA] = function(state, limit)
    local left = (state.window + 1) * limit.b - now
    redis.call('SET', state.key, pack('<dd', state.window, state.current), 'PX', milliseconds(left))
  end,
  [CONCURRENCY] = function(state, limit)
    redis.call('ZADD', state.key, unpack(state.leases))
    redis.call('ZREMRANGEBYSCORE', state.key, '-inf', string.format('%.0f', now))
    redis.call('PEXPIRE', state.key, milliseconds(limit.b))
  end,
}

local function take(state, limit, cost, lease)
  takers[limit.kind](state, limit, cost, lease)
  mark_changed(state)
end

-- Revocation: one look-up for the whole call, and none while nothing is revoked ------------------------------------------------------

-- Whether an entry for this identity concerns this token: its issuer and subject, and how old it is.
local function concerns(who, identity)
  local subject = sub(who, WHO_HEADER_BYTES + DIGEST_BYTES + 1, WHO_HEADER_BYTES + 2 * DIGEST_BYTES)
  local issuer = sub(who, WHO_HEADER_BYTES + 4 * DIGEST_BYTES + 1, WHO_HEADER_BYTES + 5 * DIGEST_BYTES)
  local entries = redis.call('HMGET', KEYS[2], identity .. NOTHING .. NOTHING, identity .. issuer .. NOTHING,
    identity .. NOTHING .. subject, identity .. issuer .. subject)
  local issued_at = unpack_struct('<d', who)
  for i = 1, 4 do
    if entries[i] then
      local entry = cjson.decode(entries[i])
      local before = entry.issued_before
      if not entry.removed and entry.expires_at_us > now and (before == cjson.null or before == nil or issued_at <= before) then return true end
    end
  end
  return false
end

-- Whether there is any entry that has not expired; nil in another history.
local function anything_revoked(history)
  if history == '' then return redis.call('EXISTS', KEYS[1]) == 1 end
  local latest = redis.call('ZSCORE', KEYS[1], history)
  if latest then return tonumber(latest) > now end
end

-- Codes of the revoked requests, by their number in the call.
local function find_revoked(requests)
  local revoked = {}
  local identities, owners, kinds = {}, {}, {}
  for number = 1, #requests do
    local who = requests[number].who
    if who ~= '' then
      for kind = 1, 5 do
        local first = WHO_HEADER_BYTES + (kind - 1) * DIGEST_BYTES + 1
        local identity = sub(who, first, first + DIGEST_BYTES - 1)
        if identity ~= NOTHING then
          local at = #identities + 1
          identities[at], owners[at], kinds[at] = identity, number, kind
        end
      end
    end
  end
  if #identities == 0 then return revoked end
  local expiries = redis.call('ZMSCORE', KEYS[1], unpack(identities))
  for at = 1, #identities do
    local number = owners[at]
    if expiries[at] and tonumber(expiries[at]) > now and not revoked[number] and concerns(requests[number].who, identities[at]) then
      revoked[number] = kinds[at]
    end
  end
  return revoked
end

-- The call ---------------------------------------------------------------------------------------------------------------------------

local anything = anything_revoked(ARGV[1])
if anything == nil then return redis.error_reply('EMPTIED this server does not know what was revoked') end

local requests = {}
local key_at, argument_at = 3, 2
while argument_at <= #ARGV do
  local text = ARGV[argument_at]
  local plan = plans[text] or read_plan(text)
  requests[#requests + 1] = {plan = plan, who = ARGV[argument_at + 1], lease = plan.leases and ARGV[argument_at + 2], first_key = key_at}
  key_at = key_at + #plan.limits
  argument_at = argument_at + (plan.leases and 3 or 2)
end
if key_at ~= #KEYS + 1 then return redis.error_reply('ERR admit: keys and plans do not fit together') end

local revoked = anything and find_revoked(requests) or {}
local reply, size = {}, 0

local function decide(request)
  local plan, first_key = request.plan, request.first_key
  local limits, cost = plan.limits, plan.cost
  local verdict_at, violations = size + 1, {}
  local refused = false
  for i = 1, #limits do
    local limit = limits[i]
    local state = state_of(KEYS[first_key + i - 1], limit)
    local fits, remaining, wait = deciders[limit.kind](state, limit, cost)
    if not fits then
      violations[i] = {remaining, wait}
      refused = refused or not limit.shadow
    end
  end
  reply[verdict_at] = refused and -1 or 0
  size = verdict_at
  for i = 1, #limits do
    local limit = limits[i]
    local state = states[KEYS[first_key + i - 1]]
    local violation = violations[i]
    if violation then
      reply[size + 1], reply[size + 2] = -1 - violation[1], violation[2]
    else
      if cost > 0 and (not refused or (limit.shadow and limit.kind ~= CONCURRENCY)) then take(state, limit, cost, request.lease) end
      reply[size + 1], reply[size + 2] = outlooks[limit.kind](state, limit)
    end
    size = size + 2
  end
end

for number = 1, #requests do
  if revoked[number] then
    size = size + 1
    reply[size] = revoked[number]
  else
    decide(requests[number])
  end
end

for i = 1, #changed do writers[changed[i].limit.kind](changed[i], changed[i].limit) end
reply[size + 1] = now
return reply
