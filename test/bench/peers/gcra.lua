-- The same limit with as few commands as it takes: only the time at which the
-- bucket will be full (GCRA), in a string that expires at that time.
-- KEYS[1]: key; ARGV: capacity, refill (tokens per second), cost.
-- Returns 1 or 0, and the whole tokens left.
local refill = tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1e6 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + ARGV[3] / refill * 1e6
local left = ARGV[1] - (full_at - now) / 1e6 * refill

if left < 0 then
	return {0, math.floor(left + ARGV[3])}
end
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1e3))
return {1, math.floor(left)}
