-- Notes the heartbeats of waiters, and answers when each should look again.
-- KEYS  for each waiter: lock, queue, heartbeats
-- ARGV  the waiters' owners
-- Answers for each waiter the ms until an acquire may succeed; 0 for now: the key is free, or handed to this owner, or the waiter was dropped.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local K, Q, W

-- @queue

local answer = {}
for i, owner in ipairs(ARGV) do
  K, Q, W = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local mark = redis.call('HGET', W, owner)
  answer[i] = 0
  -- The mark of a claim stays: a heartbeat does not confirm the claim.
  if mark and mark ~= CLAIM then
    redis.call('HSET', W, owner, digits(now + ALIVE_US))
    redis.call('PEXPIRE', Q, QUEUE_MS)
    redis.call('PEXPIRE', W, QUEUE_MS)
    local value = redis.pcall('GET', K)
    if type(value) == 'string' and string.sub(value, 1, #owner + 1) ~= owner .. '|' then
      answer[i] = look_again(value, redis.call('PTTL', K), owner)
    end
  end
end
return answer
