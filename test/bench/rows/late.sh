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

# Time of a call inside one query, without the query
call_ns()
{
	[ -e "$work/$(basename "$data").calls" ] || make_calls "$calls"
	touch "$work/$(basename "$data").calls"
	minus "$(query_ns "$1" "$calls")" "$(query_ns floor "$calls")"
}

row late quick "without preloading (PostgreSQL 17 and later) against preloaded"
row_late()
{
	if [ "$("$PG_CONFIG" --version | grep -cE '^PostgreSQL (1[7-9]|[2-9][0-9])')" = 0 ]; then
		echo "late: not before PostgreSQL 17"
		return 0
	fi
	use_late
	use preloaded
	compare late '>= 0.97' /s "without_preloading rate consume" "preloaded rate consume" \
		"rl_consume without preloading against preloaded: 8 clients, 10k keys"
	compare late_hot '<= 1.03' ' ns' "without_preloading call_ns hot" "preloaded call_ns hot" \
		"the same: a call in one query, one key"
	compare late_many '<= 1.03' ' ns' "without_preloading call_ns many" "preloaded call_ns many" \
		"the same: a call in one query, 10k keys"
}
