-- Gives back what requests have taken that another shard refuses afterwards (SPEC L12).
--
-- KEYS   one a limit that has counted
-- ARGV   for each key, struct "<Bddddd": kind, given, b, c, decided, level
--          kind, b, c  as in admit.lua; leases (kind 4) are given back by leases.lua
--          given       what was counted: units of a GCRA, else events
--          decided     when, by this server's clock, microseconds
--          level       GCRA: units that the bucket held when it had been counted
-- Reply  the number of limits that have been given something back
--
-- Never gives back what has run out in the meantime by itself: the limit would then admit more than it allows. A GCRA drains in the order
-- in which events came, so what was in the bucket before has gone first. Windows get back only what they still count: a sliding window from
-- the entry that holds the events of that moment; it is joined with its neighbours where they have become small, so that there are never
-- many (see admit.lua).

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local floor, ceil, min, max = math.floor, math.ceil, math.min, math.max
local pack, unpack_struct = struct.pack, struct.unpack
local GCRA, SLIDING_WINDOW, QUOTA = 1, 2, 3
local ENTRY, ENTRY_BYTES, TOTAL_BYTES = '<dI5', 13, 8

-- Makes one entry of two neighbours where it may hold the events of both.
local function join(entries, earlier, most)
  local one, other = entries[earlier], entries[earlier + 1]
  if one and other and one.count + other.count <= most then
    other.count = one.count + other.count
    table.remove(entries, earlier)
  end
end

local givers = {
  [GCRA] = function(key, value, charge)
    local arrival, rest = unpack_struct('<dd', value)
    local used = (arrival - now) * charge.c + rest
    local back = min(charge.given, max(0, charge.level - max(0, now - charge.decided) * charge.c), used)
    if back <= 0 then return 0 end
    used = used - back
    local whole = floor(used / charge.c)
    local milliseconds = max(1, ceil(used / charge.c / 1000))
    redis.call('SET', key, pack('<dd', now + whole, used - whole * charge.c), 'PX', string.format('%.0f', milliseconds))
    return 1
  end,
  [SLIDING_WINDOW] = function(key, value, charge)
    if charge.decided + charge.b <= now then return 0 end
    local entries, total, found = {}, unpack_struct('<d', value), nil
    for at = TOTAL_BYTES + 1, #value, ENTRY_BYTES do
      local time, count = unpack_struct(ENTRY, value, at)
      entries[#entries + 1] = {time = time, count = count}
      if not found and time >= charge.decided then found = #entries end
    end
    if not found then return 0 end
    local back = min(charge.given, entries[found].count)
    entries[found].count = entries[found].count - back
    if entries[found].count == 0 then table.remove(entries, found) end
    join(entries, found, charge.c)
    join(entries, found - 1, charge.c)
    if #entries == 0 then
      redis.call('DEL', key)
      return 1
    end
    local parts = {pack('<d', total - back)}
    for i = 1, #entries do parts[i + 1] = pack(ENTRY, entries[i].time, entries[i].count) end
    redis.call('SET', key, table.concat(parts), 'KEEPTTL')
    return 1
  end,
  [QUOTA] = function(key, value, charge)
    local window, current = unpack_struct('<dd', value)
    if window ~= floor(charge.decided / charge.b) then return 0 end
    redis.call('SET', key, pack('<dd', window, max(0, current - charge.given)), 'KEEPTTL')
    return 1
  end,
}

local given_back = 0
for i = 1, #KEYS do
  local kind, given, b, c, decided, level = unpack_struct('<Bddddd', ARGV[i])
  local value = redis.call('GET', KEYS[i])
  if value then
    given_back = given_back + givers[kind](KEYS[i], value, {given = given, b = b, c = c, decided = decided, level = level})
  end
end
return given_back
