/* What the package gives: docs/clients.md says how to use it. */
'use strict';

const { RateLimiter, per } = require('./lib/limiter');
const { RateLimitUnavailableError } = require('./lib/away');
const { clientKey } = require('./lib/client_key');
const { rateLimitFields } = require('./lib/fields');
const { httpLimit, expressLimit, koaLimit, fastifyLimit } = require('./lib/http');

module.exports = {
	RateLimiter,
	RateLimitUnavailableError,
	per,
	clientKey,
	rateLimitFields,
	httpLimit,
	expressLimit,
	koaLimit,
	fastifyLimit,
};
