-- Forget a window or batch whose leader will not bring anything, and wake its other owners. ARGV: epoch, leader
local epoch, leader = ARGV[1], ARGV[2]
local window = load(epoch)
if window then
  if window.leader == leader then
    unhead(epoch)
    drop(epoch)
    for _, entry in ipairs(window.entries) do
      if entry.owner ~= leader then
        tell(entry.owner, 'ready', entry.id)
      end
    end
  end
  return answer('done')
end

local batch = key('b', epoch)
if redis.call('HGET', batch, 'leader') == leader then
  local riders = redis.call('HGETALL', batch)
  redis.call('DEL', batch)
  for i = 1, #riders, 2 do
    if riders[i] ~= 'leader' and string.sub(riders[i + 1], 1, 1) == 'r' then
      tell(string.sub(riders[i + 1], 2), 'ready', riders[i])
    end
  end
end
return answer('done')
