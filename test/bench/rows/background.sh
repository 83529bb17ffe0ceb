# test/bench/rows/background.sh: calls while something else goes on: flushes, saves, a
# spray of new keys, too little memory.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

# What a flush has to write: 16,000 keys of one gateway.  Reported, so that making
# them takes no more than a statement.
fill_pending()
{
	sql -c "SELECT count(rl_report('key ' || i, 'ip', 1)) FROM generate_series(1, 16000) i"
}

# rate_while STATEMENT: of calls while 16,000 violations are reported and the
# statement is executed, each second
rate_while()
{
	local i

	sql -c 'SELECT rl_flush()' >/dev/null
	fill_pending >/dev/null
	{
		for ((i = 0; i < seconds; i++)); do
			sql -c "$1" -c 'SELECT pg_sleep(0.9)'
			fill_pending
		done
	} >/dev/null &
	rate consume
	wait $!
}

rate_while_flushing()
{
	rate_while 'SELECT rl_flush()'
}

rate_while_reporting()
{
	rate_while 'SELECT 0'
}

row flush quick "during a flush of 16k violations each second"
row_flush()
{
	use flush ratelimit.flush_interval=3600
	compare flush '>= 0.9' /s rate_while_flushing rate_while_reporting \
		"rl_consume while 16k violations are reported and flushed each second, against reported only: 8 clients, 10k keys"
	stop flush
}

# rate_saving SECONDS: of calls while state is saved every so many seconds; 0: never
rate_saving()
{
	local before

	set_and_reload ratelimit.save_interval "$1"
	before=$(mktemp "$work/before.XXXXXX")
	rate consume
	if [ "$1" != 0 ] && [ ! "$(find "$data" -name '*ratelimit*' -newer "$before")" ]; then
		fail "no state was saved"
	fi
}

row save quick "during saves of 1M buckets"
row_save()
{
	use save ratelimit.max_buckets=1500000
	[ "$(sql -c "SELECT count(*) FROM pg_settings WHERE name = 'ratelimit.save_interval'")" = 1 ] || {
		echo "save: not there yet (ratelimit.save_interval)"
		stop save
		return 0
	}
	sql -c "SELECT count(rl_consume('living:' || i, 1e9, 1e-4)) FROM generate_series(1, 1000000) i" >/dev/null
	compare save '>= 0.9' /s "rate_saving 1" "rate_saving 0" \
		"rl_consume while 1M buckets are saved each second, against not: 8 clients, 10k keys"
	stop save
}

# Of the server in use: for each process, its number and its memory that it does not
# share, in kB.
private_memory()
{
	local pid

	# a process may end while they are read
	for pid in $(pgrep -P "$(head -n 1 "$data/postmaster.pid")"); do
		awk -v pid="$pid" '/^RssAnon:/ { print pid, $2 }' "/proc/$pid/status" 2>/dev/null || true
	done
}

# private_memory's at two times, of those that were there both times: "late early" in MB
compare_memory()
{
	awk 'NR == FNR { at_first[$1] = $2; next }
		$1 in at_first { late += $2; early += at_first[$1] }
		END { print late / 1024, early / 1024 }' "$1" "$2"
}

# spray_rate SCRIPT: calls a second to legitimate keys, of 4 clients, while 4 others
# make 5000 calls a second of their own; what those calls are, SCRIPT says.  Early
# and late memory go to $work/spray.early and .late.
spray_rate()
{
	local log=$work/legitimate.log

	pgbench -n -M prepared -c 4 -T "$seconds" -R 5000 -D keys=1000 \
		-f "$bench/pgbench/$1.sql" >"$work/$1.log" 2>&1 &
	pgbench -n -M prepared -c 4 -T "$seconds" -f "$bench/pgbench/legitimate.sql" >"$log" 2>&1 &
	# into the load, not waiting for it
	sleep "$(awk -v s="$seconds" 'BEGIN { print s / 4 }')"
	private_memory >"$work/spray.early"
	sleep "$(awk -v s="$seconds" 'BEGIN { print s / 2 }')"
	private_memory >"$work/spray.late"
	wait
	grep -q '^number of failed transactions: 0 ' "$work/$1.log" "$log" || {
		cat "$work/$1.log" "$log" >&2
		fail "pgbench failed"
	}
	sed -n 's/^number of transactions actually processed: //p' "$log" >>"$work/legitimate.calls"
	sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$log"
}

