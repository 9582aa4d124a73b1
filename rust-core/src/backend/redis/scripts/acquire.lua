-- Asks for a key.
-- KEYS  lock, waiting order, heartbeats, last token
-- ARGV  owner, note, ttl ms, not-after (server µs), fair (1/0), enqueue (1/0), floor
-- Answers what `ask` answers, or {-1, now} when it came too late.

local K, Q, W, T = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
if now > tonumber(ARGV[4]) then return {-1, now} end

local owner, note, ttl, floor = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[7])
local stored = redis.call('MGET', K, T)
local value, queue = stored[1], false
if not value then
  queue = redis.call('EXISTS', Q) == 1
  if not queue then
    local token = math.max((tonumber(stored[2] or 0) or 0) + 1, floor + 1, now)
    local text = string.format('%.0f', token)
    -- MGET shows a list or a hash as missing; NX keeps it.
    if not redis.call('SET', K, owner .. '|1|' .. text .. '|' .. note, 'PX', ttl, 'NX') then
      return redis.error_reply('WRONGTYPE the lock key holds something that is not a string')
    end
    redis.call('SET', T, text, 'PX', 86400000)
    return {1, now, token}
  end
  value = redis.call('GET', K)
end

-- @queue

return ask(value, owner, note, ttl, ARGV[5] == '1', ARGV[6] == '1', floor)
