/*
 * Settings: what the command line and the environment say, checked.  Where the database
 * is, PGHOST, PGPORT, PGDATABASE and PGSSLMODE say; who connects to it, a person says.
 */
'use strict';

const { isIP } = require('node:net');
const { parseArgs } = require('node:util');

const HELP = `usage: ratelimit-console [OPTION]...

Serves the console of the PostgreSQL extension ratelimit. PGHOST, PGPORT, PGDATABASE and
PGSSLMODE say where the database is.

  --listen [HOST:]PORT  where to listen; default 127.0.0.1:8432
  --origin URL          what browsers see in front of a proxy, such as
                        https://console.example.com; needed if HOST is not loopback
  --hops N              proxies in front that add to X-Forwarded-For; default 0
  --timeout SECONDS     of each query; default 5
  --idle SECONDS        a session ends when nobody has used it for so long; default 1800
  --session SECONDS     a session ends after so long; default 43200
  --setup               print the SQL that makes the roles and the table of actions
  --help                print this
`;

const OPTIONS = {
	listen: { type: 'string', default: '127.0.0.1:8432' },
	origin: { type: 'string' },
	hops: { type: 'string', default: '0' },
	timeout: { type: 'string', default: '5' },
	idle: { type: 'string', default: '1800' },
	session: { type: 'string', default: '43200' },
	setup: { type: 'boolean', default: false },
	help: { type: 'boolean', default: false },
};

function numberOf(name, text, least, most) {
	const value = Number(text);

	if (!/^\d+(\.\d+)?$/.test(text) || value < least || value > most) {
		throw new Error(`--${name} must be a number from ${least} to ${most}, not "${text}"`);
	}
	return value;
}

function listenOf(text) {
	const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]:|([^:[\]]+):)?(\d+)$/.exec(text) ?? [];

	if (port === undefined || Number(port) > 65535) throw new Error(`--listen must be PORT, HOST:PORT or [IPV6]:PORT, not "${text}"`);
	return { host: bracketed ?? plain ?? '127.0.0.1', port: Number(port) };
}

function isLoopback(host) {
	return host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));
}

/* Passwords go over this: without encryption only within the machine. */
function originOf(text) {
	let url;

	try {
		url = new URL(text);
	} catch {
		throw new Error(`--origin must be a URL, not "${text}"`);
	}
	if (!['http:', 'https:'].includes(url.protocol) || url.href !== `${url.origin}/`) {
		throw new Error(`--origin must be https://HOST or https://HOST:PORT, not "${text}"`);
	}
	if (url.protocol === 'http:' && !isLoopback(url.hostname.replace(/^\[|\]$/g, ''))) {
		throw new Error('--origin must begin with https://, as passwords go over it');
	}
	return url.origin;
}

/*
 * Gives { listen: { host, port }, origin, hops, timeout, idle, session, database },
 * times in milliseconds; or { setup }, or { help }.
 */
function readSettings(args, env) {
	const { values } = parseArgs({ args, options: OPTIONS });

	if (values.help || values.setup) return values;

	const listen = listenOf(values.listen);
	const origin = values.origin === undefined ? undefined : originOf(values.origin);

	if (origin === undefined && !isLoopback(listen.host)) {
		throw new Error(`--listen ${values.listen} is not loopback, so --origin must say what browsers see, such as https://console.example.com`);
	}
	if (!env.PGDATABASE) throw new Error('PGDATABASE must name the database that has the extension');
	return {
		listen,
		origin,
		hops: numberOf('hops', values.hops, 0, 20),
		timeout: 1000 * numberOf('timeout', values.timeout, 0.1, 600),
		idle: 1000 * numberOf('idle', values.idle, 1, 86400),
		session: 1000 * numberOf('session', values.session, 1, 604800),
		database: env.PGDATABASE,
	};
}

module.exports = { readSettings, HELP };
