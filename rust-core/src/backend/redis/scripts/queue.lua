-- The queue of one key. It is pasted into the scripts that need it, where they have `@queue`.
-- It uses their locals K (lock), Q (queue), W (heartbeats), now (server µs).
--
-- K is owner|1|token|note. Token 0 is a claim: the key was handed over, and the waiter has yet to confirm.
-- Q has the owners of waiters, by arrival. W maps each to the server µs until which it counts as alive, or to CLAIM after a hand-over to it.

local ALIVE_US, CLAIM_MS, QUEUE_MS = 5000000, 1000, 10000
local FOREIGN_MS, FAR_MS = 75, 3600000
local CLAIM = 'claim'

local function digits(number) return string.format('%.0f', number) end

local function session_of(owner) return string.match(owner, '^[^:]*') end

-- Owner and token of a value in our format; nil for a foreign value.
local function parse(value) return string.match(value, '^(%x+:%d+)|1|(%d+)|') end

local function drop(waiters)
  if #waiters == 0 then return end
  redis.call('ZREM', Q, unpack(waiters))
  redis.call('HDEL', W, unpack(waiters))
end

-- Puts a waiter at the end of the queue, unless it is in the queue already; returns how many are ahead.
local function join_queue(owner)
  local last = redis.call('ZRANGE', Q, -1, -1, 'WITHSCORES')
  redis.call('ZADD', Q, 'NX', digits(math.max(now, (tonumber(last[2]) or 0) + 1)), owner)
  redis.call('HSET', W, owner, digits(now + ALIVE_US))
  redis.call('PEXPIRE', Q, QUEUE_MS)
  redis.call('PEXPIRE', W, QUEUE_MS)
  return redis.call('ZRANK', Q, owner)
end

-- A claim that ran out shows that the whole process is frozen, so none of its other waiters may cost a claim.
local function drop_session(session, asker)
  local waiters = redis.call('ZRANGE', Q, 0, -1)
  local frozen = {}
  for _, waiter in ipairs(waiters) do
    if waiter ~= asker and session_of(waiter) == session then frozen[#frozen + 1] = waiter end
    if #frozen == 1000 then drop(frozen) frozen = {} end
  end
  drop(frozen)
end

-- Sets the key to a claim of the first live waiter and sends a hint to its session; returns that waiter, nil if there is none.
-- The asker is certainly alive. If it is first, nothing is set and the caller grants it the key.
local function hand_over(asker)
  local last = 0
  while true do
    local heads = redis.call('ZRANGE', Q, 0, last)
    if #heads == 0 then return nil end
    local marks = redis.call('HMGET', W, unpack(heads))
    local dead, frozen = {}, nil
    for i, head in ipairs(heads) do
      if head == asker then
        drop(dead)
        return head
      end
      if marks[i] == CLAIM then
        frozen = session_of(head)
        break
      end
      if marks[i] and (tonumber(marks[i]) or 0) >= now
        and redis.call('PUBLISH', 'dlock:s:' .. session_of(head), head .. ' ' .. K) > 0 then
        drop(dead)
        redis.call('HSET', W, head, CLAIM)
        redis.call('PEXPIRE', Q, QUEUE_MS)
        redis.call('PEXPIRE', W, QUEUE_MS)
        redis.call('SET', K, head .. '|1|0|', 'PX', CLAIM_MS)
        return head
      end
      dead[#dead + 1] = head
    end
    drop(dead)
    if frozen then drop_session(frozen, asker) end
    last = 31
  end
end

-- How long a waiter may sleep without a hint. Every waiter looks again when a claim runs out, else one frozen waiter could hide behind
-- another. When a lease runs out, the waiters of the first two other sessions look again (one session may be dead), and the holder's own.
local function look_again(value, left, owner)
  local holder, token = parse(value)
  if not holder or left < 0 then
    return redis.call('ZRANGE', Q, 0, 0)[1] == owner and FOREIGN_MS or FAR_MS
  end
  if token == '0' then return left + 1 end
  local held_by = session_of(holder)
  local watchers, previous = 0, nil
  for _, waiter in ipairs(redis.call('ZRANGE', Q, 0, 2)) do
    local session = session_of(waiter)
    if waiter == owner then return math.min(left + 1, FAR_MS) end
    if session ~= held_by and session ~= previous then watchers = watchers + 1 end
    if watchers == 2 then break end
    previous = session
  end
  return FAR_MS
end
