# test/bench/rows/peers.sh: calls through pgbench, one query each, against the floor
# and against peers that live in tables of the same server.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

# against NAME TARGET SCRIPT TITLE: 10,000 keys
against()
{
	use_peers
	compare "$1" "$2" /s "rate consume" "rate $3" "$4"
}

# against_hot NAME TARGET SCRIPT TITLE: one key
against_hot()
{
	use_peers
	compare "$1" "$2" /s "rate consume -D keys=1" "rate $3 -D keys=1" "$4"
}

row floor full "SELECT length(...) of the same shape"
row_floor()
{
	against floor - floor "rl_consume against SELECT length(...): 8 clients, 10k keys"
}

row floor_on quick "against the same call with ratelimit.enabled = off, which decides nothing"
row_floor_on()
{
	use_peers
	compare floor_on '>= 0.98' /s "rate consume" "rate_with ratelimit.enabled=off consume" \
		"rl_consume against with ratelimit.enabled = off: 8 clients, 10k keys"
}

row floor_off full "that call against the floor: what PostgreSQL takes for calling it"
row_floor_off()
{
	use_peers
	compare floor_off - /s "rate_with ratelimit.enabled=off consume" "rate floor" \
		"rl_consume with ratelimit.enabled = off against SELECT length(...): 8 clients, 10k keys"
}

row floor_free full "the same, clients and backends where the scheduler puts them"
row_floor_free()
{
	use_peers
	pinned='' compare floor_free - /s "rate consume" "rate floor" \
		"rl_consume against SELECT length(...), not pinned to processors: 8 clients, 10k keys"
}

row plpgsql quick "row-lock bucket in PL/pgSQL, unlogged table"
row_plpgsql()
{
	against plpgsql '>= 3.5' plpgsql "rl_consume against the PL/pgSQL row-lock bucket: 8 clients, 10k keys"
}

row plpgsql_hot quick "the same, one hot key"
row_plpgsql_hot()
{
	against_hot plpgsql_hot '>= 5' plpgsql "rl_consume against the PL/pgSQL row-lock bucket: 8 clients, one hot key"
}

row upsert full "single-statement upsert, unlogged table"
row_upsert()
{
	against upsert - upsert "rl_consume against a single-statement upsert: 8 clients, 10k keys"
	against_hot upsert_hot - upsert "rl_consume against a single-statement upsert: 8 clients, one hot key"
}

row advisory full "counter under an advisory lock, unlogged table"
row_advisory()
{
	against advisory - advisory "rl_consume against a counter under an advisory lock: 8 clients, 10k keys"
	against_hot advisory_hot - advisory "rl_consume against a counter under an advisory lock: 8 clients, one hot key"
}

row three quick "three-statement transaction"
row_three()
{
	against three '>= 12' three_statements "rl_consume against a transaction of three statements, ordinary table: 8 clients, 10k keys"
}

row three_hot quick "the same, one hot key"
row_three_hot()
{
	against_hot three_hot '>= 40' three_statements "rl_consume against a transaction of three statements, ordinary table: 8 clients, one hot key"
}

row three_unlogged full "three-statement transaction, unlogged table"
row_three_unlogged()
{
	use_peers
	sql -c 'ALTER TABLE three_bucket SET UNLOGGED'
	against three_unlogged '>= 12' three_statements "rl_consume against a transaction of three statements, unlogged table: 8 clients, 10k keys"
	against_hot three_unlogged_hot '>= 40' three_statements "rl_consume against a transaction of three statements, unlogged table: 8 clients, one hot key"
	sql -c 'ALTER TABLE three_bucket SET LOGGED'
}

row hot quick "one hot key against 10k keys"
row_hot()
{
	use_peers
	compare hot '>= 0.97' /s "rate consume -D keys=1" "rate consume" \
		"rl_consume, one hot key against 10k keys: 8 clients"
}

