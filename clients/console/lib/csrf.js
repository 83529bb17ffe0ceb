/*
 * Is a request from our own page?  Four checks, each of which is enough against another
 * site that a person also has open.  The last one is needed for whatever asks with a session,
 * also if it changes nothing: browsers send cookies to all ports of a host, so a page of
 * another port has a person's cookie once it is looked at.
 *
 *	Host			is a name of ours, so a name of others that leads here (DNS
 *					rebinding) gets nothing
 *	Sec-Fetch-Site	browsers say that a request to /api/ is from the same origin.  Other
 *					ports of the same host are not, though cookies do not tell them apart
 *	Origin			likewise, and must be there if the request changes something
 *	the token		of the session, which only our own page has been given, once, and which it
 *					keeps where no other port can read it
 */
'use strict';

const { timingSafeEqual } = require('node:crypto');
const { Refusal } = require('./errors');

/* The origins that browsers may see, given the port that is listened on. */
function originsOf({ origin }, port) {
	return origin ? [origin] : [`http://127.0.0.1:${port}`, `http://localhost:${port}`, `http://[::1]:${port}`];
}

function checkHost(request, origins) {
	if (!origins.some((origin) => new URL(origin).host === request.headers.host?.toLowerCase())) {
		throw new Refusal(421, 'host', `This console is at ${origins[0]}/. Behind a proxy, --origin says where.`);
	}
}

function checkOrigin(request, origins) {
	const { origin, 'sec-fetch-site': site } = request.headers;

	if ((site !== undefined && site !== 'same-origin' && site !== 'none') ||
		(origin === undefined ? request.method === 'POST' : !origins.includes(origin))) {
		throw new Refusal(403, 'origin', 'The request is not from the console.');
	}
}

function checkToken(request, session) {
	const given = Buffer.from(request.headers['x-csrf-token'] ?? '');
	const token = Buffer.from(session.token);

	if (given.length !== token.length || !timingSafeEqual(given, token)) {
		throw new Refusal(403, 'token', 'The request is not from the console.');
	}
}

module.exports = { originsOf, checkHost, checkOrigin, checkToken };
