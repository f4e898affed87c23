-- Take a call out of its window; where it rides already, mark it as left if asked to. ARGV: epoch, ticket, leave (0/1)
local epoch, ticket = ARGV[1], ARGV[2]
local window = load(epoch)
local at = window and place(window, ticket)
if at then
  table.remove(window.entries, at)
  if #window.entries == 0 then
    unhead(epoch)
    drop(epoch)
  else
    redis.call('HDEL', key('p', epoch), ticket)
    save(epoch, window)
  end
  return answer('standing', 'out')
end

local letter, owner = rider(epoch, ticket)
if not letter then
  return answer('standing', 'unknown')
end
if letter == 's' then
  return answer('standing', 'settled')
end
if letter == 'r' and ARGV[3] == '1' then
  redis.call('HSET', key('b', epoch), ticket, 'l' .. owner)
  tell(redis.call('HGET', key('b', epoch), 'leader'), 'thinned', epoch)
end
return answer('standing', 'riding')
