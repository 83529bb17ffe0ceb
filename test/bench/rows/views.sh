# test/bench/rows/views.sh: what the views and functions that operators and consoles read take,
# with a million living buckets.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

living=1000000

# view NAME TARGET QUERY: asked once a round
view_names=()
declare -A view_target view_query
view()
{
	view_names+=("$1")
	view_target[$1]=$2
	view_query[$1]=$3
}

view stats '<= 100' 'TABLE rate_limit_stats'
view decisions '<= 10' 'TABLE rate_limit_decisions'
view partitions '<= 100' 'SELECT * FROM rl_partitions()'
view key '<= 100' "SELECT * FROM rl_status('user:4711')"
view key_by_condition - "SELECT * FROM rate_limit_status WHERE key = 'user:4711'"
view some '<= 100' 'SELECT * FROM rate_limit_status LIMIT 50'
view all - 'SELECT count(*) FROM rate_limit_status'
view policy '<= 10' "SELECT * FROM rl_status_policy('plan', 'user:4711')"
view episodes '<= 100' 'TABLE rate_limit_episodes'
view flagged '<= 100' 'TABLE rate_limit_flagged'
view pending '<= 100' 'TABLE rate_limit_pending'
view slots '<= 100' 'TABLE rate_limit_slots'
view reservations '<= 100' 'TABLE rate_limit_reservations'
view hourly - "SELECT * FROM rate_limit_violations_hourly WHERE hour > now() AT TIME ZONE 'UTC' - interval '1 day'"
view offenders - 'SELECT * FROM rate_limit_top_offenders LIMIT 20'

# Milliseconds of processor time that a query takes, which do not depend on what else the machine
# does; nothing if the version that is measured does not have what it asks for.
view_ms()
{
	psql -XqAt -v ON_ERROR_STOP=1 >/dev/null 2>"$work/view.log" <<-SQL || { grep -q 'does not exist' "$work/view.log" || fail "$(<"$work/view.log")"; return 0; }
		SET client_min_messages = log;
		SET log_statement_stats = on;
		$1;
	SQL
	awk '/ s user, .* s system, .* s elapsed/ { ms = ($2 + $5) * 1000 } END { print ms }' "$work/view.log"
}

# Living buckets of four limiters, a day of violations of 100 keys a minute, and violations of
# nearly as many keys as are counted, with as many episodes as there can be.
fill_views()
{
	sql >/dev/null <<-SQL
		SELECT count(rl_consume('user:' || i, 1e9, 1e-4, limiter => (ARRAY['api', 'login', 'search', 'export'])[1 + i % 4])) FROM generate_series(1, $living) i;
		INSERT INTO rate_limit_violations (gateway_name, total_count, details, created_at)
			SELECT 'api-1', 100, (SELECT jsonb_object_agg('user:' || m % 7 * 1000 + k || ':api', 1) FROM generate_series(1, 100) k), now() AT TIME ZONE 'UTC' - m * interval '1 minute'
			FROM generate_series(1, 1440) m;
		INSERT INTO rate_limit_policies (policy, capacity, refill) VALUES ('plan', 1e9, 1);
		ANALYZE rate_limit_violations;
		SELECT count(rl_report('user:' || i, 'api', 1)) FROM generate_series(1, 15000) i;
	SQL
}

# measure_views ID WHERE
measure_views()
{
	local round name ids=()

	for name in "${view_names[@]}"; do
		[ "$(view_ms "${view_query[$name]}")" ] || continue
		ids+=("$name")
		show "$1_$name" "${view_target[$name]}" ' ms' "$2: ${view_query[$name]}"
	done
	for ((round = 1; round <= rounds; round++)); do
		for name in "${ids[@]}"; do
			sample "$1_$name" "$round" "$(view_ms "${view_query[$name]}")" -
		done
	done
	report "${ids[@]/#/$1_}"
}

row views quick "the views, with a million living buckets in memory"
row_views()
{
	use views ratelimit.max_buckets=$((living * 3 / 2)) ratelimit.flush_interval=3600
	fill_views
	measure_views views "1M living buckets in memory"
	stop views
}

row views_table full "the views, with a million living buckets in the table"
row_views_table()
{
	use views_table "shared_preload_libraries=''" shared_buffers=1GB
	fill_views
	measure_views views_table "1M living buckets in the table, without shared memory"
	stop views_table
}
