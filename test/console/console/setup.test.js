/*
 * What --setup makes: who may look and who may act, and a table of actions that nobody who
 * may act can get around, change or forge.
 */
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { PASSWORD, connect, newDatabase, psql, setUp } = require('./support');

const database = newDatabase('setup');

async function as(t, user) {
	const client = await connect({ database: database.name, user, password: PASSWORD });

	t.after(() => client.end());
	return {
		run: (text, values) => client.query(text, values).then(({ rows }) => rows),
		value: (text, values) => client.query(text, values).then(({ rows: [row] }) => Object.values(row)[0]),
	};
}

const ASK = 'SELECT ratelimit_console.ask($1, $2, $3, $4::jsonb, $5)';
const PERFORM = 'SELECT done, result FROM ratelimit_console.perform($1)';
const blocked = (key) => database.value('SELECT count(*)::int FROM rate_limit_status WHERE key = $1 AND blocked_until IS NOT NULL', [key]);
const rowsOf = (key) => database.query('SELECT who, action, done, result, reason FROM ratelimit_console.actions WHERE key = $1 ORDER BY id', [key]);
const refused = (promise, code = '42501') => assert.rejects(promise, (error) => error.code === code);

test('it can be run again, and what was written down stays', async (t) => {
	const oscar = await as(t, 'oscar');
	const id = await oscar.value(ASK, ['block', 'user', 'kept', '{"duration": "1 hour"}', 'to be kept']);

	await oscar.run(PERFORM, [id]);
	setUp(database.name);
	assert.deepStrictEqual(await rowsOf('kept'), [{ who: 'oscar', action: 'block', done: true, result: 'blocked for 01:00:00', reason: 'to be kept' }]);
	assert.strictEqual(await blocked('kept'), 1);
});

test('nobody else may be the role that owns the schema', async (t) => {
	for (const [wrong, right] of [['ALTER ROLE ratelimit_console LOGIN', 'ALTER ROLE ratelimit_console NOLOGIN'], ['GRANT ratelimit_console TO oscar', 'REVOKE ratelimit_console FROM oscar']]) {
		t.after(() => database.query(right));
		await database.query(wrong);
		assert.throws(() => setUp(database.name), /may log in or has members/);
		await database.query(right);
	}
	setUp(database.name);
});

test('the extension may move to another schema', async (t) => {
	await database.query('CREATE SCHEMA moved; ALTER EXTENSION ratelimit SET SCHEMA moved');
	setUp(database.name);

	const oscar = await as(t, 'oscar');
	const id = await oscar.value(ASK, ['block', 'user', 'moved', '{"duration": "1 hour"}', 'after it has moved']);

	assert.deepStrictEqual(await oscar.run(PERFORM, [id]), [{ done: true, result: 'blocked for 01:00:00' }]);
	await database.query('ALTER EXTENSION ratelimit SET SCHEMA "rate limits"');
	setUp(database.name);
});

test('whoever looks cannot act', async (t) => {
	const viola = await as(t, 'viola');

	assert.strictEqual(await viola.value('SELECT count(*)::int FROM "rate limits".rate_limit_stats WHERE limiter IS NULL'), 1);
	await viola.run('SELECT * FROM "rate limits".rate_limit_status, "rate limits".rl_partitions(), ratelimit_console.workers() LIMIT 1');
	await refused(viola.run(ASK, ['block', 'user', 'v', '{"duration": "1 hour"}', 'not allowed']));
	await refused(viola.run(PERFORM, [1]));
	await refused(viola.run("SELECT \"rate limits\".rl_block('v', '1 hour', 'user')"));
	assert.deepStrictEqual(await rowsOf('v'), []);
	assert.strictEqual(await blocked('v'), 0);
});

test('whoever has no right sees nothing', async (t) => {
	const nobody = await as(t, 'nobody');

	for (const query of ['SELECT * FROM "rate limits".rate_limit_stats', 'SELECT * FROM ratelimit_console.actions', 'SELECT ratelimit_console.workers()']) await refused(nobody.run(query));
});

test('whoever acts has no other way, and cannot change what is written down', async (t) => {
	const oscar = await as(t, 'oscar');

	for (const query of [
		"SELECT \"rate limits\".rl_block('o', '1 hour', 'user')", "SELECT \"rate limits\".rl_unflag('o', 'user')", "SELECT \"rate limits\".rl_reward('o', 1, 'user')",
		"SELECT \"rate limits\".rl_reset('o', 'user')", 'UPDATE "rate limits".rate_limit_policies SET shadow = true',
		'DELETE FROM ratelimit_console.actions', "UPDATE ratelimit_console.actions SET who = 'viola'", 'TRUNCATE ratelimit_console.actions',
		"INSERT INTO ratelimit_console.actions (who, action, limiter, details, reason) VALUES ('viola', 'block', 'user', '{}', 'forged')",
		'ALTER TABLE ratelimit_console.actions DISABLE TRIGGER ALL', 'DROP TABLE ratelimit_console.actions', 'SET ROLE ratelimit_console',
		'CREATE FUNCTION ratelimit_console.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$', 'SELECT * FROM ratelimit_console.actions FOR UPDATE',
	]) await refused(oscar.run(query));
});

