-- Put an outcome into its slot and wake the owner, unless it has left. ARGV: epoch, ticket, owner, payload
local epoch, ticket, owner = ARGV[1], ARGV[2], ARGV[3]
local letter, known = rider(epoch, ticket)
if letter == 'l' then
  return answer('kept', '0')
end
if letter then
  redis.call('HSET', key('b', epoch), ticket, 's' .. known)
end
-- also where the record is lost: the owner may not have noticed yet
redis.call('SET', key('s', epoch) .. ':' .. ticket, ARGV[4], 'PX', KEEP_MS)
tell(owner, 'ready', ticket)
return answer('kept', '1')
