-- Takes a key away from one holder, and hands it over to the first waiter.
-- KEYS  lock, queue, heartbeats
-- ARGV  'token' or 'owner', and its text
-- Answers 1 if the key was held by that holder, else 0.

local K, Q, W = KEYS[1], KEYS[2], KEYS[3]
local value = redis.call('GET', K)
if not value then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local queue = redis.call('EXISTS', Q) == 1

-- @queue

local owner, token = parse(value)
local named
if ARGV[1] == 'token' then
  named = token == ARGV[2]
else
  -- The owner of a foreign value is the whole value.
  named = (owner or value) == ARGV[2]
end
if not named then return 0 end
if queue and owner then drop({owner}) end
if not (queue and hand_over(nil)) then redis.call('DEL', K) end
return 1
