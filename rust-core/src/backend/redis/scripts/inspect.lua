-- Reads one key as it is.
-- KEYS  lock, queue
-- ARGV  how many waiters to name
-- Answers {value or nil, ms left, waiters}.

local value = redis.call('GET', KEYS[1])
return {value, redis.call('PTTL', KEYS[1]), redis.call('ZRANGE', KEYS[2], 0, ARGV[1] - 1)}
