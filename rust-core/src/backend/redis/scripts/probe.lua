-- Runs the commands that a lock and a wait for it need, on keys of its own, and leaves nothing behind. An error shows what keeps a client from
-- a lock.
-- KEYS  a lock, the last token of its slot, its queue, its heartbeats
-- ARGV  the session's channel, the largest token
-- Answers 1, or what is wrong, in words for people.

local K, T, Q, W = unpack(KEYS)

-- The server's own error answer. It is kept here, because some versions turn a raised error into text.
local failed

-- Runs a command. Before version 7.2 the server does not say which command is forbidden.
local function try(command, ...)
  local answer = redis.pcall(command, ...)
  local fault = type(answer) == 'table' and answer.err
  if not fault then return answer end
  if string.find(fault, "can't run this command") or string.find(fault, 'no permissions to run') then
    error({reason = 'its user may not run ' .. command .. ', which a lock needs'})
  end
  failed = answer
  error(fault)
end

local function probe()
  local time = try('TIME')
  -- This checks for the right to write and for memory, and writes nothing: NX keeps a key that exists, and XX makes no new one. It comes first,
  -- because a server that is short of memory checks only the first write of a script.
  local counted = try('EXISTS', T) == 1
  try('SET', T, '0', 'PX', '86400000', counted and 'NX' or 'XX')
  -- The commands that remove come before those that make something: otherwise something might stay behind.
  try('DEL', K, W)
  try('HDEL', W, 'probe')
  try('SET', K, 'probe', 'PX', '1000', 'NX')
  try('MGET', K, T)
  try('GET', K)
  try('PTTL', K)
  try('ZADD', Q, 'XX', '0', 'probe')
  try('ZRANGE', Q, '0', '0')
  try('ZRANK', Q, 'probe')
  try('PEXPIRE', Q, '1000')
  try('ZREM', Q, 'probe')
  try('HSET', W, 'probe', '0')
  try('HGET', W, 'probe')
  try('HMGET', W, 'probe')
  try('HDEL', W, 'probe')
  try('DEL', K)
  -- Only the prober's own session listens there, and ignores a message that names no owner.
  try('PUBLISH', ARGV[1], 'probe')
  if time[1] * 1000000 + time[2] > tonumber(ARGV[2]) and not counted then
    error({reason = "the server's clock is past the year 2112, and without it no fencing token is sure to rise"})
  end
end

local well, fault = pcall(probe)
if well then return 1 end
redis.pcall('DEL', K, W)
return failed or type(fault) == 'table' and fault.reason or fault