test('an action that is rolled back has been written down all the same', async (t) => {
	const oscar = await as(t, 'oscar');

	// both in one transaction
	await oscar.run('BEGIN');

	const first = await oscar.value(ASK, ['block', 'user', 'rolled back', '{"duration": "1 hour"}', 'in one transaction']);

	await assert.rejects(oscar.run(PERFORM, [first]), /is not written down yet/);
	await oscar.run('ROLLBACK');
	assert.strictEqual(await blocked('rolled back'), 0);

	// with a subtransaction, which has an identifier of its own
	await oscar.run('BEGIN');
	await oscar.run('SAVEPOINT s');

	const second = await oscar.value(ASK, ['block', 'user', 'rolled back', '{"duration": "1 hour"}', 'in one transaction']);

	await oscar.run('RELEASE s');
	await assert.rejects(oscar.run(PERFORM, [second]), /is not written down yet/);
	await oscar.run('ROLLBACK');
	assert.strictEqual(await blocked('rolled back'), 0);
	assert.deepStrictEqual(await rowsOf('rolled back'), []);

	// the block outlives the rollback, and so does what was asked for
	const third = await oscar.value(ASK, ['block', 'user', 'rolled back', '{"duration": "1 hour"}', 'rolled back']);

	await oscar.run('BEGIN');
	await oscar.run(PERFORM, [third]);
	await oscar.run('ROLLBACK');
	assert.strictEqual(await blocked('rolled back'), 1);
	assert.deepStrictEqual(await rowsOf('rolled back'), [{ who: 'oscar', action: 'block', done: null, result: null, reason: 'rolled back' }]);

	// and it is not done twice
	await assert.rejects(oscar.run(PERFORM, [third]), /has been tried already/);
});

test('tokens are given once, however often it is rolled back', async (t) => {
	const oscar = await as(t, 'oscar');

	await database.query("SELECT rl_consume('rich', 100, 0.0001, 90, 'user')");

	const id = await oscar.value(ASK, ['reward', 'user', 'rich', '{"tokens": 10}', 'ten, once']);

	for (let i = 0; i < 3; i++) {
		await oscar.run('BEGIN');
		await oscar.run(PERFORM, [id]).catch(() => {});
		await oscar.run('ROLLBACK');
	}
	assert.strictEqual(await database.value("SELECT round(tokens)::int FROM rate_limit_status WHERE key = 'rich'"), 20);
});

test('nobody can use up or fill the bucket that an action is counted by', async (t) => {
	const oscar = await as(t, 'oscar');
	const viola = await as(t, 'viola');
	const id = await oscar.value(ASK, ['reward', 'user', 'poor', '{"tokens": 10}', 'ten, once']);

	await database.query("SELECT rl_consume('poor', 100, 0.0001, 90, 'user')");
	// whoever has USAGE may call what every role may call
	for (const name of [`action ${id}`, `${id}`]) await viola.run('SELECT "rate limits".rl_consume($1, 1, 0.0001, 1, \'ratelimit_console\')', [name]);
	await oscar.run('BEGIN');
	assert.strictEqual((await oscar.run(PERFORM, [id]))[0].done, true);
	await oscar.run('ROLLBACK');
	for (const { key } of await database.query("SELECT key FROM rate_limit_status WHERE limiter = 'ratelimit_console'")) {
		await oscar.run('SELECT "rate limits".rl_consume($1, 1e9, 1e9, 0, \'ratelimit_console\')', [key]);
	}
	await assert.rejects(oscar.run(PERFORM, [id]), /has been tried already/);
	assert.strictEqual(await database.value("SELECT round(tokens)::int FROM rate_limit_status WHERE key = 'poor'"), 20);
	await refused(oscar.run('SELECT * FROM ratelimit_console.secret'));
});

test('what is written down names who has logged in, and only that role can have it done', async (t) => {
	const oscar = await as(t, 'oscar');
	const trusting = await as(t, 'trusting');

	await oscar.run('SET ROLE ratelimit_operator');

	const id = await oscar.value(ASK, ['block', 'user', 'whose', '{"duration": "1 hour"}', 'as another role']);

	assert.deepStrictEqual(await rowsOf('whose'), [{ who: 'oscar', action: 'block', done: null, result: null, reason: 'as another role' }]);
	await assert.rejects(trusting.run(PERFORM, [id]), /you have not asked for action/);
	assert.strictEqual(await blocked('whose'), 0);
});

