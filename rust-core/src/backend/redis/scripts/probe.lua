-- Does what a lock and a wait for it need, with keys of its own, and leaves nothing: an error says what keeps a client from a lock.
-- KEYS  a lock, the last token of its slot, its waiting order, its heartbeats
-- ARGV  the session's channel, the largest token
-- Answers 1, or what is wrong in words for people.

local K, T, Q, W = unpack(KEYS)

-- The server's own error. It is kept here: what is raised, some versions turn into text, which is no error answer any more.
local failed

-- Before version 7.2 the server does not say which command it was.
local function try(command, ...)
  local answer = redis.pcall(command, ...)
  local fault = type(answer) == 'table' and answer.err
  if not fault then return answer end
  if string.find(fault, "can't run this command") or string.find(fault, 'no permissions to run') then
    error({told = 'its user may not run ' .. command .. ', which a lock needs'})
  end
  failed = answer
  error(fault)
end

local function probe()
  local time = try('TIME')
  -- Asks for the right to write, and for memory, and writes nothing: what is there stays, and what is not there is not made. It is the first
  -- write, as a server that is short of memory looks at no other.
  local counted = try('EXISTS', T) == 1
  try('SET', T, '0', 'PX', '86400000', counted and 'NX' or 'XX')
  -- What takes things away comes before what makes them: else something might stay.
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
  -- Nobody listens there but the prober's own session, which finds no owner in it.
  try('PUBLISH', ARGV[1], 'probe')
  if time[1] * 1000000 + time[2] > tonumber(ARGV[2]) and not counted then
    error({told = "the server's clock is past the year 2112, and without it no fencing token is sure to rise"})
  end
end

local well, fault = pcall(probe)
if well then return 1 end
redis.pcall('DEL', K, W)
return failed or type(fault) == 'table' and fault.told or fault
