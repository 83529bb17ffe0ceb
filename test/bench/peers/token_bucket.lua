-- The token bucket as it is usually written for Redis: a hash per key.
-- KEYS[1]: key; ARGV: capacity, refill (tokens per second), cost.
-- Returns 1 or 0, and the whole tokens left.
local capacity = tonumber(ARGV[1])
local refill = tonumber(ARGV[2])
local cost = tonumber(ARGV[3])

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = capacity
if bucket[1] then
	tokens = math.min(capacity, tonumber(bucket[1]) + refill * (now - tonumber(bucket[2])))
end

local allowed = 0
if tokens >= cost then
	allowed = 1
	tokens = tokens - cost
	redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
	redis.call('EXPIRE', KEYS[1], math.ceil((capacity - tokens) / refill) + 1)
end
return {allowed, math.floor(tokens)}
