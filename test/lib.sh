# test/lib.sh: what test/run and test/demo share.
#
# enter     installs what is missing, copies the checkout to a throwaway folder
#           and goes on there, as an ordinary user, in a clean environment
# build     builds the copy against a private copy of PostgreSQL in that folder
# start_server, stop_server
#           throwaway servers, reached through a socket in that folder
# get_pgbouncer
#           PgBouncer, without its service
# step      runs a command so that an interruption does not wait for it
#
# The system's own PostgreSQL is only read.  However a script ends, its processes are stopped
# and the folder is removed.
# shellcheck shell=bash
set -euo pipefail

fail()
{
	echo "test/${0##*/}: $*" >&2
	exit 1
}

child=		# process group of the running step

step()
{
	local status=0

	set -m
	"$@" &
	child=$!
	set +m
	wait "$child" || status=$?
	child=
	return "$status"
}

# Repeat a command until it succeeds, for ten seconds at most.
wait_until()
{
	local i

	for ((i = 0; i < 100; i++)); do
		"$@" && return 0
		sleep 0.1
	done
	return 1
}

# Does no process of the group run?  Zombies do not count, because an init may be slow to reap
# them.
group_ended()
{
	! grep -qsE "^[0-9]+ \(.*\) [^ZX] [0-9]+ $1 " /proc/[0-9]*/stat
}

clean_up()
{
	local status=$? pidfile

	[ "$BASHPID" = $$ ] || exit "$status"
	trap - EXIT
	trap '' INT TERM HUP
	if [ "$child" ]; then
		kill -TERM -- "-$child" 2>/dev/null || true
		wait_until group_ended "$child" || kill -KILL -- "-$child" 2>/dev/null || true
	fi
	if [ "${bindir:-}" ]; then
		while read -r pidfile; do
			"$bindir/pg_ctl" -D "$(dirname "$pidfile")" -m immediate stop || true
		done < <(find "$work" -name postmaster.pid)
	fi >/dev/null 2>&1
	if [ "${work:-}" ]; then
		cd /
		rm -rf "$work"
	fi
	exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

as_root()
{
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# install_missing PACKAGE...
install_missing()
{
	local package missing=()

	for package; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
			missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0

	if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
		fail "packages are missing, and only root can install them, as there is no sudo here. Run this as root, or let root run: apt-get install --no-install-recommends ${missing[*]}"
	fi
	echo "installing ${missing[*]}"
	if ! { as_root apt-get -q update &&
		as_root env DEBIAN_FRONTEND=noninteractive \
			apt-get -q install -y --no-install-recommends "${missing[@]}"; } \
		>"$work/apt.log" 2>&1 </dev/null; then
		tail -n 30 "$work/apt.log" >&2
		fail "apt-get failed"
	fi
}

# The packages of node-postgres, 12 MB to fetch.  There are none if a node that is not Debian's
# is installed: then NODE_PATH says where its modules are.
node_packages()
{
	if ! command -v node >/dev/null ||
		dpkg-query -W -f '${Version}' nodejs 2>/dev/null | grep -q dfsg; then
		echo nodejs node-pg
	fi
}

# The packages that the Python client works with, and pip
python_packages()
{
	echo python3 python3-psycopg python3-psycopg-pool python3-asyncpg python3-limits python3-flask-limiter python3-pip
}

# The packages that PgBouncer's own needs.  That one is not installed: get_pgbouncer()
pgbouncer_libraries()
{
	case $(. /etc/os-release && echo "$VERSION_ID") in
		12) echo "libevent-2.1-7 libc-ares2" ;;
		*) echo "libevent-2.1-7t64 libc-ares2" ;;
	esac
}

# PL/Proxy for the release's own PostgreSQL
plproxy_package()
{
	local package

	for package in $(postgresql_packages); do
		case $package in
			postgresql-[0-9]*) echo "$package-plproxy" ;;
		esac
	done
}

