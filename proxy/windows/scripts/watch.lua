-- A call's outcome, or where the call is. ARGV: epoch, ticket
local epoch, ticket = ARGV[1], ARGV[2]
local payload = redis.call('GET', key('s', epoch) .. ':' .. ticket)
if payload then
  return answer('slot', payload)
end
local window = load(epoch)
if window and place(window, ticket) then
  return answer('standing', 'waiting')
end
local letter = rider(epoch, ticket)
if not letter then
  return answer('standing', 'unknown')
end
return answer('standing', letter == 's' and 'settled' or 'riding')
