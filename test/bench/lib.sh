# test/bench/lib.sh: what the rows of the benchmark share.
#
# row, show, compare, sample, report
#               declare a row and its comparisons, take them round after round
# use, use_peers, use_redis, use_pgbouncer, install_node_modules
#               throwaway servers, started when a row first needs them
# rate, pgbench_rate, cpu_us, redis_rate, query_ns, in_turn
#               measurements; each prints one number
#
# A comparison is of two measurements, ours and theirs, taken alternately.  What
# is measured goes to $work/out: comparisons.tsv (id, target, unit, title),
# samples.tsv (id, round, ours, theirs), machine.txt.
# Each row runs in a process of its own, so rows share files and no variables.
# shellcheck shell=bash
# shellcheck disable=SC2034 # much is for the files that read this one

# shellcheck source=test/lib.sh
. "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../lib.sh"

bench=test/bench
# what full runs use; run's options change it.  Many short rounds rather than few long
# ones: what else the machine does then meets ours and theirs alike.
rounds=11
seconds=2			# of each measurement of a rate
warm_up=1			# seconds
calls=1000000		# in each query that is timed
few=200000			# in those that take turns: what a query finds outside of the caches is
					# a small part, and those that are compared follow each other closely
clients=8
pinned=yes			# clients and their backends to processors, see processors_used
per_second=			# calls that are due; empty: as many as can be
quick=

# Redis and PgBouncer, which lib.sh does not know, are stopped too, but after what
# uses them.
stop_helpers()
{
	local pidfile pid

	for pidfile in "$work"/*.helper; do
		[ -e "$pidfile" ] || continue
		pid=$(<"$pidfile")
		kill -TERM "$pid" 2>/dev/null && wait_until group_ended "$pid"
	done
	return 0
}

clean_up_all()
{
	local status=$?

	set +e
	if [ "$BASHPID" = $$ ] && [ "${work:-}" ]; then
		if [ "$child" ]; then
			kill -TERM -- "-$child" 2>/dev/null
			wait_until group_ended "$child"
		fi
		stop_helpers
	fi
	(exit "$status")
	clean_up
}
trap clean_up_all EXIT

# start_helper NAME COMMAND...: in a session, and so a process group, of its own
start_helper()
{
	local name=$1
	shift

	setsid "$@" >"$work/$name.log" 2>&1 &
	echo $! >"$work/$name.helper"
}

#
# Rows
#

row_names=()
declare -A row_when row_title

# row NAME quick|full TITLE: measured by the function row_NAME; quick: in quick
# runs as well
row()
{
	row_names+=("$1")
	row_when[$1]=$2
	row_title[$1]=$3
}

# show ID TARGET UNIT TITLE: the comparison that following samples are of.
# TARGET: of the ratio ours / theirs, ">= 3.5" or "<= 2", or - for none
show()
{
	printf '%s\t%s\t%s\t%s\n' "$@" >>"$work/out/comparisons.tsv"
}

# sample ID ROUND OURS THEIRS: THEIRS is - where a target is for OURS itself
sample()
{
	local number='^-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?$'

	[[ $3 =~ $number && $4 =~ ^-$|$number ]] ||
		fail "$1: not measured: \"$3\", \"$4\""
	printf '%s\t%s\t%s\t%s\n' "$@" >>"$work/out/samples.tsv"
}

# report ID...: print what the samples say
report()
{
	local id

	for id; do
		awk -f $bench/report.awk -v only="$id" -v format=text \
			"$work/out/comparisons.tsv" "$work/out/samples.tsv"
	done | tee -a "$work/out/report.txt"
}

# compare ID TARGET UNIT OURS THEIRS TITLE: OURS and THEIRS are commands that print
# a number; each round the other one begins
compare()
{
	local id=$1 ours=$4 theirs=$5 round a b

	show "$id" "$2" "$3" "$6"
	if [ "$warm_up" != 0 ]; then
		seconds=$warm_up $ours >/dev/null
		seconds=$warm_up $theirs >/dev/null
	fi
	for ((round = 1; round <= rounds; round++)); do
		if ((round % 2)); then
			a=$($ours)
			b=$($theirs)
		else
			b=$($theirs)
			a=$($ours)
		fi
		sample "$id" "$round" "$a" "$b"
	done
	report "$id"
}

#
# Servers
#

# A TCP port of this host that nobody listens on.
free_port()
{
	local port

	while :; do
		port=$((20000 + RANDOM % 12000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
	done
	echo "$port"
}

sql()
{
	psql -XqAt -v ON_ERROR_STOP=1 "$@"
}

# use NAME [SETTING...]: go on with the server of that name, which the first use
# starts with these settings
use()
{
	local name=$1
	shift

	export PGHOST=$work PGUSER=postgres PGDATABASE=postgres PGPORT
	if [ ! -e "$work/$name.port" ]; then
		PGPORT=$(free_port)
		start_server "$name" "port=$PGPORT" "shared_preload_libraries='ratelimit'" \
			fsync=on shared_buffers=512MB max_wal_size=4GB max_connections=200 "$@"
		sql -c 'CREATE EXTENSION ratelimit'
		echo "$PGPORT" >"$work/$name.port"
	fi
	PGPORT=$(<"$work/$name.port")
	data=$work/$name
}

# The server that most rows use, with the peers that live in tables.
use_peers()
{
	use peers "listen_addresses='127.0.0.1'"
	[ ! -e "$work/peers.ready" ] || return 0
	cat $bench/peers/*.sql | sql >/dev/null
	sql <<-'SQL'
		CREATE TABLE account AS SELECT i AS id, 'name ' || i AS name, i % 1000 AS balance
		FROM generate_series(1, 100000) i;
		ALTER TABLE account ADD PRIMARY KEY (id);
		CREATE TABLE client AS SELECT 'user:' || i AS key, 'name ' || i AS name, i % 1000 AS balance
		FROM generate_series(1, 10000) i;
		ALTER TABLE client ADD PRIMARY KEY (key);
		VACUUM ANALYZE account, client;
		DO $$ BEGIN
			PERFORM rl_consume('user:' || i, 1, 1e-6, 1, 'dry') FROM generate_series(1, 10000) i;
		END $$;
	SQL
	touch "$work/peers.ready"
}

# stop NAME: and remove a server
stop()
{
	[ -e "$work/$1/postmaster.pid" ] || return 0
	data=$work/$1
	stop_server
	rm -rf "${work:?}/$1" "$work/$1.port"
}

stop_servers()
{
	local pidfile

	for pidfile in "$work"/*/postmaster.pid; do
		[ ! -e "$pidfile" ] || stop "$(basename "$(dirname "$pidfile")")"
	done
	stop_helpers
}