test('what was asked for long ago is not done any more', async (t) => {
	const oscar = await as(t, 'oscar');
	const id = await oscar.value(ASK, ['block', 'user', 'late', '{"duration": "1 hour"}', 'asked for too early']);

	await database.query("UPDATE ratelimit_console.actions SET asked_at = asked_at - interval '6 minutes' WHERE id = $1", [id]);
	await assert.rejects(oscar.run(PERFORM, [id]), /too long ago/);
});

test('a failure is written down', async (t) => {
	const oscar = await as(t, 'oscar');
	const id = await oscar.value(ASK, ['unblock', 'a:b', 'fails', '{}', 'the limiter has a colon']);
	const [{ done, result }] = await oscar.run(PERFORM, [id]);

	assert.strictEqual(done, false);
	assert.match(result, /limiter must not contain ":"/);
	assert.deepStrictEqual((await rowsOf('fails')).map(({ done: was, result: said }) => [was, said]), [[false, result]]);
});

test('what makes no sense is not written down', async (t) => {
	const oscar = await as(t, 'oscar');

	for (const [values, message] of [
		[['drop', 'user', 'k', '{}', 'why not'], /no action "drop"/],
		[[null, 'user', 'k', '{}', 'why not'], /no action/],
		[['reset', 'user', 'k', '{}', '  x '], /reason/],
		[['reset', 'user', 'k', '{}', null], /reason/],
		[['reset', '', 'k', '{}', 'why not'], /limiter/],
		[['reset', 'user', '', '{}', 'why not'], /key/],
		[['reset', 'user', null, '{}', 'why not'], /key/],
		[['reset', 'user', 'k'.repeat(256), '{}', 'why not'], /key/],
		[['reset', 'user', 'k', '[]', 'why not'], /details/],
		[['reset', 'user', 'k', '{"who": "viola"}', 'why not'], /details/],
		[['reset', 'ratelimit_console', 'k', '{}', 'why not'], /own/],
		[['reset', 'user', 'k', `{"period": "${'x'.repeat(10000)}"}`, 'why not'], /10000 bytes/],
		[['reward', 'user', 'k', `{"tokens": "1${' '.repeat(10000)}"}`, 'why not'], /10000 bytes/],
		[['block', 'user', 'k', '{}', 'why not'], /duration/],
		[['block', 'user', 'k', '{"duration": "-1 hour"}', 'why not'], /duration/],
		[['block', 'user', 'k', '{"duration": "soon"}', 'why not'], /interval/],
		[['reward', 'user', 'k', '{"tokens": "many"}', 'why not'], /double precision/],
		[['reward', 'user', 'k', '{"tokens": "NaN"}', 'why not'], /tokens/],
		[['reward', 'user', 'k', '{"tokens": -1}', 'why not'], /tokens/],
		[['shadow', 'user', null, '{"policy": "user", "tier": "day", "shadow": true}', 'why not'], /limiter must be that/],
		[['shadow', 'user', null, '{"policy": "user", "tier": "default"}', 'why not'], /shadow/],
		[['edit_policy', 'user', null, '{"policy": "user", "tier": "default", "set": {"policy": "other"}}', 'why not'], /set must be/],
		[['edit_policy', 'user', null, '{"policy": "user", "tier": "default", "set": {"shadow": true}}', 'why not'], /set must be/],
		[['edit_policy', 'user', null, '{"policy": "user", "tier": "default"}', 'why not'], /set must be/],
	]) await assert.rejects(oscar.run(ASK, values), message, JSON.stringify(values));
	assert.strictEqual(await database.value("SELECT count(*)::int FROM ratelimit_console.actions WHERE reason = 'why not'"), 0);
});

test('names of others do not run with the rights of the console', async (t) => {
	const oscar = await as(t, 'oscar');

	// whatever an operator can create, in whatever search_path
	await database.query('GRANT CREATE, USAGE ON SCHEMA public TO oscar; GRANT TEMPORARY ON DATABASE setup TO oscar');
	await oscar.run(`CREATE FUNCTION public.rl_block(text, interval, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'of others'; END $$;
		CREATE FUNCTION public.octet_length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'of others'; END $$;
		CREATE FUNCTION public.neq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'of others'; END $$;
		CREATE OPERATOR public.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = public.neq);
		CREATE TEMP TABLE pg_extension (extname text, extnamespace oid);
		CREATE TEMP TABLE actions (id bigint);
		SET search_path = pg_temp, public, pg_catalog`);

	const id = await oscar.value('SELECT ratelimit_console.ask($1, $2, $3, $4::jsonb, $5)', ['block', 'user', 'names', '{"duration": "1 hour"}', 'names of others']);

	assert.deepStrictEqual(await oscar.run(PERFORM, [id]), [{ done: true, result: 'blocked for 01:00:00' }]);
	assert.strictEqual(psql(database.name, `SELECT count(*) FROM pg_proc WHERE pronamespace = 'ratelimit_console'::regnamespace
		AND prosecdef AND NOT proconfig @> ARRAY['search_path=pg_catalog, pg_temp']`).trim(), '0');
});
