# test/clients/suites/run.sh: the suites that the packages publish for which clients/ has stores,
# run with those stores.  run_suites prints the cases that do not hold, and for each suite a
# line "SUITE: N hold, M do not, F failed".
#
# A suite is fetched, at a version with a checksum, and runs twice: with the package's own
# store in memory, and with ours.  A case that holds with the first has to hold with the
# second, unless differences.tsv has it, with the reason: then it must not hold.
# docs/clients.md says how many there are.
# shellcheck shell=bash
# shellcheck disable=SC2154 # variables of test/lib.sh

suites=test/clients/suites

suite_packages()
{
	echo python3-pytest python3-pytest-asyncio python3-pytest-mock python3-hiro python3-flask-restful python3-psycopg
}

# fetch_source NAME VERSION SOURCE SHA256: into $work/suites/NAME-VERSION
fetch_source()
{
	local archive=$work/suites/$1.tar.gz

	/usr/lib/apt/apt-helper download-file \
		"http://deb.debian.org/debian/pool/main/$3/$(basename "$3")_$2.orig.tar.gz" "$archive" "SHA256:$4" \
		>"$work/suites/fetch.log" 2>&1 || {
		tail -n 5 "$work/suites/fetch.log" >&2
		return 1
	}
	tar -C "$work/suites" -xzf "$archive"
}

# with_store own|ours SUITE: its cases, to $work/suites/SUITE.STORE
with_store()
{
	local cases=$work/suites/$2.$1 file

	export RATELIMIT_SUITE=$1 RATELIMIT_CASES=$cases
	: >"$cases"
	case $2 in
		fastify_rate_limit)
			for file in "$work"/node/node_modules/@fastify/rate-limit/test/*.test.js \
				"$work"/node/node_modules/@fastify/rate-limit/test/*/*.test.js; do
				timeout 120 node --require "./$suites/fastify_rate_limit.js" \
					--test-reporter="./$suites/cases.mjs" "$file" >>"$cases" || true
			done
			;;
		limits)
			run_pytest limits-4.4.1 -k in-memory tests/test_storage.py tests/test_strategy.py tests/aio/test_storage.py \
				tests/aio/test_strategy.py tests/integration
			;;
		flask_limiter)
			run_pytest flask-limiter-3.12 tests
			;;
	esac >>"$work/suites/$2.$1.log" 2>&1
}

# run_pytest FOLDER ARGUMENT...
run_pytest()
{
	(cd "$work/suites/$1" &&
		PYTHONPATH=.:$work/suites/limits-4.4.1:$work/ratelimit/clients/python:$work/ratelimit/$suites \
			timeout 600 /usr/bin/python3 -B -m pytest -p limits_storage -p no:cacheprovider -c /dev/null --rootdir . \
			-o asyncio_mode=auto -o addopts= "${@:2}") || true
}

run_suites()
{
	local suite try

	mkdir -p "$work/suites"
	gcc -shared -fPIC -O1 -o "$work/seam.so" test/seam/seam.c -ldl
	truncate -s $((8 * 12)) "$work/seam"
	export RATELIMIT_SEAM=$work/seam
	LD_PRELOAD=$work/seam.so start_server peers shared_preload_libraries=ratelimit max_connections=200
	psql -Xqc 'CREATE EXTENSION ratelimit' >/dev/null
	fetch_source limits 4.4.1 p/python-limits d1540807588915a8fd0fb8e7cb82067a9ee910418022f88f26819cf4921e51bb
	fetch_source flask_limiter 3.12 f/flask-limiter 3f2065ac60a4f3012ef833e55bfd74c7d93dc7844803566df705b9a0d108f0c9
	for suite in fastify_rate_limit limits flask_limiter; do
		if [ "$suite" = fastify_rate_limit ] && ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)'; then
			echo "$suite is skipped: it needs Node 20"
			continue
		fi
		# some cases sleep, and are late where much else is running
		for try in 1 2 3; do
			with_store ours "$suite"
			with_store own "$suite"
			awk -v suite="$suite" -f "$suites/compare.awk" $suites/differences.tsv \
				"$work/suites/$suite.own" "$work/suites/$suite.ours" >"$work/suites/$suite.result"
			# the table of docs/clients.md has a line for each: name, how many hold, and how many do not
			grep -q "^| [^|]* | $(sed -nE '$s/.*: ([0-9]+) hold, ([0-9]+) do not.*/\1 | \2 |/p' "$work/suites/$suite.result")" docs/clients.md ||
				sed -i '1i not ok: docs/clients.md says something else' "$work/suites/$suite.result"
			grep -q '^not ok' "$work/suites/$suite.result" || break
			echo "$suite: try $try has failed"
		done
		cat "$work/suites/$suite.result"
	done
	stop_server
}
