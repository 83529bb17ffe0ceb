# test/cassert.sh: servers that find what others hide, for test/run.
#
# choose_cassert, build_cassert
#           a PostgreSQL with assertions, from Debian's source package
# build_sanitized, preload_sanitizer
#           the extension with AddressSanitizer and UndefinedBehaviorSanitizer; for a
#           server of the same kind, whose assertions check what it allocates (and
#           Debian's own hangs in bindtextdomain() with the sanitizer loaded)
# shellcheck shell=bash

# has_assertions PG_CONFIG
has_assertions()
{
	grep -q '^#define USE_ASSERT_CHECKING 1' "$("$1" --includedir-server)/pg_config.h"
}

# Before enter: PG_CONFIG is a server to take, or else RATELIMIT_CASSERT_DIR the folder
# to build one in.  That it is whole is told by its file "complete".  "pgsql" in a path
# keeps PostgreSQL from adding folders of its name.
choose_cassert()
{
	[ -z "${RATELIMIT_WORK:-}" ] || return 0
	if [ "${PG_CONFIG:-}" ]; then
		RATELIMIT_CASSERT_DIR=
	elif [ -e "${RATELIMIT_CASSERT_DIR:-}/pgsql/complete" ]; then
		PG_CONFIG=$RATELIMIT_CASSERT_DIR/pgsql/bin/pg_config
		RATELIMIT_CASSERT_DIR=
	else
		: "${RATELIMIT_CASSERT_DIR:=throwaway}"
		cassert_packages="dpkg-dev bison flex zlib1g-dev"
	fi
}

# private_apt FOLDER COMMAND...: with the sources of what is installed, and with
# nothing of the machine's changed; as any user.
private_apt()
{
	local folder=$1

	shift
	"$@" \
		-o Dir::Etc::SourceList="$folder/sources.list" \
		-o Dir::Etc::SourceParts="$folder/parts" \
		-o Dir::State="$folder/state" \
		-o Dir::State::status=/var/lib/dpkg/status \
		-o Dir::Cache="$folder/cache"
}

# fetch_source NAME: unpacks Debian's source package into ./source
fetch_source()
{
	local apt=$PWD/apt file version

	mkdir -p "$apt/parts" "$apt/state/lists/partial" "$apt/cache/archives/partial"
	touch "$apt/sources.list"
	for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
		[ ! -r "$file" ] || sed -nE 's/^[[:space:]]*deb([[:space:]])/deb-src\1/p' "$file"
	done | sort -u >"$apt/parts/lines.list"
	for file in /etc/apt/sources.list.d/*.sources; do
		[ ! -r "$file" ] || sed -E 's/^Types:.*/Types: deb-src/' "$file" \
			>"$apt/parts/$(basename "$file")"
	done
	# other repositories may have no sources: what matters is that this one is found
	private_apt "$apt" apt-get -q update || true
	# the newest that the mirror really has
	private_apt "$apt" apt-cache showsrc "$1" | sed -n 's/^Version: //p' | sort -urV >versions
	while read -r version; do
		! private_apt "$apt" apt-get -q source --download-only "$1=$version" || break
	done <versions
	dpkg-source -x ./*.dsc source
}

# Since PostgreSQL 17 the source has injection points, which test/t/130_injected_failures.pl needs.
injection_points()
{
	[ ! -d src/test/modules/injection_points ] || echo --enable-injection-points
}

install_injection_points()
{
	[ ! -d src/test/modules/injection_points ] || make -s -C src/test/modules/injection_points install
}

# compile_server SOURCE_PACKAGE PREFIX
compile_server()
{
	mkdir -p "$work/build" && cd "$work/build" && fetch_source "$1" && cd source &&
		CFLAGS="-O1 -g -fno-omit-frame-pointer" ./configure --prefix="$2" \
			--enable-cassert --enable-debug --enable-tap-tests --without-icu --without-readline \
			$(injection_points) &&
		make -s -j"$(nproc)" && make -s install && install_injection_points && touch "$2/complete"
}

# In the copy: builds the server and sets PG_CONFIG to its pg_config.
build_cassert()
{
	local version prefix=$RATELIMIT_CASSERT_DIR/pgsql

	[ "$RATELIMIT_CASSERT_DIR" != throwaway ] || prefix=$work/cassert/pgsql
	version=$(basename "$(dirname "$("$PG_CONFIG" --bindir)")")
	echo "building PostgreSQL $version with assertions"
	step compile_server "postgresql-$version" "$prefix" >build.log 2>&1 || {
		tail -n 30 build.log >&2
		fail "PostgreSQL could not be built"
	}
	rm -rf "$work/build"
	PG_CONFIG=$prefix/bin/pg_config
}

# Sets what build sets.
build_sanitized()
{
	# for what else is built
	export RATELIMIT_COPT="-fsanitize=address,undefined,float-cast-overflow -fno-omit-frame-pointer -g"
	COPT=$RATELIMIT_COPT build
	nm -D "$("$PG_CONFIG" --pkglibdir)/ratelimit.so" | grep __asan_ >/dev/null ||
		fail "the library is not instrumented"
}

# For all programs from now on, because the sanitizer's library has to be the first in
# a process.  What the server leaks as it ends is not of interest.  Variables stay on
# the stack, by whose address the server measures the depth of recursion.
preload_sanitizer()
{
	LD_PRELOAD=$(gcc -print-file-name=libasan.so)
	export LD_PRELOAD
	export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1
	export UBSAN_OPTIONS=print_stacktrace=1
}
