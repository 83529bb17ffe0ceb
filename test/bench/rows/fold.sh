# test/bench/rows/fold.sh: what folding violations into episodes and flags takes, with
# max_violations and max_episodes at their maxima.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

fold_violations=524288
fold_episodes=10000

# Seconds that a command takes.
seconds_of()
{
	local began ended

	began=$(date +%s.%N)
	"$@" >/dev/null
	ended=$(date +%s.%N)
	minus "$ended" "$began"
}

# Violations of a limiter that flags, of all keys but a tenth of the room: nothing of
# them has been folded.
violate_all()
{
	sql -c "SELECT count(rl_report('key ' || i, 'user', 1)) FROM generate_series(1, $fold_violations * 9 / 10) i" >/dev/null
}

read_episodes()
{
	sql -c 'SELECT count(*) FROM rate_limit_episodes'
}

# The longest of many calls for keys of round $1 that take an entry, in ms; they go on
# while others read.
longest_call()
{
	sql -v ON_ERROR_STOP=1 <<-SQL
		SET client_min_messages = notice;
		DO \$\$
		DECLARE
			began timestamptz;
			longest interval := '0';
		BEGIN
			FOR i IN 1 .. $fold_violations / 50 LOOP
				began := clock_timestamp();
				PERFORM rl_report('round $1 ' || i, 'ip', 1);
				longest := greatest(longest, clock_timestamp() - began);
				PERFORM pg_sleep(0.00001) WHERE i % 16 = 0;
			END LOOP;
			PERFORM set_config('bench.longest', (extract(epoch FROM longest) * 1000)::text, false);
		END
		\$\$;
		SELECT current_setting('bench.longest');
	SQL
}

# longest_call_while COMMAND ROUND: while the command is executed over and over
longest_call_while()
{
	local calls

	longest_call "$2" >"$work/fold.longest" &
	calls=$!
	while kill -0 "$calls" 2>/dev/null; do
		"$1" >/dev/null
	done
	wait "$calls"
	cat "$work/fold.longest"
}

nothing()
{
	sql -c 'SELECT count(*) FROM generate_series(1, 1000000)'
}

row fold quick "folding 471,859 violations into 10,000 episodes"
row_fold()
{
	local round ours theirs

	use fold shared_buffers=128MB ratelimit.max_violations=$fold_violations \
		ratelimit.max_episodes=$fold_episodes ratelimit.flush_interval=3600
	show fold_read '<= 2' ' s' "reading rate_limit_episodes after violations of nine tenths of max_violations $fold_violations, max_episodes $fold_episodes"
	show fold_wait '<= 20' ' ms' "the longest of $((fold_violations / 50)) calls that make an entry while rate_limit_episodes is read over and over"
	show fold_wait_else - ' ms' "the same while another query is executed over and over"
	show fold_stop '<= 2' ' s' "a fast shutdown with all that not folded, against one with nothing to fold or to save"
	for ((round = 1; round <= (rounds < 3 ? rounds : 3); round++)); do
		violate_all
		sample fold_read "$round" "$(seconds_of read_episodes)" -
		sample fold_wait_else "$round" "$(longest_call_while nothing "$round else")" -
		violate_all
		sample fold_wait "$round" "$(longest_call_while read_episodes "$round")" -
		violate_all
		ours=$(seconds_of stop_server)
		rm -f "$data/pg_stat/pgsql_tmp.ratelimit"
		pg_ctl -D "$data" -l "$server_log" -w start >/dev/null
		theirs=$(seconds_of stop_server)
		rm -f "$data/pg_stat/pgsql_tmp.ratelimit"
		pg_ctl -D "$data" -l "$server_log" -w start >/dev/null
		sample fold_stop "$round" "$(minus "$ours" "$theirs")" -
	done
	report fold_read fold_wait fold_wait_else fold_stop
	stop fold
}
