-- Renew a batch's lease, and tell who left it. ARGV: epoch, leader
local batch = key('b', ARGV[1])
local riders = redis.call('HGETALL', batch)
local left, leads = {}, false
for i = 1, #riders, 2 do
  if riders[i] == 'leader' then
    leads = riders[i + 1] == ARGV[2]
  elseif string.sub(riders[i + 1], 1, 1) == 'l' then
    table.insert(left, riders[i])
  end
end
if not leads then
  return answer('void')
end
redis.call('PEXPIRE', batch, LEASE_MS)
return answer('beaten', unpack(left))
