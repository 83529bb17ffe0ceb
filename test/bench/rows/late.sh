# test/bench/rows/late.sh: a server that makes shared memory without preloading, against
# one that preloads the library, alternately.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

# without_preloading MEASURE...: on the server that does not preload
without_preloading()
{
	use_late
	"$@"
}

# preloaded MEASURE...: on the one that does
preloaded()
{
	use preloaded
	"$@"
}

use_late()
{
	# the last of two lines counts
	use late "shared_preload_libraries=''"
}

row late quick "without preloading (PostgreSQL 17 and later) against preloaded"
row_late()
{
	local round name ns servers=()

	if [ "$("$PG_CONFIG" --version | grep -cE '^PostgreSQL (1[7-9]|[2-9][0-9])')" = 0 ]; then
		echo "late: not before PostgreSQL 17"
		return 0
	fi
	use_late
	use preloaded
	compare late '>= 0.97' /s "without_preloading rate consume" "preloaded rate consume" \
		"rl_consume without preloading against preloaded: 8 clients, 10k keys"
	for name in use_late "use preloaded"; do
		$name
		make_calls "$few"
		servers+=("port=$PGPORT dbname=postgres")
	done
	show late_hot '<= 1.03' ' ns' "the same: a call in one query, one key"
	show late_many '<= 1.03' ' ns' "the same: a call in one query, 10k keys"
	for ((round = 0; round <= rounds; round++)); do
		for name in hot many; do
			mapfile -t ns < <(in_turn 10 "$few" "${servers[0]}/floor" "${servers[0]}/$name" \
				"${servers[1]}/floor" "${servers[1]}/$name")
			[ "$round" = 0 ] || sample "late_$name" "$round" \
				"$(minus "${ns[1]}" "${ns[0]}")" "$(minus "${ns[3]}" "${ns[2]}")"
		done
	done
	report late_hot late_many
}
