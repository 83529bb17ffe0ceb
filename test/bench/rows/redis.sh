# test/bench/rows/redis.sh: against Redis with a token bucket in Lua, called by its
# own redis-benchmark.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

row redis quick "Redis, token bucket in Lua, Unix sockets"
row_redis()
{
	use_peers
	use_redis
	compare redis '>= 1.4' /s "rate consume" "redis_rate token_bucket 10000 1" \
		"rl_consume against Redis with a token bucket in Lua: 8 clients, 10k keys, Unix sockets, not pipelined"
}

row redis_more full "the same over TCP, on one hot key, and with the least Lua"
row_redis_more()
{
	use_peers
	use_redis
	compare redis_tcp '>= 1.4' /s "rate consume -h 127.0.0.1" \
		"redis_rate token_bucket 10000 1 tcp" \
		"rl_consume against Redis with a token bucket in Lua: 8 clients, 10k keys, TCP, not pipelined"
	compare redis_hot - /s "rate consume -D keys=1" "redis_rate token_bucket 1 1" \
		"rl_consume against Redis with a token bucket in Lua: 8 clients, one hot key, Unix sockets, not pipelined"
	compare redis_gcra - /s "rate consume" "redis_rate gcra 10000 1" \
		"rl_consume against Redis with GCRA in Lua: 8 clients, 10k keys, Unix sockets, not pipelined"
}

# batch_rate SCRIPT: decisions a second, 1000 a query; ten lists of keys, 10,000 in all
batch_rate()
{
	local i keys options=()

	for ((i = 0; i < 10; i++)); do
		keys=$(seq -f 'user:%g' -s , $((i * 1000 + 1)) $((i * 1000 + 1000)))
		sed "s/:keys/:keys$i/" "$bench/pgbench/batch_$1.sql" >"$work/batch_$1.$i.sql"
		options+=(-D "keys$i={$keys}" -f "$work/batch_$1.$i.sql")
	done
	pgbench_rate "${options[@]}" | awk '{ print $1 * 1000 }'
}

row batch quick "1000 keys a query against Redis pipelined by 16"
row_batch()
{
	use_peers
	use_redis
	compare batch '>= 40' /s "batch_rate unnest" "redis_rate token_bucket 10000 16" \
		"rl_consume over unnest of 1000 keys against Redis with a token bucket in Lua, pipelined by 16: 8 clients, 10k keys"
	exists rl_consume_each || {
		echo "batch_each: not there yet (rl_consume_each)"
		return 0
	}
	compare batch_each '>= 40' /s "batch_rate each" "redis_rate token_bucket 10000 16" \
		"rl_consume_each of 1000 keys against Redis with a token bucket in Lua, pipelined by 16: 8 clients, 10k keys"
}
