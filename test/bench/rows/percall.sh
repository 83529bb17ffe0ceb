# test/bench/rows/percall.sh: what a call costs inside one query: the time of the
# query less that of the query without it.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

use_calls()
{
	use calls
	[ -e "$work/calls.ready" ] || make_calls "$calls"
	touch "$work/calls.ready"
}

# percall NAME BASE TARGET TITLE: a comparison of two conditions on a call, see lib.sh
percall_names=()
declare -A percall_base percall_target percall_title
percall()
{
	percall_names+=("$1")
	percall_base[$1]=$2
	percall_target[$1]=$3
	percall_title[$1]=$4
}

percall hot nextval '<= 0.5' "rl_consume against nextval(): a call in one query, one key"
percall many nextval '<= 0.5' "rl_consume against nextval(): a call in one query, 10k keys"
percall first nextval - "rl_consume of a new key against nextval(): a call in one query"
percall throttle nextval - "rl_throttle against nextval(): a call in one query, one key"
percall policy hot - "rl_consume_policy against rl_consume: a call in one query, one key"
percall tiers hot - "the same of two tiers, all or nothing"
percall initial hot - "the same of one tier whose buckets begin with some tokens"
percall policies hot - "rl_consume_policies of two policies against rl_consume: a call in one query"
percall throttle_each hot - "rl_throttle_each of two keys against rl_consume: a call in one query"
percall book hot - "rl_book against rl_consume: a call in one query, one key"
percall reserve hot - "rl_reserve and rl_settle against rl_consume: both in one query, one key"
percall reserve_policy policy - "rl_reserve_policy and rl_settle against rl_consume_policy: both in one query, one key"
percall acquire hot '<= 2' "rl_acquire and rl_release of its ticket against rl_consume: in one query, one key"
percall acquire_policy policy - "rl_acquire_policy and rl_release against rl_consume_policy: in one query, one key"
percall renew hot - "rl_renew of one ticket against rl_consume: in one query"
percall period hot '<= 1.25' "rl_consume_period against rl_consume: a call in one query, one key"
percall period_many many '<= 1.25' "rl_consume_period against rl_consume: a call in one query, 10k keys"
percall period_zone hot - "the same of a month of a time zone: one key"
percall period_throttle throttle - "rl_throttle_period against rl_throttle: a call in one query, one key"
percall period_peek hot - "rl_peek_period against rl_consume: a call in one query, one key"
percall count hot - "rl_count against rl_consume: a call in one query, one key"
percall denied hot '<= 1.25' "denied against allowed call: in one query, one key, violations recorded"
percall denied_many many '<= 1.6' "denied against allowed call: in one query, 10k keys, violations recorded"

row percall quick "a call inside one query: against nextval(), denied against allowed"
row_percall()
{
	local round name ns

	use percall
	make_calls "$few"
	for name in "${percall_names[@]}"; do
		show "percall_$name" "${percall_target[$name]}" ' ns' "${percall_title[$name]}"
	done
	# round 0 warms up
	for ((round = 0; round <= rounds; round++)); do
		for name in "${percall_names[@]}"; do
			mapfile -t ns < <(in_turn 10 "$few" floor "$name" "${percall_base[$name]}")
			[ "$round" = 0 ] || sample "percall_$name" "$round" \
				"$(minus "${ns[1]}" "${ns[0]}")" "$(minus "${ns[2]}" "${ns[0]}")"
		done
	done
	report "${percall_names[@]/#/percall_}"
}

# make_exceptions: calls whose keys are names and addresses; 100,000 exceptions for other keys,
# half of them for networks in the areas that the addresses are in, in the table "rows"
make_exceptions()
{
	make_calls "$few"
	sql >/dev/null <<-'SQL'
		CREATE FUNCTION v6(n bigint) RETURNS text LANGUAGE sql AS
			$$ SELECT format('2a00:%s:%s::/', to_hex(n >> 16), to_hex(n & 65535)) $$;
		ALTER TABLE calls ADD v4 text, ADD v6 text;
		UPDATE calls SET v4 = host('20.0.0.0'::inet + substr(many, 6)::bigint * 6784 + 64),
			v6 = v6(substr(many, 6)::bigint * 6784) || '64';
		VACUUM FULL ANALYZE calls;
		CREATE TABLE rows AS SELECT 'vip:' || i AS key, NULL::cidr AS network FROM generate_series(1, 50000) i
			UNION ALL SELECT NULL, set_masklen('20.0.0.0'::inet + i * 2688, 26 + i % 7)::cidr FROM generate_series(1, 25000) i
			UNION ALL SELECT NULL, (v6(i * 2688 + 5) || 48 + i % 5 * 4)::cidr FROM generate_series(1, 25000) i;
	SQL
}

row exceptions quick "a call by a policy on a key without an exception, beside 100,000 exceptions"
row_exceptions()
{
	local round name ns

	use exceptions
	sql -c 'CREATE DATABASE without'
	PGDATABASE=without sql -c 'CREATE EXTENSION ratelimit'
	PGDATABASE=without make_exceptions
	make_exceptions
	sql -c "INSERT INTO rate_limit_exceptions (key, network, action) SELECT key, network, 'deny' FROM rows"
	# the first call by anybody reads all rows
	sql -c "SELECT rl_consume_policy('plan', 'first')" >/dev/null
	show exceptions_many '<= 15' ' ns' "what 100k exceptions for others add to a call by a policy, in one query, 10k keys"
	show exceptions_v4 '<= 15' ' ns' "the same, the keys are IPv4 addresses, half of the exceptions networks around them"
	show exceptions_v6 '<= 15' ' ns' "the same, the keys are IPv6 prefixes"
	for ((round = 0; round <= rounds; round++)); do
		for name in many v4 v6; do
			mapfile -t ns < <(in_turn 10 "$few" "dbname=postgres/policy_$name" "dbname=without/policy_$name")
			[ "$round" = 0 ] || sample "exceptions_$name" "$round" "$(minus "${ns[0]}" "${ns[1]}")" -
		done
	done
	report exceptions_many exceptions_v4 exceptions_v6
}

