# test/bench/rows/latency.sh: latency at a fixed rate, half of the maximum.  From the
# moment a call was due, so a call that waits for another one counts its wait.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

# latencies SCRIPT RATE: p50, p99, p99.9 in microseconds
latencies()
{
	local folder

	folder=$(mktemp -d "$work/latency.XXXXXX")
	per_second=$2 pgbench_rate -D keys=10000 -f "$bench/pgbench/$1.sql" \
		--log --log-prefix "$folder/log" >/dev/null
	sort -n -k 3,3 "$folder"/log.* | awk '
		{ us[NR] = $3 }
		END { print us[int(NR * 0.5) + 1], us[int(NR * 0.99) + 1], us[int(NR * 0.999) + 1] }'
	rm -r "$folder"
}

# latency ID THEIRS MAXIMUM_OF TITLE: both at half of the maximum of MAXIMUM_OF
latency()
{
	local round due ours theirs p ids=()

	use_peers
	due=$(rate "$3" | awk '{ printf "%d", $1 / 2 }')
	for p in 50 99 99.9; do
		ids+=("${1}_p$p")
		show "${1}_p$p" - ' us' "p$p of latency, $4, at $due calls/s: 8 clients, 10k keys"
	done
	for ((round = 1; round <= rounds; round++)); do
		read -r -a ours <<<"$(latencies consume "$due")"
		read -r -a theirs <<<"$(latencies "$2" "$due")"
		for p in 0 1 2; do
			sample "${ids[p]}" "$round" "${ours[p]}" "${theirs[p]}"
		done
	done
	report "${ids[@]}"
}

row latency quick "latency at half the maximum, against SELECT length(...)"
row_latency()
{
	latency latency floor consume "rl_consume against SELECT length(...)"
}

row latency_more full "the same against peers in tables"
row_latency_more()
{
	latency latency_plpgsql plpgsql plpgsql "rl_consume against the PL/pgSQL row-lock bucket"
	latency latency_three three_statements three_statements "rl_consume against a transaction of three statements"
}
