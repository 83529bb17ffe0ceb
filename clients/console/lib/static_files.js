/* The files of public/, read once.  Nothing else of the disk can be asked for. */
'use strict';

const { createHash } = require('node:crypto');
const { readdirSync, readFileSync } = require('node:fs');
const { extname, join } = require('node:path');

const TYPES = {
	'.html': 'text/html; charset=utf-8',
	'.css': 'text/css; charset=utf-8',
	'.js': 'text/javascript; charset=utf-8',
	'.svg': 'image/svg+xml',
};

/* A map from paths of URLs to { body, type, tag }. */
function staticFiles(folder, prefix = '/') {
	const files = new Map();

	for (const entry of readdirSync(folder, { withFileTypes: true })) {
		if (entry.isDirectory()) {
			for (const [path, file] of staticFiles(join(folder, entry.name), `${prefix}${entry.name}/`)) files.set(path, file);
		} else {
			const body = readFileSync(join(folder, entry.name));

			files.set(entry.name === 'index.html' ? prefix : prefix + entry.name, {
				body,
				type: TYPES[extname(entry.name)],
				tag: `"${createHash('sha256').update(body).digest('base64url').slice(0, 22)}"`,
			});
		}
	}
	return files;
}

module.exports = { staticFiles };
