-- What stands before every script. KEEP_MS, LEASE_MS and CHANNEL are set in a line before this one.
--
-- KEYS[1] is the head of a batch key; everything else of that key has its name behind it, in the same hash slot:
--   HEAD               hash: open (the epoch of the open window), come and until (what a full window left of an announcement)
--   HEAD:w:EPOCH       a window that is not claimed yet, packed
--   HEAD:p:EPOCH       hash: the lessons of its calls that are not the leader's own, by ticket
--   HEAD:b:EPOCH       hash: a batch under way: its leader, and of each call of others a letter and its owner
--                      (r: riding, s: settled, l: left); it lives by its lease
--   HEAD:s:EPOCH:TICKET  an outcome
-- Times are seconds of this server's clock. Every script answers with its own `now` first: the model is tested with it.

local HEAD = KEYS[1]
local GONE_MS = 120000 -- longer than any window and its KEEP_MS: only what is forgotten altogether goes by this

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function text(number)
  return string.format('%.17g', number)
end

local function answer(...)
  return {text(now), ...}
end

local function tell(replica, ...)
  -- pcall: a user who may not publish here must not find the script half done; nobody relies on a message
  redis.pcall('PUBLISH', CHANNEL .. replica, table.concat({...}, ' '))
end

local function key(kind, epoch)
  return HEAD .. ':' .. kind .. ':' .. epoch
end

local function drop(epoch)
  redis.call('DEL', key('w', epoch), key('p', epoch))
end

local function unhead(epoch)
  if redis.call('HGET', HEAD, 'open') == epoch then
    redis.call('HDEL', HEAD, 'open')
  end
end

-- what closed a window whose time has come: where that was before its bound, nobody had come for a while
local function by_time(window)
  return window.closes_at < window.bound and 'idle' or 'time'
end

local function save(epoch, window)
  redis.call('SET', key('w', epoch), cmsgpack.pack(window), 'PX', GONE_MS)
end

-- a window that waits for its claim; nil where there is none, or its leader has let it wait too long
local function load(epoch)
  local packed = redis.call('GET', key('w', epoch))
  if not packed then
    return nil
  end
  local window = cmsgpack.unpack(packed)
  if now >= window.bound + KEEP_MS / 1000 then
    unhead(epoch)
    drop(epoch)
    return nil
  end
  return window
end

local function place(window, ticket)
  for i, entry in ipairs(window.entries) do
    if entry.id == ticket then
      return i
    end
  end
  return nil
end

-- the letter and the owner of a call of a batch; nil where it is in none
local function rider(epoch, ticket)
  local known = redis.call('HGET', key('b', epoch), ticket)
  if not known then
    return nil
  end
  return string.sub(known, 1, 1), string.sub(known, 2)
end