# set_and_reload SETTING VALUE: of the server in use
set_and_reload()
{
	sql -c "ALTER SYSTEM SET $1 = $2" -c 'SELECT pg_reload_conf()' >/dev/null
	wait_until setting_is "$1" "$2" || fail "setting $1 did not take effect"
}

# exists FUNCTION: in the server in use
exists()
{
	[ "$(sql -c "SELECT count(*) FROM pg_proc WHERE proname = '$1'")" != 0 ]
}

setting_is()
{
	[ "$(sql -c "SELECT setting FROM pg_settings WHERE name = '$1'")" = "$2" ]
}

redis()
{
	redis-cli -s "$work/redis.sock" "$@"
}

redis_answers()
{
	[ "$(redis ping 2>/dev/null)" = PONG ]
}

# Debian has the server's program in the package of its tools, under another name:
# no service is installed for it.  Nothing is written to disk.
use_redis()
{
	local script

	[ ! -e "$work/redis.port" ] || return 0
	free_port >"$work/redis.new"
	ln -s "$(command -v redis-check-rdb)" "$work/redis-server"
	start_helper redis "$work/redis-server" --port "$(<"$work/redis.new")" \
		--bind 127.0.0.1 --unixsocket "$work/redis.sock" --save '' --appendonly no \
		--dir "$work"
	wait_until redis_answers || {
		cat "$work/redis.log" >&2
		fail "Redis did not start"
	}
	for script in token_bucket gcra; do
		redis script load "$(cat $bench/peers/$script.lua)" >"$work/$script.sha"
	done
	mv "$work/redis.new" "$work/redis.port"
}

pgbouncer_answers()
{
	psql -h "$work" -p "$1" -XqAtc 'SELECT 1' >/dev/null 2>&1
}

