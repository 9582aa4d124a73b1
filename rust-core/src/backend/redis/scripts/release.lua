-- Gives back whatever an owner has, the key or a place in the queue, and asks for the key on behalf of the session's next waiter.
-- KEYS  lock, waiting order, heartbeats, last token
-- ARGV  owner [, next owner, its note, its ttl ms, its not-after (server µs), its floor]
-- Answers {1 if the owner held the key else 0 [, the answer to next, as in acquire]}.

local K, Q, W, T = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local owner, successor = ARGV[1], ARGV[2]
local value = redis.call('GET', K)
local queue = redis.call('EXISTS', Q) == 1
local mine = value and string.sub(value, 1, #owner + 1) == owner .. '|'
local released = mine and 1 or 0
if not queue and not successor then
  if mine then redis.call('DEL', K) end
  return {released}
end

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- @queue

if queue then drop({owner}) end
if mine then value = false end
if successor and now <= tonumber(ARGV[5]) then
  return {released, ask(value, successor, ARGV[3], ARGV[4], true, true, tonumber(ARGV[6]))}
end
if not value and not (queue and hand_over(nil)) and mine then redis.call('DEL', K) end
if successor then return {released, {-1, now}} end
return {released}
