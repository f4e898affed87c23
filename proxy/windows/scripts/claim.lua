-- Drain a window for good, as the one who opened it. ARGV: epoch, leader, what to note where it is still open
local epoch, leader = ARGV[1], ARGV[2]
local window = load(epoch)
if not window or window.leader ~= leader then
  return answer('void')
end
unhead(epoch)

local drained, told = {}, {}
local batch = key('b', epoch)
for _, entry in ipairs(window.entries) do
  table.insert(drained, entry.id)
  table.insert(drained, entry.owner)
  if entry.owner == leader then
    table.insert(drained, '')
  else
    table.insert(drained, redis.call('HGET', key('p', epoch), entry.id) or '')
    redis.call('HSET', batch, 'leader', leader, entry.id, 'r' .. entry.owner)
    if not told[entry.owner] then
      told[entry.owner] = true
      tell(entry.owner, 'claimed', epoch)
    end
  end
end
redis.call('PEXPIRE', batch, LEASE_MS)
drop(epoch)
local closed_by = window.sealed or (ARGV[3] == 'time' and by_time(window)) or ARGV[3]
return answer('drained', closed_by, unpack(drained))