# use_living N: a server of room for 1.5 times N buckets, as the docs advise, with N
# living ones, and calls to them
use_living()
{
	use "living_$1" "ratelimit.max_buckets=$(($1 * 3 / 2 < 16384 ? 16384 : $1 * 3 / 2))"
	[ ! -e "$work/living_$1.ready" ] || return 0
	make_calls "$calls" "$1"
	sql -c "SELECT count(rl_consume('user:' || i, 1e9, 1e-4)) FROM generate_series(1, $1) i" >/dev/null
	touch "$work/living_$1.ready"
}

load_ns()
{
	[ -e "$work/load_from_memory" ] || gcc -O2 -o "$work/load_from_memory" "$bench/load.c"
	"$work/load_from_memory" "$1"
}

# growth ID:N:TARGET...: the cost of a call with N living buckets, against with 1000 and
# against a load from as much memory: a bucket takes 128 bytes, and there is room for one and
# a half times as many, as the docs advise
growth()
{
	local round size n target ns base ids=()

	for size; do
		IFS=: read -r size n target <<<"$size"
		ids+=("growth_$size" "growth_loads_$size")
		show "growth_$size" - ' ns' "$size living buckets against 1k: a call in one query"
		show "growth_loads_$size" "$target" ' ns' "a call with $size living buckets, in one query, against a load from $((n * 192 / 1048576)) MB at random"
	done
	for ((round = 0; round <= rounds; round++)); do
		use_living 1000
		base=$(minus "$(query_ns living "$calls")" "$(query_ns floor "$calls")")
		for size; do
			IFS=: read -r size n target <<<"$size"
			use_living "$n"
			ns=$(minus "$(query_ns living "$calls")" "$(query_ns floor "$calls")")
			[ "$round" = 0 ] || {
				sample "growth_$size" "$round" "$ns" "$base"
				sample "growth_loads_$size" "$round" "$ns" "$(load_ns "$((n * 192 / 1048576))")"
			}
		done
	done
	for size; do
		IFS=: read -r size n target <<<"$size"
		stop "living_$n"
	done
	report "${ids[@]}"
}

row growth quick "1M living buckets against a load from as much memory, and against 1k"
row_growth()
{
	growth '1M:1000000:<= 1.4'
}

row growth_more full "100k and 10M living buckets likewise"
row_growth_more()
{
	growth 100k:100000:- '10M:10000000:<= 1.4'
}

row fill full "from 1/4 of max_buckets to all of it: no cliff"
row_fill()
{
	local round percent filled=0 base=() ns ids=()

	use fill ratelimit.max_buckets=1048576
	for percent in 25 50 75 90 100; do
		sql -c "SELECT count(rl_consume('user:' || i, 1e9, 1e-4))
			FROM generate_series($((filled + 1)), $((10485 * percent))) i" >/dev/null
		filled=$((10485 * percent))
		sql -c 'DROP TABLE IF EXISTS calls' -c 'DROP SEQUENCE IF EXISTS counter' 2>/dev/null
		make_calls 300000 "$filled"
		[ "$percent" = 25 ] || {
			ids+=("fill_$percent")
			show "fill_$percent" '<= 3' ' ns' "$percent % of max_buckets (1M) living against 25 %: a call in one query"
		}
		for ((round = 0; round <= rounds; round++)); do
			ns=$(minus "$(query_ns living 300000)" "$(query_ns floor 300000)")
			if [ "$percent" = 25 ]; then
				base[round]=$ns
			elif [ "$round" != 0 ]; then
				sample "fill_$percent" "$round" "$ns" "${base[round]}"
			fi
		done
	done
	stop fill
	report "${ids[@]}"
}

row memory quick "memory per bucket"
row_memory()
{
	local bytes

	use_calls
	bytes=$(sql -c "SELECT size / current_setting('ratelimit.max_buckets')::float8
		FROM pg_shmem_allocations WHERE name = 'ratelimit'")
	show memory '<= 128' ' bytes' "shared memory for buckets, per bucket of max_buckets: keys up to 64 bytes"
	sample memory 1 "$bytes" -
	report memory
}

# Keys of 64 bytes, as many as max_buckets, until memory takes no more.
row memory_held full "memory per bucket, of those held when it is full"
row_memory_held()
{
	use held ratelimit.max_buckets=131072
	sql -c "SELECT count(rl_consume(lpad(i::text, 64, 'k'), 1e9, 0)) FROM generate_series(1, 131072) i" >/dev/null
	show memory_held - ' bytes' "shared memory for buckets, per bucket held once max_buckets keys of 64 bytes have come"
	sample memory_held 1 "$(sql -c "SELECT size::float8 / (SELECT count(*) FROM rate_limit_status WHERE store = 'memory')
		FROM pg_shmem_allocations WHERE name = 'ratelimit'")" -
	stop held
	report memory_held
}