row spray quick "legitimate keys while new keys come 5000 times a second"
row_spray()
{
	local round ours theirs memory

	[ "$seconds" -ge 2 ] || seconds=2
	# a minute of it in a full run
	[ "$quick" ] || [ $((seconds * rounds)) -ge 60 ] || seconds=$(((59 + rounds) / rounds))
	use spray ratelimit.max_buckets=16384
	show spray '>= 0.9' /s "rl_consume of 1000 legitimate keys while 5000 new keys a second come, against 5000 calls a second to usual keys: max_buckets 16384, 4 clients"
	show spray_memory '<= 1.1' ' MB' "private memory of the server's processes late in a spray against early in it"
	show spray_forgotten '<= 0' '' "calls of legitimate keys that their buckets (refill 0) do not hold after the spray"
	sql -c "SELECT count(rl_consume('customer:' || i, 1e9, 0, 1, 'legitimate')) FROM generate_series(1, 1000) i" >"$work/legitimate.calls"
	for ((round = 1; round <= rounds; round++)); do
		theirs=$(spray_rate consume)
		ours=$(spray_rate spray)
		read -r -a memory <<<"$(compare_memory "$work/spray.early" "$work/spray.late")"
		sample spray "$round" "$ours" "$theirs"
		sample spray_memory "$round" "${memory[@]}"
	done
	sample spray_forgotten 1 "$(minus "$(awk '{ n += $1 } END { printf "%d\n", n }' "$work/legitimate.calls")" \
		"$(sql -c "SELECT sum(1e9 - tokens)::bigint FROM rate_limit_status WHERE limiter = 'legitimate'")")" -
	report spray spray_memory spray_forgotten
	sql -c "SELECT '    new keys in memory ' || count(*) FILTER (WHERE store = 'memory') || ', in the table ' || count(*) FILTER (WHERE store = 'table')
		FROM rate_limit_status WHERE limiter = 'spray'" | tee -a "$work/out/report.txt"
	stop spray
}

row overflow full "overflow: nearly all buckets in the table"
row_overflow()
{
	use overflow ratelimit.max_buckets=256
	sql -f "$bench"/peers/plpgsql.sql -f "$bench"/peers/upsert.sql
	compare overflow '>= 1.6' /s "rate living" "rate plpgsql" \
		"rl_consume with room in memory for 256 buckets against the PL/pgSQL row-lock bucket: 8 clients, 10k keys"
	compare overflow_upsert '>= 1.25' /s "rate living" "rate upsert" \
		"the same against a single-statement upsert: 8 clients, 10k keys"
	compare overflow_hot '>= 1.25' /s "rate living -D keys=1" "rate upsert -D keys=1" \
		"the same on a hot key"
	stop overflow
}

# longest_call SECONDS: in ms, of two clients on buckets in the table, while the worker
# goes through it every so many seconds
longest_call()
{
	local folder

	set_and_reload ratelimit.flush_interval "$1"
	folder=$(mktemp -d "$work/longest.XXXXXX")
	pgbench -n -M prepared -c 2 -T "$seconds" -D rows="$clean_rows" \
		-f "$bench/pgbench/rows.sql" --log --log-prefix "$folder/log" >"$work/rows.log" 2>&1 || {
		cat "$work/rows.log" >&2
		fail "pgbench failed"
	}
	cat "$folder"/log.* | awk '$3 > most { most = $3 } END { print most / 1000 }'
	rm -r "$folder"
}

row clean full "the longest call while the worker cleans a table of 10M rows"
row_clean()
{
	local round ours theirs clean_rows=${CLEAN_ROWS:-10000000}

	[ "$seconds" -ge 10 ] || seconds=10
	use clean ratelimit.max_buckets=1024 ratelimit.flush_interval=3600 autovacuum=off shared_buffers=3GB
	# by hand, which is faster; they never refill, so all of them stay
	sql -c "INSERT INTO rate_limit_buckets SELECT 'default', 'row ' || i, 1e9, 0, 500000000, now() FROM generate_series(1, $clean_rows) i" \
		-c "CHECKPOINT"
	show clean '<= 20' ' ms' "the longest call of 2 clients in $seconds s while the worker goes through $clean_rows rows, again and again"
	show clean_idle - ' ms' "the same without it"
	longest_call 3600 >/dev/null
	for ((round = 1; round <= rounds; round++)); do
		theirs=$(longest_call 3600)
		ours=$(longest_call 1)
		sample clean "$round" "$ours" -
		sample clean_idle "$round" "$theirs" -
	done
	report clean clean_idle
	stop clean
}

row new_key full "a new key that finds no room in memory: what it takes beside its query"
row_new_key()
{
	local round clients=1

	use new_key ratelimit.max_buckets=1024
	sql -c "SELECT count(rl_consume('full:' || i, 10, 0)) FROM generate_series(1, 20000) i" >/dev/null
	show new_key '<= 40' ' us' "a call with a new key that finds no room in memory, less SELECT length(...): 1 client"
	for ((round = 1; round <= rounds; round++)); do
		sample new_key "$round" "$(minus "$(rate consume_new | awk '{ print 1e6 / $1 }')" "$(rate floor_new | awk '{ print 1e6 / $1 }')")" -
	done
	report new_key
}
