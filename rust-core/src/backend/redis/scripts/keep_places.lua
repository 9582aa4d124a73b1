-- Says that waiters are alive, and when each should look again.
-- KEYS  for each place: lock, waiting order, heartbeats
-- ARGV  owners
-- Answers for each place the ms until an acquire may succeed; 0 for now: free, handed to this owner, or the place is gone.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local K, Q, W

-- @queue

local answer = {}
for i, owner in ipairs(ARGV) do
  K, Q, W = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local mark = redis.call('HGET', W, owner)
  answer[i] = 0
  -- A claim mark stays: the beat must not pass for the confirmation.
  if mark and mark ~= CLAIM then
    redis.call('HSET', W, owner, digits(now + PLACE_US))
    redis.call('PEXPIRE', Q, QUEUE_MS)
    redis.call('PEXPIRE', W, QUEUE_MS)
    local value = redis.pcall('GET', K)
    if type(value) == 'string' and string.sub(value, 1, #owner + 1) ~= owner .. '|' then
      answer[i] = look_again(value, redis.call('PTTL', K), owner)
    end
  end
end
return answer