# In front of the server in use; sets pgbouncer_port.
use_pgbouncer()
{
	pgbouncer_port=$(free_port)
	get_pgbouncer || {
		cat "$work/pgbouncer.log" >&2
		fail "cannot get PgBouncer"
	}
	cat >"$work/pgbouncer.ini" <<-INI
		[databases]
		postgres = host=$work port=$PGPORT user=postgres
		[pgbouncer]
		listen_port = $pgbouncer_port
		unix_socket_dir = $work
		auth_type = any
		pool_mode = transaction
		default_pool_size = $clients
		ignore_startup_parameters = extra_float_digits
	INI
	start_helper pgbouncer "$pgbouncer" "$work/pgbouncer.ini"
	wait_until pgbouncer_answers "$pgbouncer_port" || {
		cat "$work/pgbouncer.log" >&2
		fail "PgBouncer did not start"
	}
}

# Exactly what package-lock.json names; no script of a package is run.
install_node_modules()
{
	[ ! -e $bench/node/node_modules ] || return 0
	(cd $bench/node && npm ci --ignore-scripts --no-audit --no-fund) >"$work/npm.log" 2>&1 || {
		cat "$work/npm.log" >&2
		fail "npm ci failed"
	}
}

#
# Measurements
#

# To each processor as many clients as to the next, and every client's backend beside
# it.  Else the scheduler's choice at the start of a run, which may have every query
# wake the other processor, decides more than what is measured.
processors_used()
{
	local all

	all=$(nproc)
	[ "$pinned" ] || all=1
	echo $((clients < all ? clients : all))
}

backends_are()
{
	[ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE application_name ~ '^on processor '")" = "$1" ]
}

# Put the backends of pgbench_rate's clients beside them, once all are there.
pin_backends()
{
	local pid processor

	wait_until backends_are "$1" || return 0
	sql -F ' ' -c "SELECT pid, substring(application_name FROM '[0-9]+') FROM pg_stat_activity
		WHERE application_name ~ '^on processor '" |
		while read -r pid processor; do
			taskset -cp "$processor" "$pid" >/dev/null || [ ! -e "/proc/$pid" ]
		done
}

