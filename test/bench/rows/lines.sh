# test/bench/rows/lines.sh: two backends at once, on two processors: what it costs a call that
# another processor writes the same cache lines, or none.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

# Conditions as in lib.sh.  $side: another one for each of the two backends.
declare -A line_condition=(
	[floor]="${condition[floor]}"
	[apart]="length(many) > 0 AND rl_consume(many, 1e9, 1, 1, :'side')"
	[hot]="${condition[hot]}"
	[denied_apart]="length(many) > 0 AND NOT rl_consume(many, 1, 1e-6, 1, :'side')"
	[denied_hot]="${condition[denied]}"
)

# backend SIDE PROCESSOR CONDITION ROWS: a query over that many times the table, by a backend on
# that processor
backend()
{
	psql -XqAt -v ON_ERROR_STOP=1 -v side="$1" <<-SQL
		SET application_name = 'side $1';
		SELECT pg_backend_pid() AS pid \gset
		\setenv PID :pid
		\! taskset -cp $2 \$PID >/dev/null
		SET max_parallel_workers_per_gather = 0;
		SET jit = off;
		SET enable_material = off;
		SET client_min_messages = log;
		SET log_executor_stats = on;
		SELECT count(*) FROM generate_series(1, $4) CROSS JOIN LATERAL
			(SELECT FROM calls WHERE ${line_condition[$3]} OFFSET 0) c;
	SQL
}

is_running()
{
	[ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'side b'
		AND state = 'active' AND query ~ 'generate_series'")" = 1 ]
}

# line_ns CONDITION alone|beside: nanoseconds a row, as query_ns
line_ns()
{
	local other

	if [ "$2" = beside ]; then
		backend b 1 "$1" 1000 >/dev/null 2>&1 &
		other=$!
		wait_until is_running || fail "the second backend does not run"
	fi
	backend a 0 "$1" 1 >"$work/line.log" 2>&1 || { cat "$work/line.log" >&2; fail "a query failed"; }
	if [ "$2" = beside ]; then
		sql -c "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
			WHERE application_name = 'side b'" >/dev/null
		wait "$other" || true
	fi
	awk -v n="$calls" '/ s user, .* s system, .* s elapsed/ { ns = ($2 + $5) * 1e9 / n } END { print ns }' \
		"$work/line.log"
}

# excess CONDITION: by how many nanoseconds another backend that makes the same calls delays one.
# What it does to the query without calls is taken off.
excess()
{
	minus "$(minus "$(line_ns "$1" beside)" "$(line_ns floor beside)")" \
		"$(minus "$(line_ns "$1" alone)" "$(line_ns floor alone)")"
}

row lines full "two backends at once: lines that both write, predicted and measured"
row_lines()
{
	local round kind alone both

	[ "$(nproc)" -gt 1 ] || return 0
	use_calls
	gcc -O2 -pthread -o "$work/line" "$bench/line.c"
	for kind in apart denied_apart; do
		show "lines_$kind" '<= 1.1' ' ns' "a call while another backend makes such calls with other keys, against alone: $kind"
	done
	for kind in hot denied_hot; do
		show "lines_$kind" - ' ns' "what another backend's calls with the same key cost a call, against what one line that both write costs: $kind"
	done
	for ((round = 0; round <= rounds; round++)); do
		for kind in apart denied_apart; do
			alone=$(minus "$(line_ns "$kind" alone)" "$(line_ns floor alone)")
			both=$(minus "$(line_ns "$kind" beside)" "$(line_ns floor beside)")
			[ "$round" = 0 ] || sample "lines_$kind" "$round" "$both" "$alone"
		done
		for kind in hot denied_hot; do
			alone=$(line_ns "$kind" alone)
			both=$(excess "$kind")
			[ "$round" = 0 ] || sample "lines_$kind" "$round" "$both" \
				"$(minus "$("$work/line" shared "$alone")" "$("$work/line" own "$alone")")"
		done
	done
	report lines_{apart,denied_apart,hot,denied_hot}
}
