# test/bench/rows/python.sh: one Python process with asyncio, 32 callers at a time, against the
# package limits.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of lib.sh

use_python()
{
	process="one Python process with asyncio"
	use_peers
	use_redis
	install_limits
}

# limits with a storage for asyncio on Redis that Debian has a driver for: Debian 13 has both.
# Debian 12 has an older one, whose driver it lacks, so there they are taken from Debian 13.
# Both are Python only.
install_limits()
{
	local package checksum

	[ ! -e "$work/limits" ] || return 0
	mkdir "$work/limits"
	! /usr/bin/python3 -c 'import limits.aio.storage.redis.redispy, redis.asyncio' 2>/dev/null || return 0
	while read -r package checksum; do
		/usr/lib/apt/apt-helper download-file "http://deb.debian.org/debian/pool/main/p/$package" \
			"$work/limits.deb" "SHA256:$checksum" >"$work/download.log" 2>&1 || {
			cat "$work/download.log" >&2
			fail "cannot get $package"
		}
		dpkg-deb -x "$work/limits.deb" "$work/limits"
	done <<-'LIST'
		python-limits/python3-limits_4.4.1-3_all.deb b475b7e15841c10d0094b35a178755aa5a08379264075905d1563ea936e6192b
		python-redis/python3-redis_6.1.0-2_all.deb 85b4ab406ee9dc03a0474cf6b9c0b178d0124a9196e2d8ad7fc4c3a988e924e4
	LIST
}

# load_python OPTION...: into $work/load
load_python()
{
	REDIS_SOCKET=$work/redis.sock PYTHONPATH=$work/limits/usr/lib/python3/dist-packages \
		/usr/bin/python3 -B "$bench"/python/load.py "$@" >"$work/load"
}

row python quick "gathered calls in Python against limits on Redis"
row_python()
{
	use_python
	load_python "$rounds" "$seconds" batched batched_asyncpg limits_redis
	compare_modes python '>= 1.5' batched limits_redis \
		"rl_consume_each, calls of a turn gathered, psycopg, against limits on Redis"
	compare_modes python_asyncpg - batched_asyncpg limits_redis \
		"rl_consume_each, calls of a turn gathered, asyncpg, against limits on Redis"
}

row python_leased full "tokens in portions in Python against limits on Redis"
row_python_leased()
{
	use_python
	load_python "$rounds" "$seconds" leased_hot leased limits_redis
	compare_modes python_leased '>= 10' leased_hot limits_redis \
		"rl_consume_upto, portions, against limits on Redis" "one key, there 10k"
	compare_modes python_leased_many - leased limits_redis \
		"rl_consume_upto, portions, against limits on Redis"
}

row python_latency full "latency in Python at half the maximum of Redis"
row_python_latency()
{
	local per_second

	use_python
	load_python 1 "$seconds" limits_redis
	per_second=$(awk '{ printf "%d", $3 / 2 }' "$work/load")
	load_python --rate "$per_second" "$rounds" "$seconds" batched batched_asyncpg limits_redis
	compare_latencies python_latency '<= 1' batched limits_redis "$per_second" \
		"rl_consume_each, calls of a turn gathered, psycopg, against limits on Redis"
	compare_latencies python_latency_asyncpg - batched_asyncpg limits_redis "$per_second" \
		"rl_consume_each, calls of a turn gathered, asyncpg, against limits on Redis"
}