row lookup full "inside a primary-key lookup: added cost"
row_lookup()
{
	use_peers
	compare lookup - /s "rate lookup_consume" "rate lookup" \
		"primary-key lookup with rl_consume against without: 8 clients"
}

row lookup_shape full "the same against a lookup with as many parameters and columns"
row_lookup_shape()
{
	use_peers
	compare lookup_shape - /s "rate lookup_consume" "rate lookup_shape" \
		"primary-key lookup with rl_consume against with length(...) > 0 of the same shape: 8 clients"
}

row lookup_key full "a lookup by the key that is limited, the call among its conditions"
row_lookup_key()
{
	use_peers
	compare lookup_key - /s "rate lookup_key_consume" "rate lookup_key" \
		"primary-key lookup by text with rl_consume of the key found against without: 8 clients, 10k keys"
}

row lookup_on quick "the same against with ratelimit.enabled = off: what the limiter adds"
row_lookup_on()
{
	use_peers
	compare lookup_on '>= 0.98' /s "rate lookup_key_consume" "rate_with ratelimit.enabled=off lookup_key_consume" \
		"primary-key lookup by text with rl_consume of the key found against with ratelimit.enabled = off: 8 clients, 10k keys"
}

row lookup_off full "that lookup against the one without a call: what PostgreSQL takes for calling it"
row_lookup_off()
{
	use_peers
	compare lookup_off - /s "rate_with ratelimit.enabled=off lookup_key_consume" "rate lookup_key" \
		"primary-key lookup by text with rl_consume of the key found, ratelimit.enabled = off, against without: 8 clients, 10k keys"
}

row cpu full "processor time of the server a call, not moved by what else runs"
row_cpu()
{
	use_peers
	compare cpu_floor - ' us' "cpu_us consume" "cpu_us floor" \
		"processor time of the server, rl_consume against SELECT length(...): 8 clients, 10k keys"
	compare cpu_lookup - ' us' "cpu_us lookup_consume" "cpu_us lookup" \
		"processor time of the server, primary-key lookup with rl_consume against without: 8 clients"
}

row denied quick "all calls denied, through pgbench"
row_denied()
{
	use_peers
	compare denied '>= 0.98' /s "rate denied" "rate consume" \
		"denied against allowed calls: 8 clients, 10k keys"
	compare denied_hot '>= 0.98' /s "rate denied -D keys=1" "rate consume -D keys=1" \
		"denied against allowed calls: 8 clients, one hot key"
}

row zipf full "1M keys, Zipf distribution"
row_zipf()
{
	use zipf ratelimit.max_buckets=1500000
	compare zipf - /s "rate consume_zipf" "rate floor_zipf" \
		"rl_consume against SELECT length(...): 8 clients, 1M keys, Zipf 1.1"
	stop zipf
}

row new full "a new key on every call"
row_new()
{
	use new
	compare new - /s "rate consume_new" "rate floor_new" \
		"rl_consume against SELECT length(...): 8 clients, a new key on every call"
	stop new
}

row clients full "1, 32, 64 clients"
row_clients()
{
	local n

	use_peers
	for n in 1 32 64; do
		clients=$n compare "clients_$n" "$([ "$n" = 64 ] && echo '>= 0.9' || echo -)" /s \
			"rate consume" "rate floor" \
			"rl_consume against SELECT length(...): $n client(s), 10k keys"
		clients=$n compare "clients_on_$n" - /s \
			"rate consume" "rate_with ratelimit.enabled=off consume" \
			"rl_consume against with ratelimit.enabled = off: $n client(s), 10k keys"
	done
}

row pgbouncer full "through PgBouncer, transaction mode"
row_pgbouncer()
{
	use_peers
	use_pgbouncer
	# as PgBouncer of Debian 12 has no prepared statements in this mode
	pinned='' compare pgbouncer - /s "rate consume -M extended -p $pgbouncer_port" \
		"rate floor -M extended -p $pgbouncer_port" \
		"rl_consume against SELECT length(...), both through PgBouncer: 8 clients, 10k keys"
}
