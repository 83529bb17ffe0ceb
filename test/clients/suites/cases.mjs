/* A reporter of node's test runner: "ok", "failed" or "skipped", and the case. */
import { basename } from 'node:path';

export default async function* cases(source) {
	const seen = new Map();

	for await (const { type, data } of source) {
		if (type !== 'test:pass' && type !== 'test:fail') continue;
		if (data.details?.type === 'suite') continue;

		const name = `${basename(data.file ?? process.argv[1])}: ${data.name}`;
		const n = (seen.get(name) ?? 0) + 1;
		const how = data.skip || data.todo ? 'skipped' : type === 'test:pass' ? 'ok' : 'failed';

		seen.set(name, n);
		yield `${how}\t${name}${n > 1 ? ` (${n})` : ''}\t${String(data.details?.error?.cause?.message ?? '').split('\n')[0]}\n`;
	}
}
