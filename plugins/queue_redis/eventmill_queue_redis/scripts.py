"""What must happen in one step on the server."""

# KEYS: stream, parked. ARGV: group, consumer, lease in ms, how many, cursor, now in ms.
# Takes over what has not been extended for a lease. Returns the next cursor, and (id, attempts, fields) of each;
# what was released with a long delay goes back for the time that is left.
CLAIM = """
local found = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[5], 'COUNT', ARGV[4])
local taken = {}
local has_gone = false
for i = 1, #found[2] do
  local entry = found[2][i]
  if not entry then
    has_gone = true
  else
    local id = entry[1]
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
    local attempts = pending[1] and pending[1][4] or 1
    local until_ms = tonumber(redis.call('ZSCORE', KEYS[2], id) or 0)
    local left = until_ms - tonumber(ARGV[6])
    if left > 0 then
      local idle = math.max(0, tonumber(ARGV[3]) - left)
      redis.call('XCLAIM', KEYS[1], ARGV[1], 'released', 0, id, 'IDLE', idle, 'RETRYCOUNT', attempts - 1, 'JUSTID')
    else
      if until_ms > 0 then redis.call('ZREM', KEYS[2], id) end
      taken[#taken + 1] = {id, attempts, entry[2]}
    end
  end
end
if has_gone then -- Redis 6.2 keeps an entry that somebody deleted among the pending ones
  for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[2])) do
    if #redis.call('XRANGE', KEYS[1], pending[1], pending[1]) == 0 then
      redis.call('XACK', KEYS[1], ARGV[1], pending[1])
    end
  end
end
return {found[1], taken}
"""

# KEYS: stream, parked. ARGV: group, consumer, new owner, idle in ms, parked until in ms or 0; id and attempts of each.
# Changes the lease of what this consumer still holds from that very attempt; returns the ids of all else.
HOLD = """
local lost = {}
for i = 6, #ARGV, 2 do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == ARGV[2] and pending[4] == tonumber(ARGV[i + 1]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, ARGV[i], 'IDLE', ARGV[4], 'JUSTID')
    if tonumber(ARGV[5]) > 0 then redis.call('ZADD', KEYS[2], ARGV[5], ARGV[i]) end
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
"""

# KEYS: stream. ARGV: group, idle in ms, a consumer that may go at once. Removes consumers that hold nothing:
# with one that does, its messages would be gone.
REAP = """
if redis.call('EXISTS', KEYS[1]) == 0 then return end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local fields = {}
  for i = 1, #consumer, 2 do fields[consumer[i]] = consumer[i + 1] end
  if fields.pending == 0 and (fields.name == ARGV[3] or fields.idle > tonumber(ARGV[2])) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], fields.name)
  end
end
"""
