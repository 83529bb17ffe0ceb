/* The same as index.js, for import. */
import ratelimit from './index.js';

export const {
	RateLimiter,
	RateLimitUnavailableError,
	per,
	clientKey,
	rateLimitFields,
	httpLimit,
	expressLimit,
	koaLimit,
	fastifyLimit,
} = ratelimit;
