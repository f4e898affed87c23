-- Take a call into the open window, or open one. The rules are the book's (windows/book.py), step by step.
-- ARGV: ticket, owner, epoch to open, digest, deterministic (0/1), payload, valid until (or nothing), the plan as JSON
local ticket, owner, proposed, digest, deterministic, payload = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1', ARGV[6]
local valid_until = tonumber(ARGV[7])
local plan = cjson.decode(ARGV[8])

if valid_until and now > valid_until then
  return answer('turned', 'too_late')
end

local shut = {}

local function report(epoch, window, in_s)
  if window.leader == owner then
    table.insert(shut, epoch)
  else
    tell(window.leader, 'due', epoch, text(in_s))
  end
end

local function seal(epoch, window, closed_by)
  window.sealed = closed_by
  redis.call('HDEL', HEAD, 'open')
  if (closed_by == 'full' or closed_by == 'no_room') and window.arrived < window.announced then
    local longest = 0
    for _, entry in ipairs(window.entries) do
      longest = math.max(longest, entry.wait)
    end
    redis.call('HSET', HEAD, 'come', window.arrived, 'until', text(now + longest))
    redis.call('PEXPIRE', HEAD, GONE_MS)
  end
  save(epoch, window)
  report(epoch, window, 0)
end

local function hint(window)
  if plan.expect then
    window.announced = math.max(window.announced, plan.expect)
    window.arrived = window.arrived + 1
  end
end

local function early(window)
  if window.announced > 0 and window.arrived >= window.announced then
    return 'expected'
  end
  if #window.entries >= window.size then
    return 'full'
  end
  return window.closes_at <= now and by_time(window) or nil
end

local function deadline(entry)
  return entry.deadline or math.huge
end

local function stands_before(a, b)
  if a.streams ~= b.streams then
    return a.streams
  end
  if deadline(a) ~= deadline(b) then
    return deadline(a) < deadline(b)
  end
  return a.number < b.number
end

local function with(entries, entry)
  local together, placed = {}, false
  for _, other in ipairs(entries) do
    if not placed and stands_before(entry, other) then
      table.insert(together, entry)
      placed = true
    end
    table.insert(together, other)
  end
  if not placed then
    table.insert(together, entry)
  end
  return together
end

local function fits(window, entry, bound)
  local together = with(window.entries, entry)
  if #together > math.min(window.size, plan.size) then
    return false
  end
  local tokens, limit = 0, math.huge
  for _, one in ipairs(together) do
    tokens = tokens + one.tokens
    limit = math.min(limit, one.limit or math.huge)
  end
  if tokens > limit then
    return false
  end
  local closes_at, before = math.min(window.bound, bound), 0
  for _, one in ipairs(together) do
    if before > (one.added or math.huge) or closes_at + before + one.lesson > deadline(one) + 1e-6 then
      return false
    end
    before = before + one.lesson
  end
  return true
end

local epoch = redis.call('HGET', HEAD, 'open')
local window = epoch and load(epoch) or nil
if window and window.closes_at <= now then
  seal(epoch, window, by_time(window))
  window = nil
end

if window and deterministic then
  for _, entry in ipairs(window.entries) do
    if entry.digest == digest then
      hint(window)
      local closed_by = early(window)
      if closed_by then
        seal(epoch, window, closed_by)
      else
        save(epoch, window)
      end
      return answer('turned', 'identical_temperature_0', unpack(shut))
    end
  end
end

local bound = now + plan.bound
local entry = {
  id = ticket, owner = owner, digest = digest, streams = plan.streaming, deadline = plan.deadline and now + plan.deadline,
  lesson = plan.lesson, added = plan.added, tokens = plan.tokens, limit = plan.limit, wait = plan.wait,
}

if window then
  entry.number = window.number + 1
  if not fits(window, entry, bound) then
    seal(epoch, window, 'no_room')
    window = nil
  end
end

if not window then
  if plan.idle and plan.idle <= 0 and not plan.expect then
    return answer('turned', 'alone', unpack(shut))
  end
  epoch = proposed
  local rest = redis.call('HMGET', HEAD, 'come', 'until')
  local arrived = rest[1] and now < tonumber(rest[2]) and tonumber(rest[1]) or 0
  window = {leader = owner, bound = bound, closes_at = bound, size = plan.size, announced = 0, arrived = arrived, entries = {}}
  entry.number = 1
  redis.call('DEL', HEAD)
  redis.call('HSET', HEAD, 'open', epoch)
  redis.call('PEXPIRE', HEAD, GONE_MS)
end

window.size = math.min(window.size, plan.size)
window.number = entry.number
window.entries = with(window.entries, entry)
hint(window)
local was = #window.entries > 1 and window.closes_at or nil
window.bound = math.min(window.bound, bound)
local gap = (window.announced > 0 or not plan.idle) and math.huge or math.max(0, plan.idle)
window.closes_at = math.min(window.bound, now + gap)
if owner ~= window.leader then
  redis.call('HSET', key('p', epoch), ticket, payload)
  redis.call('PEXPIRE', key('p', epoch), GONE_MS)
end

local closes_in = window.closes_at - now
local closed_by = early(window)
if closed_by then
  closes_in = 0
  window.bound = now
  seal(epoch, window, closed_by)
else
  save(epoch, window)
  if window.closes_at ~= was and owner ~= window.leader then
    tell(window.leader, 'due', epoch, text(closes_in))
  end
end
return answer('seated', epoch, window.leader, text(closes_in), text(window.bound - now), unpack(shut))
