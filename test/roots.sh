# test/roots.sh: Debian roots in folders, for test/matrix/run, test/packages/run and test/release.
#
# bare SUITE [ARCHITECTURE]   $bare: a bare Debian, made by debootstrap if it is not there
# kept NAME BARE PACKAGE...   $root: BARE with packages, made if it is not there
# copy NAME FROM              $root: a copy, removed at the end
# checkout FOLDER             the committed files in a folder of $root
# in_root COMMAND...          run it in $root, in a clean environment
# check NAME COMMAND...       run it and count it; the log's end is shown if it fails
# report                      the last line, "N passed, M failed"
#
# Roots are in the folder RATELIMIT_ROOTS, and bare and kept ones stay there for the next run.
# Without it they are in a temporary folder that is removed.
# shellcheck shell=bash
set -euo pipefail

fail()
{
	echo "${0#"$top"/}: $*" >&2
	exit 1
}

top=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
[ "$(id -u)" = 0 ] || fail "only root can make a bare Debian"
work=$(mktemp -d /var/tmp/ratelimit-roots.XXXXXX)
roots=$(realpath -m "${RATELIMIT_ROOTS:-$work/kept}")
logs=$(realpath -m "${RATELIMIT_LOGS:-$work/logs}")
mkdir -p "$roots" "$logs"
# one at a time
exec 9>"$roots/lock"
flock 9
binfmt=()
passed=0
failed=0

clean_up()
{
	local status=$? folder

	trap - EXIT
	trap '' INT TERM HUP
	# what still runs in a root that is removed, such as a server
	for folder in /proc/[0-9]*; do
		[[ $(readlink "$folder/root") != @("$work"|"$roots")/* ]] || kill -9 "${folder#/proc/}" || true
	done 2>/dev/null
	cut -d ' ' -f 2 /proc/self/mounts | grep -E "^($work|$roots)/" | tac | xargs -r -n 1 umount -l || true
	for folder in "${binfmt[@]}"; do
		echo -1 >"$folder" || true
	done
	rm -rf --one-file-system "$work"
	exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# need PROGRAM PACKAGE: on this machine
need()
{
	command -v "$1" >/dev/null || {
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$2"
	} >"$logs/$2.log" 2>&1 </dev/null || fail "there is no $1: apt-get install --no-install-recommends $2"
}

mount_in()
{
	mkdir -p "$root/$2"
	mountpoint -q "$root/$2" && return
	mount "${@:3}" -t "$1" "$1" "$root/$2"
}

# use ROOT: from now on it is $root
use()
{
	root=$1
	mount_in proc proc
	mount_in tmpfs dev/shm -o mode=1777
	cp /etc/resolv.conf /etc/hosts "$root/etc"
	# packages do not start servers
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod +x "$root/usr/sbin/policy-rc.d"
}

in_root()
{
	env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LC_ALL=C.UTF-8 \
		DEBIAN_FRONTEND=noninteractive chroot "$root" "$@" </dev/null
}

install()
{
	in_root apt-get -qq install -y --no-install-recommends "$@"
}

bare()
{
	local suite=$1 architecture=${2:-} name=$1${2:+-$2}

	bare=$roots/$name
	[ ! -e "$bare/bin/sh" ] || return 0
	need debootstrap debootstrap
	rm -rf --one-file-system "$bare.new"
	echo "-- a bare $name"
	debootstrap --variant=minbase ${architecture:+--arch="$architecture"} "$suite" "$bare.new" >"$logs/$name.log" 2>&1 ||
		{ tail "$logs/$name.log"; fail "debootstrap failed"; }
	# sid's list of packages may be older than it says it is good for
	[ "$suite" != sid ] || echo 'Acquire::Check-Valid-Until "false";' >"$bare.new/etc/apt/apt.conf.d/99old"
	mv "$bare.new" "$bare"
}

kept()
{
	local name=$1 from=$2
	shift 2

	if [ ! -e "$roots/$name/complete" ]; then
		echo "-- the root $name"
		rm -rf --one-file-system "${roots:?}/$name"
		cp -a --reflink=auto "$from" "$roots/$name"
		use "$roots/$name"
		{ in_root apt-get -qq update && install "$@"; } >"$logs/$name.log" 2>&1 ||
			{ tail "$logs/$name.log"; fail "$name: apt-get failed"; }
		touch "$root/complete"
	fi
	use "$roots/$name"
}

copy()
{
	cp -a --reflink=auto --one-file-system "$2" "$work/$1"
	use "$work/$1"
}

checkout()
{
	rm -rf "${root:?}/$1"
	mkdir -p "$root/$1"
	git -C "$top" archive HEAD | tar -C "$root/$1" -xf -
}

check()
{
	local name=$1 log status=0 began=$SECONDS
	shift

	log=$logs/$(tr -c 'A-Za-z0-9\n' - <<<"$name").log
	# in a shell of its own, where a command that fails ends it, as && and || would not
	set +e
	(set -e; "$@") >"$log" 2>&1
	status=$?
	set -e
	if [ "$status" = 0 ]; then
		echo "ok - $name ($((SECONDS - began)) s)"
		passed=$((passed + 1))
	else
		tail -n 40 "$log" | sed 's/^/#   /'
		echo "not ok - $name ($((SECONDS - began)) s)"
		failed=$((failed + 1))
	fi
	return 0
}

report()
{
	echo "$((SECONDS / 60)) min $((SECONDS % 60)) s"
	echo "$passed passed, $failed failed"
	[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
