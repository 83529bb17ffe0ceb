# test/bench/rows/node.sh: one Node process, 32 callers at a time, against the package
# rate-limiter-flexible.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

use_node()
{
	use_peers
	use_redis
	install_node_modules
}

# load OPTION...: into $work/load
load()
{
	REDIS_SOCKET=$work/redis.sock node "$bench"/node/load.js "$@" >"$work/load"
}

# what $work/load is of
process="one Node process"

# compare_modes ID TARGET OURS THEIRS TITLE [KEYS]: from $work/load
compare_modes()
{
	local round

	show "$1" "$2" /s "$5: $process, 32 callers, ${6:-10k keys}"
	for ((round = 1; round <= rounds; round++)); do
		sample "$1" "$round" "$(awk -v m="$3" -v r="$round" '$1 == m && $2 == r { print $3 }' "$work/load")" \
			"$(awk -v m="$4" -v r="$round" '$1 == m && $2 == r { print $3 }' "$work/load")"
	done
	report "$1"
}

row node quick "micro-batched in Node against rate-limiter-flexible on Redis"
row_node()
{
	use_node
	exists rl_consume_each || {
		echo "node: not there yet (rl_consume_each)"
		return 0
	}
	load "$rounds" "$seconds" batched flexible_redis flexible_redis_pipelining
	compare_modes node '>= 1.5' batched flexible_redis \
		"rl_consume_each, calls of a turn gathered, against rate-limiter-flexible on Redis"
	compare_modes node_pipelining '>= 1.5' batched flexible_redis_pipelining \
		"rl_consume_each, calls of a turn gathered, against the same with ioredis's enableAutoPipelining"
}

row node_leased full "tokens in portions in Node against rate-limiter-flexible on Redis"
row_node_leased()
{
	use_node
	load "$rounds" "$seconds" leased_hot leased flexible_redis
	compare_modes node_leased '>= 10' leased_hot flexible_redis \
		"rl_consume_upto, portions, against rate-limiter-flexible on Redis" "one key, there 10k"
	compare_modes node_leased_many - leased flexible_redis \
		"rl_consume_upto, portions, against rate-limiter-flexible on Redis"
}

row node_single full "one query a call in Node against rate-limiter-flexible on PostgreSQL and Redis"
row_node_single()
{
	use_node
	load "$rounds" "$seconds" single flexible_postgres flexible_redis
	compare_modes node_postgres - single flexible_postgres \
		"rl_consume, a query a call, against rate-limiter-flexible on PostgreSQL, pool of 10"
	compare_modes node_single - single flexible_redis \
		"rl_consume, a query a call, pool of 10, against rate-limiter-flexible on Redis"
}

# compare_latencies ID TARGET OURS THEIRS RATE TITLE: from $work/load
compare_latencies()
{
	local p round a b c x y z ids=()

	for p in 50 99 99.9; do
		ids+=("$1_p$p")
		show "$1_p$p" "$([ "$p" = 50 ] && echo "$2" || echo -)" ' us' \
			"p$p of latency, $6, at $5 calls/s: $process, 10k keys"
	done
	while read -r round a b c x y z; do
		sample "$1_p50" "$round" "$a" "$x"
		sample "$1_p99" "$round" "$b" "$y"
		sample "$1_p99.9" "$round" "$c" "$z"
	done < <(awk -v ours="$3" -v theirs="$4" '{ t[$2, $1] = $3 " " $4 " " $5; n = $2 }
		END { for (i = 1; i <= n; i++) print i, t[i, ours], t[i, theirs] }' "$work/load")
	report "${ids[@]}"
}

row node_latency full "latency in Node at half the maximum of Redis"
row_node_latency()
{
	local per_second

	use_node
	exists rl_consume_each || {
		echo "node_latency: not there yet (rl_consume_each)"
		return 0
	}
	load 1 "$seconds" flexible_redis
	per_second=$(awk '{ printf "%d", $3 / 2 }' "$work/load")
	load --rate "$per_second" "$rounds" "$seconds" batched flexible_redis
	compare_latencies node_latency '<= 1' batched flexible_redis "$per_second" \
		"rl_consume_each, calls of a turn gathered, against rate-limiter-flexible on Redis"
}

row node_floor full "latency in Node of a query that decides nothing"
row_node_floor()
{
	use_node
	load --rate 2000 "$rounds" "$seconds" floor batched flexible_redis
	compare_latencies node_floor - floor flexible_redis 2000 \
		"a query that decides nothing, prepared, against rate-limiter-flexible on Redis"
	compare_latencies node_calm - batched flexible_redis 2000 \
		"rl_consume_each, calls of a turn gathered, against rate-limiter-flexible on Redis"
}
