-- Serves acquires and releases in their order. A release may also ask on behalf of the session's next waiter. A request that fails does not
-- fail the others.
-- KEYS  the requests' locks, the last tokens for those that ask, the queues, the heartbeats
-- ARGV  how many ask, the highest token that any of them has seen, then for each request one of
--   'a' with 'f' if fair and 'e' if it may enqueue, owner, note, ttl ms, not-after (server µs): an acquire
--   'r', owner: releases the key or withdraws the waiter, whichever the owner has
--   'n', owner, next owner, its note, its ttl ms, its not-after: the same, and asks for next
-- Answers {now or 0, then for each request one of}
--   acquire: the token if granted, -1 if it came too late, {look again ms, ahead or -1, ms left, value} if somebody else holds the key
--   release: 1 if the owner held the key, else 0; with next: {that, the answer to next}
--   {error}; a text that begins with DLOCK is shown to people as it is

-- The largest token, 2^52 - 1. Scripts count in doubles, in which sums of this size are still exact.
local MOST = 4503599627370495

local asking, floor = tonumber(ARGV[1]), ARGV[2]
local count = (#KEYS - asking) / 3
local K, Q, W, T, queue, now, now_text, clock_counts

local function read_clock()
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
  now_text = string.format('%.0f', now)
  -- A clock past the year 2112 is nonsense.
  clock_counts = now <= MOST
end
if asking > 0 then read_clock() end

-- Whether a number is less than now. Texts of equal length are compared as texts, because converting numbers is what takes a script most of
-- its time.
local function is_past(number)
  if #number == #now_text then return number < now_text end
  number = tonumber(number)
  return number and number < now
end

-- The token in a text; nil if the text is none, since a spoilt token must not be carried on.
local function token_in(text)
  if not text or #text > 16 or not string.find(text, '^[1-9]%d*$') then return nil end
  local token = tonumber(text)
  return token <= MOST and token or nil
end

local stored = redis.call('MGET', unpack(KEYS, 1, count + asking))
-- In most batches nobody waits for any of the keys. A single acquire that finds its key held need not check that.
local waiting = not (count == 1 and stored[1] and string.sub(ARGV[3], 1, 1) == 'a')
  and redis.call('EXISTS', unpack(KEYS, count + asking + 1, 2 * count + asking)) > 0
-- Keys that an earlier request of the batch has touched are read again.
local touched, last_tokens = {}, {}

local function read_lock(i)
  if touched[K] then return redis.call('GET', K), redis.call('EXISTS', Q) == 1 end
  touched[K] = true
  return stored[i], waiting and redis.call('EXISTS', Q) == 1
end

-- A last token in the past need not be checked, spoilt or not: the clock is above it.
local function draw_token()
  local last = last_tokens[T]
  local token, text = now, now_text
  if last and not is_past(last) or not is_past(floor) or not clock_counts then
    last = token_in(last)
    if not last and not clock_counts then
      error({err = "DLOCK the server's clock is past the year 2112, and without it no fencing token is sure to rise"})
    end
    token = math.max((last or 0) + 1, (token_in(floor) or 0) + 1, clock_counts and now or 1)
    if token > MOST then
      error({err = 'DLOCK no fencing token is above the last one: it was spoilt, in ' .. T .. ' or in the highest that this client has seen'})
    end
    text = string.format('%.0f', token)
  end
  redis.call('SET', T, text, 'PX', '86400000')
  last_tokens[T] = text
  return token, text
end

local slow
-- The functions for keys that are held or waited for. Most batches never need them.
local function contended()
  if slow then return slow end

-- @queue

  -- An acquire, given the key's value (false: free).
  local function acquire_contended(value, owner, note, ttl, fair, enqueue)
    if value and string.sub(value, 1, #owner + 1) == owner .. '|' then
      local _, text = parse(value)
      local token = token_in(text)
      if not token then
        token, text = draw_token()
        drop({owner})
      else
        -- This may be an old request that comes late. It must not shorten an extension, nor a grant with a longer TTL since.
        ttl = math.max(tonumber(ttl), redis.call('PTTL', K))
      end
      redis.call('SET', K, owner .. '|1|' .. text .. '|' .. note, 'PX', ttl)
      return token
    end
    if not value then
      local head = fair and queue and hand_over(owner)
      if not head or head == owner then
        if queue then drop({owner}) end
        local token, text = draw_token()
        redis.call('SET', K, owner .. '|1|' .. text .. '|' .. note, 'PX', ttl)
        return token
      end
      value = head .. '|1|0|'
    end
    local left = redis.call('PTTL', K)
    if not enqueue then
      local foreign = left < 0 or not parse(value)
      return {foreign and FOREIGN_MS or math.min(left + 1, FAR_MS), -1, left, value}
    end
    local ahead = join_queue(owner)
    return {look_again(value, left, owner), ahead, left, value}
  end

  slow = {acquire = acquire_contended, drop = drop, hand_over = hand_over}
  return slow
end

local function acquire(i, kind, owner, note, ttl, not_after)
  if is_past(not_after) then return -1 end
  local value
  value, queue = read_lock(i)
  if not value then
    if not queue then
      local token, text = draw_token()
      -- MGET shows a list or a hash as missing; NX does not overwrite it.
      if redis.call('SET', K, owner .. '|1|' .. text .. '|' .. note, 'PX', ttl, 'NX') then return token end
    end
    value = redis.call('GET', K)
  end
  return contended().acquire(value, owner, note, ttl, string.find(kind, 'f'), string.find(kind, 'e'))
end

local function release(i, owner, successor, note, ttl, not_after)
  local value
  value, queue = read_lock(i)
  -- This fails if the key is a list or a hash.
  if not value then value = redis.call('GET', K) end
  local mine = value and string.sub(value, 1, #owner + 1) == owner .. '|'
  local released = mine and 1 or 0
  if not queue and not successor then
    if mine then redis.call('DEL', K) end
    return released
  end
  if not now then read_clock() end
  local rest = contended()
  if queue then rest.drop({owner}) end
  if mine then value = false end
  if successor and not is_past(not_after) then
    return {released, rest.acquire(value, successor, note, ttl, true, true)}
  end
  if not value and not (queue and rest.hand_over(nil)) and mine then redis.call('DEL', K) end
  return successor and {released, -1} or released
end

local at, asked = 3, 0
local function serve(i)
  local kind, first = ARGV[at], at
  local asks = kind ~= 'r'
  at = at + (kind == 'r' and 2 or kind == 'n' and 6 or 5)
  K, Q, W, T = KEYS[i], KEYS[count + asking + i], KEYS[2 * count + asking + i], nil
  if asks then
    asked = asked + 1
    T = KEYS[count + asked]
    if last_tokens[T] == nil then last_tokens[T] = stored[count + asked] end
    if kind ~= 'n' then return acquire(i, kind, unpack(ARGV, first + 1, first + 4)) end
    return release(i, unpack(ARGV, first + 1, first + 5))
  end
  return release(i, ARGV[first + 1])
end

local answers = {0}
local served = 0
local function serve_rest()
  while served < count do
    served = served + 1
    answers[served + 1] = serve(served)
  end
end
while served < count do
  local well, fault = pcall(serve_rest)
  if not well then answers[served + 1] = {type(fault) == 'table' and fault.err or tostring(fault)} end
end
answers[1] = now or 0
return answers
