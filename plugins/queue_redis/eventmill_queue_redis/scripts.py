"""Scripts: operations that must be atomic on the server.

At `maxmemory`, Redis rejects commands that may allocate memory, and transactions with such a command, but not inside a
script that has written something before. `XDEL` of an id that cannot exist is such a write.
"""

# KEYS: stream. ARGV: group. Creates stream and group, even at maxmemory: reading is what frees memory.
CREATE = """
redis.call('XDEL', KEYS[1], '0-1')
local created = redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
if created.err and not string.find(created.err, 'BUSYGROUP') then return created end
"""

# KEYS: stream. ARGV: bodies. Adds them, even at maxmemory: a dead letter replaces a message that is acked next.
ADD = """
redis.call('XDEL', KEYS[1], '0-1')
for i = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'b', ARGV[i]) end
"""

# KEYS: stream, delays. ARGV: group, consumer, lease in ms, how many, cursor.
# Takes over entries that were not extended for a lease. Returns the next cursor, and (id, attempts, fields) of each.
# An entry that was released with a long delay stays hidden for the rest of it.
CLAIM = """
local found = redis.call('XAUTOCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[5], 'COUNT', ARGV[4])
local lease = tonumber(ARGV[3])
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
    local left = tonumber(redis.call('ZSCORE', KEYS[2], id) or 0)
    if left > lease then redis.call('ZADD', KEYS[2], left - lease, id)
    elseif left > 0 then redis.call('ZREM', KEYS[2], id) end
    if left > 0 then
      local idle = math.max(0, lease - left)
      redis.call('XCLAIM', KEYS[1], ARGV[1], 'released', 0, id, 'IDLE', idle, 'RETRYCOUNT', attempts - 1, 'JUSTID')
    else
      taken[#taken + 1] = {id, attempts, entry[2]}
    end
  end
end
if has_gone then -- Redis 6.2 keeps a deleted entry among the pending ones
  for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[2])) do
    if #redis.call('XRANGE', KEYS[1], pending[1], pending[1]) == 0 then
      redis.call('XACK', KEYS[1], ARGV[1], pending[1])
    end
  end
end
return {found[1], taken}
"""

# KEYS: stream, delays. ARGV: group, consumer, new owner, idle in ms, further delay in ms or 0; id and attempts of each.
# Changes the lease of entries that this consumer still holds from that attempt; returns the ids of the others.
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

# KEYS: stream, delays. ARGV: group, consumer; id and attempts of each. Removes entries that this consumer still holds
# from that attempt, since ids may repeat after a flush. Ack and delete are one step, so that no entry stays forever.
ACK = """
local held = {}
for i = 3, #ARGV, 2 do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == ARGV[2] and pending[4] == tonumber(ARGV[i + 1]) then held[#held + 1] = ARGV[i] end
end
for i = 1, #held, 1000 do -- within the limit of unpack
  local last = math.min(i + 999, #held)
  redis.call('XACK', KEYS[1], ARGV[1], unpack(held, i, last))
  redis.call('XDEL', KEYS[1], unpack(held, i, last))
  redis.call('ZREM', KEYS[2], unpack(held, i, last))
end
"""

# KEYS: stream. ARGV: group. Restarts leases that begin in the future because the server's clock was set back: they
# show no idle time. For leases that began just now it makes no difference.
BEGIN = """
local from = '-'
while from do
  local page = redis.call('XPENDING', KEYS[1], ARGV[1], from, '+', 1000)
  for _, pending in ipairs(page) do
    if pending[3] == 0 then
      redis.call('XCLAIM', KEYS[1], ARGV[1], pending[2], 0, pending[1], 'IDLE', 0, 'JUSTID')
    end
  end
  from = page[1000] and '(' .. page[1000][1]
end
"""

# KEYS: stream. ARGV: group, idle in ms, a consumer to remove at once. Removes consumers that hold nothing: removing
# one that holds messages would lose them.
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