# The proxies that the gateway works with
gateway_packages()
{
	echo nginx-light haproxy caddy
}

# The packages of the release's own PostgreSQL.  There are none if PG_CONFIG names another one.
postgresql_packages()
{
	[ -z "${PG_CONFIG:-}" ] || return 0
	case $(. /etc/os-release && echo "$ID $VERSION_ID") in
		"debian 12") echo postgresql-15 postgresql-server-dev-15 ;;
		"debian 13") echo postgresql-17 postgresql-server-dev-17 ;;
		*) fail "neither Debian 12 nor 13: set PG_CONFIG to the pg_config to test with" ;;
	esac
}

# enter SCRIPT PACKAGES [ARGUMENT...]: returns in the copy, with $work set.  What is in
# optional_packages is installed, too, if that is possible.  If save_input
# is set, the original's standard input is in $work/input, and the script's function
# check_input has looked at it before anything is installed or built.
enter()
{
	local script packages=$2 postgresql run_as=() top log
	top=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
	script=$(realpath --relative-to="$top" "$1")
	shift 2

	if [ "${RATELIMIT_WORK:-}" ]; then
		work=$RATELIMIT_WORK
		cd "$work/ratelimit"
		return
	fi

	work=$(mktemp -d "${TMPDIR:-/tmp}/ratelimit.XXXXXX")
	if [ "${save_input:-}" ]; then
		cat >"$work/input"
		check_input
	fi

	postgresql=$(postgresql_packages)
	if command -v apt-get >/dev/null; then
		# shellcheck disable=SC2086 # lists of words
		install_missing $postgresql $packages
		# shellcheck disable=SC2086 # lists of words
		[ ! "${optional_packages:-}" ] || (install_missing $optional_packages) 2>/dev/null || true
	fi
	if [ "$postgresql" ]; then
		PG_CONFIG=/usr/lib/postgresql/${postgresql##*-}/bin/pg_config
	fi

	mkdir "$work/ratelimit"
	tar -C "$top" -cf - --exclude=./.git --exclude='*.o' \
		--exclude='*.so' --exclude='*.bc' --exclude=./results \
		--exclude=./output_iso --exclude=./tmp_check --exclude=./log . |
		tar -C "$work/ratelimit" -xf -

	# the recorded traffic is not part of the project; 001_access_log.pl uses it
	log=${RATELIMIT_ACCESS_LOG:-$top/../shared/data/access-log.tsv}
	if [ -r "$log" ]; then
		cp "$log" "$work/access-log.tsv"
		log=$work/access-log.tsv
	else
		log=
	fi

	if [[ ${RATELIMIT_CASSERT_DIR:-} == /* ]]; then
		mkdir -p "$RATELIMIT_CASSERT_DIR"
		[ "$(id -u)" != 0 ] || chown postgres: "$RATELIMIT_CASSERT_DIR"
	fi
	if [ "$(id -u)" = 0 ]; then
		chown -R postgres: "$work"
		run_as=(setpriv --reuid=postgres --regid=postgres --init-groups)
	fi
	cd "$work"
	exec "${run_as[@]}" env -i PATH="$PATH" HOME="$work" TMPDIR="$work" \
		TERM="${TERM:-dumb}" LC_ALL=C.UTF-8 RATELIMIT_WORK="$work" \
		PG_CONFIG="$PG_CONFIG" RATELIMIT_ACCESS_LOG="$log" \
		NODE_PATH="${NODE_PATH:-}" \
		RATELIMIT_FULL="${RATELIMIT_FULL:-}" \
		RATELIMIT_LATE="${RATELIMIT_LATE:-}" RATELIMIT_SERVERS="${RATELIMIT_SERVERS:-}" \
		RATELIMIT_SLOW="${RATELIMIT_SLOW:-}" \
		RATELIMIT_SEED="${RATELIMIT_SEED:-}" RATELIMIT_CORPUS="${RATELIMIT_CORPUS:-}" \
		RATELIMIT_COVERAGE="${RATELIMIT_COVERAGE:-}" \
		RATELIMIT_CASSERT_DIR="${RATELIMIT_CASSERT_DIR:-}" \
		RATELIMIT_OLD_PG_CONFIG="${RATELIMIT_OLD_PG_CONFIG:-}" \
		bash "$work/ratelimit/$script" "$@" </dev/null
}

# PostgreSQL finds its files relative to its programs, so a copy of its folders
# is an installation of its own.
#
# copy_postgresql PG_CONFIG: the copy's programs are in $work$(PG_CONFIG --bindir)
copy_postgresql()
{
	local kind folder

	for kind in bindir pkglibdir sharedir; do
		folder=$("$1" --$kind)
		mkdir -p "$work$folder"
		cp -a "$folder/." "$work$folder"
	done
	for kind in libdir includedir pkgincludedir includedir-server; do
		folder=$("$1" --$kind)
		[ -e "$work$folder" ] && continue
		mkdir -p "$(dirname "$work$folder")"
		ln -s "$folder" "$work$folder"
	done
}

# build_for PG_CONFIG
build_for()
{
	echo "building for $("$1" --version)"
	step make -s -j2 WERROR=1 PG_CONFIG="$1" all install >build.log 2>&1 || {
		cat build.log >&2
		fail "the build failed"
	}
}

# Sets PG_CONFIG and bindir to those of the copy; likewise the version to upgrade
# from, if there is one.
build()
{
	if [ "${RATELIMIT_OLD_PG_CONFIG:-}" ]; then
		copy_postgresql "$RATELIMIT_OLD_PG_CONFIG"
		RATELIMIT_OLD_PG_CONFIG=$work$("$RATELIMIT_OLD_PG_CONFIG" --bindir)/pg_config
		build_for "$RATELIMIT_OLD_PG_CONFIG"
		make -s PG_CONFIG="$RATELIMIT_OLD_PG_CONFIG" clean
	fi
	copy_postgresql "$PG_CONFIG"
	bindir=$work$("$PG_CONFIG" --bindir)
	export PG_CONFIG=$bindir/pg_config PATH=$bindir:$PATH
	build_for "$PG_CONFIG"
}

# start_server NAME [SETTING...]: programs that inherit PGHOST and PGUSER reach it.
start_server()
{
	local setting

	data=$work/$1
	server_log=$work/$1.log
	export PGHOST=$work PGUSER=postgres PGDATABASE=postgres
	shift
	step initdb -D "$data" -U postgres -A trust -E UTF8 --no-locale --no-sync \
		>"$work/initdb.log" 2>&1 || {
		cat "$work/initdb.log" >&2
		fail "initdb failed"
	}
	for setting in fsync=off "listen_addresses=''" \
		"unix_socket_directories='$work'" "$@"; do
		echo "$setting"
	done >>"$data/postgresql.conf"
	# in a session of its own, so that an interruption waits until it has started
	setsid -w pg_ctl -D "$data" -l "$server_log" -w start >/dev/null || {
		tail -n 30 "$server_log" >&2
		fail "the server did not start"
	}
}

stop_server()
{
	step pg_ctl -D "$data" -m fast -w stop >/dev/null
}

# Sets pgbouncer to the program.  It is taken from its package without installing that, as that
# would start a service.  False if it cannot be had, or lacks libraries: $work/pgbouncer.log.
get_pgbouncer()
{
	pgbouncer=$(command -v pgbouncer) || {
		pgbouncer=$work/pgbouncer/usr/sbin/pgbouncer
		(cd "$work" && apt-get -q download pgbouncer && dpkg-deb -x pgbouncer_*.deb pgbouncer)
	} >"$work/pgbouncer.log" 2>&1 && "$pgbouncer" --version >>"$work/pgbouncer.log" 2>&1
}
