/*
 * Paths of requests, and patterns for them.
 *
 * A path is compared after what is encoded is decoded, slashes in a row are one, and "."
 * and ".." are resolved: a client that writes /login in another way means the same page of most
 * servers, and must not escape its limit.
 */
'use strict';

/* Bytes in the header of a request come as characters of Latin-1. */
const utf8 = (latin1) => Buffer.from(latin1, 'latin1').toString('utf8');

function decodedPath(uri) {
	const path = uri.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i, '').replace(/[?#][^]*$/, '');

	return utf8(path.replace(/%([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(parseInt(hex, 16))));
}

/* Without double slashes, and without "." and ".." unless these are kept. */
function resolved(path, { dots = true } = {}) {
	const segments = [];
	let open = true;		// does the path end with a slash?

	for (const segment of path.split('/')) {
		open = segment === '' || (dots && (segment === '.' || segment === '..'));
		if (dots && segment === '..') segments.pop();
		else if (!open) segments.push(segment);
	}
	return `/${segments.join('/')}${open && segments.length > 0 ? '/' : ''}`;
}

/* The path of a request's URI, as it is compared. */
const normalPath = (uri) => resolved(decodedPath(uri));

/*
 * What servers may take the path for: the normal one first; with "." and ".." as they are; and
 * without what is behind a ";" in a segment.  Of nearly all requests these are the same.
 */
function readingsOf(uri) {
	const path = decodedPath(uri);

	return [...new Set([resolved(path), resolved(path, { dots: false }), resolved(path.replace(/;[^/]*/g, ''))])];
}

/*
 * A pattern as a function of a path.  "*" is any segment, and "**" at the end is whatever
 * follows, also nothing: "/api/**" is "/api", "/api/" and all below.
 */
function pathMatcher(pattern) {
	const wanted = pattern.split('/').slice(1);
	const rest = wanted.at(-1) === '**';

	if (rest) wanted.pop();
	return (path) => {
		const segments = path.split('/').slice(1);

		if (rest ? segments.length < wanted.length : segments.length !== wanted.length) return false;
		return wanted.every((segment, i) => (segment === '*' ? segments[i] !== '' : segment === segments[i]));
	};
}

module.exports = { normalPath, pathMatcher, readingsOf, utf8 };
