-- Extends leases. It never sets a missing key, and shortens a lease only where `exact` is 1.
-- KEYS  locks
-- ARGV  not-after (server µs, 0 for never), then for each lock: owner, ttl ms, exact (1/0)
-- Answers {0, for each lock: the ms that it has now, or -1 if the owner no longer holds it}, or {-1, now} if it came too late.

if ARGV[1] ~= '0' then
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  if now > tonumber(ARGV[1]) then return {-1, now} end
end

local answer = {0}
for i, key in ipairs(KEYS) do
  local owner, ttl, exact = ARGV[3 * i - 1], tonumber(ARGV[3 * i]), ARGV[3 * i + 1] == '1'
  -- A key of another type is not held by the owner, and must not fail the others.
  local value = redis.pcall('GET', key)
  local lives = -1
  if type(value) == 'string' and string.sub(value, 1, #owner + 1) == owner .. '|' then
    lives = exact and 0 or redis.call('PTTL', key)
    if exact or ttl > lives then
      redis.call('PEXPIRE', key, ttl)
      lives = ttl
    end
  end
  answer[i + 1] = lives
end
return answer