# pgbench_rate OPTION...: transactions a second; if per_second is set, so many are
# due
pgbench_rate()
{
	local folder n i jobs=2 pids=() options=() status=0

	folder=$(mktemp -d "$work/pgbench.XXXXXX")
	n=$(processors_used)
	[ ! "$pinned" ] && [ "$clients" -gt 1 ] || jobs=1
	[ ! "$per_second" ] || options=(-R $((per_second / n)))
	for ((i = 0; i < n; i++)); do
		# the first ones have one more, if it does not come out even
		options+=(-c $((clients / n + (i < clients % n))) -j "$jobs")
		PGAPPNAME=${pinned:+on processor $i} ${pinned:+taskset -c $i} \
			pgbench -n -M prepared -T "$seconds" "${options[@]}" "$@" >"$folder/$i" 2>&1 &
		pids+=($!)
	done
	[ ! "$pinned" ] || pin_backends "$clients"
	for i in "${pids[@]}"; do
		wait "$i" || status=$?
	done
	if [ $status != 0 ] ||
		[ "$(cat "$folder"/* | grep -c '^number of failed transactions: 0 ')" != "$n" ]; then
		cat "$folder"/* >&2
		fail "pgbench failed"
	fi
	cat "$folder"/* | awk '/^tps = / { sum += $3 } END { print sum }'
	rm -r "$folder"
}

# rate SCRIPT [OPTION...]: of pgbench/SCRIPT.sql, on 10,000 keys unless options say
# otherwise
rate()
{
	local script=$1
	shift

	pgbench_rate -D keys=10000 -f "$bench/pgbench/$script.sql" "$@"
}

# rate_with SETTING=VALUE SCRIPT: with a setting for its sessions
rate_with()
{
	PGOPTIONS="-c $1" rate "$2"
}

# Of the server in use: clock ticks that its finished processes have run.
finished_ticks()
{
	local stat

	stat=$(<"/proc/$(head -n 1 "$data/postmaster.pid")/stat")
	# what follows the name; it may have blanks in it
	awk '{ print $14 + $15 }' <<<"${stat##*) }"
}

no_clients()
{
	[ "$(sql -c "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")" = 1 ]
}

# cpu_us SCRIPT: microseconds of processor time a call that the server takes for it,
# whatever else the machine does
cpu_us()
{
	local before calls_per_second

	before=$(finished_ticks)
	calls_per_second=$(rate "$1")
	wait_until no_clients
	awk -v b="$before" -v a="$(finished_ticks)" -v hz="$(getconf CLK_TCK)" \
		-v n="$calls_per_second" -v s="$seconds" 'BEGIN { print (a - b) / hz * 1e6 / (n * s) }'
}

# redis_rate SCRIPT KEYS PIPELINED [tcp]: calls a second; redis-benchmark counts
# calls, not seconds: the last rate of its kind says how many to make
redis_rate()
{
	local known=$work/redis_rate.$1.$2.$3.${4:-socket} at=(-s "$work/redis.sock") rate n=20000

	[ ! "${4:-}" ] || at=(-h 127.0.0.1 -p "$(<"$work/redis.port")")
	[ ! -e "$known" ] || n=$(awk -v s="$seconds" '{ printf "%d", $1 * s }' "$known")
	redis-benchmark "${at[@]}" --csv -c "$clients" -P "$3" -n "$n" -r "$2" \
		EVALSHA "$(<"$work/$1.sha")" 1 "$1:__rand_int__" 1000000000 1 1 \
		>"$work/redis-benchmark.log" 2>&1 || {
		cat "$work/redis-benchmark.log" >&2
		fail "redis-benchmark failed"
	}
	rate=$(awk -F '","' 'END { print $2 }' "$work/redis-benchmark.log")
	if [ -e "$known" ]; then
		echo "$rate" | tee "$known"
	else
		echo "$rate" >"$known"
		redis_rate "$@"
	fi
}

# Conditions on a row of the table calls: what a query checks for every row.
# $run: unlike in each run of the query.
declare -A condition=(
	[floor]="length(many) > 0"
	[nextval]="length(many) > 0 AND nextval('counter') > 0"
	[hot]="length(many) > 0 AND rl_consume(one, 1e9, 1)"
	[many]="length(many) > 0 AND rl_consume(many, 1e9, 1)"
	[living]="length(many) > 0 AND rl_consume(many, 1e9, 1e-4)"
	[denied]="length(many) > 0 AND NOT rl_consume(one, 1, 1e-6, 1, 'dry')"
	[denied_many]="length(many) > 0 AND NOT rl_consume(many, 1, 1e-6, 1, 'dry')"
	[first]="length(many) > 0 AND rl_consume(each, 1e9, 1e3, 1, :'run')"
	[policy]="length(many) > 0 AND rl_consume_policy('plan', one)"
	[tiers]="length(many) > 0 AND rl_consume_policy('tiers', one)"
	[acquire]="length(many) > 0 AND rl_release(rl_acquire(one, 10))"
	[acquire_policy]="length(many) > 0 AND rl_release(rl_acquire_policy('slots', one))"
	[renew]="length(many) > 0 AND rl_renew((SELECT rl_acquire('renewed', 1000000, hold => '1 hour')), '1 hour')"
	[initial]="length(many) > 0 AND rl_consume_policy('initial', one)"
	[policies]="length(many) > 0 AND (rl_consume_policies('{plan,plan}', ARRAY[one, 'all']))[1].allowed"
	[throttle_each]="length(many) > 0 AND (rl_throttle_each(ARRAY[one, 'all'], '{1e9,1e9}', '{1,1}'))[1].allowed"
	[policy_many]="length(many) > 0 AND rl_consume_policy('plan', many)"
	[policy_v4]="length(v4) > 0 AND rl_consume_policy('plan', v4)"
	[policy_v6]="length(v6) > 0 AND rl_consume_policy('plan', v6)"
	[book]="length(many) > 0 AND rl_book(one, 1e9, 1) IS NOT NULL"
	[reserve]="length(many) > 0 AND rl_settle(rl_reserve(one, 1e9, 1, 2), 1) > 0"
	[reserve_policy]="length(many) > 0 AND rl_settle(rl_reserve_policy('plan', one, 2), 1) > 0"
	[throttle]="length(many) > 0 AND (rl_throttle(one, 1e9, 1)).allowed"
	[period]="length(many) > 0 AND rl_consume_period(one, 1e9, 'day')"
	[period_many]="length(many) > 0 AND rl_consume_period(many, 1e9, 'day')"
	[period_zone]="length(many) > 0 AND rl_consume_period(one, 1e9, 'month Europe/Berlin')"
	[period_throttle]="length(many) > 0 AND (rl_throttle_period(one, 1e9, 'day')).allowed"
	[period_peek]="length(many) > 0 AND (rl_peek_period(one, 1e9, 'day')).allowed"
	[count]="length(many) > 0 AND (rl_count(one, 'day', 1, 'count')).hits > 0"
)

# make_calls N [KEYS]: the table calls, of so many rows, in a schema of the server
# in use; many: one of KEYS keys by chance
make_calls()
{
	local keys=${2:-10000}

	sql <<-SQL
		CREATE SEQUENCE counter;
		CREATE TABLE calls AS
			SELECT 'user:' || 1 + (random() * $keys)::int % $keys AS many,
				'user:1' AS one, 'user:' || i AS each
			FROM generate_series(1, $1) i;
		VACUUM ANALYZE calls;
		INSERT INTO rate_limit_policies (policy, capacity, slots) VALUES ('slots', 10, true);
		INSERT INTO rate_limit_policies (policy, tier, capacity, refill, initial) VALUES
			('plan', 'default', 1e9, 1, NULL), ('initial', 'default', 1e9, 1, 5e8),
			('tiers', 'second', 1e9, 1, NULL), ('tiers', 'hour', 1e9, 2, NULL)
			ON CONFLICT DO NOTHING;
	SQL
}

# query_ns CONDITION ROWS: nanoseconds a row that a query takes to check it; of
# processor time, as that has no time in it in which others were running
query_ns()
{
	psql -XqAt -v ON_ERROR_STOP=1 -v run="$RANDOM" >"$work/query.log" 2>&1 <<-SQL
		SET max_parallel_workers_per_gather = 0;
		SET jit = off;
		SET client_min_messages = log;
		SET log_executor_stats = on;
		SELECT count(*) FROM calls WHERE ${condition[$1]};
	SQL
	awk -v n="$2" '/ s user, .* s system, .* s elapsed/ { print ($2 + $5) * 1e9 / n; exit }' \
		"$work/query.log"
}

# in_turn PASSES ROWS CONDITION...: the same of several conditions, one a line.  Their queries
# take turns, PASSES times, and the median of each counts: what else the host does lasts longer
# than a short query, so it meets all of them alike.  CONNECTION/CONDITION, with a string of
# libpq's, is one in another session, which has executed it before.
in_turn()
{
	local passes=$1 rows=$2 pass name select
	shift 2

	for ((pass = 1; pass <= passes; pass++)); do
		echo "\\set run $RANDOM$pass"
		for name; do
			select="SELECT count(*) FROM calls WHERE ${condition[${name#*/}]};"
			[[ $name != */* ]] || printf '%s\n' "\\connect \"${name%/*}\"" "$select"
			printf '%s\n' "SET log_executor_stats = on;" "$select" "RESET log_executor_stats;"
		done
	done | PGOPTIONS='-c max_parallel_workers_per_gather=0 -c jit=off -c client_min_messages=log' \
		psql -XqAt -v ON_ERROR_STOP=1 >"$work/query.log" 2>&1
	awk -v names="$#" -v rows="$rows" -v passes="$passes" '
		/ s user, .* s system, .* s elapsed/ { t[n % names, int(n / names)] = ($2 + $5) * 1e9 / rows; n++ }
		END {
			if (n != names * passes)
				exit 1
			for (i = 0; i < names; i++) {
				# insertion sort
				for (j = 1; j < passes; j++) {
					x = t[i, j]
					for (k = j - 1; k >= 0 && t[i, k] > x; k--)
						t[i, k + 1] = t[i, k]
					t[i, k + 1] = x
				}
				print (t[i, int((passes - 1) / 2)] + t[i, int(passes / 2)]) / 2
			}
		}' "$work/query.log"
}

minus()
{
	awk -v a="$1" -v b="$2" 'BEGIN { print a - b }'
}
