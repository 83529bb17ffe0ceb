# test/packages/deb.sh: Debian packages, of this version and of the next one that test/next/make
# makes.
# shellcheck shell=bash disable=SC2154 # test/packages/run and test/roots.sh set them

deb_tools="build-essential debhelper devscripts postgresql-server-dev-all postgresql-all lintian piuparts git zip ca-certificates"

# build_deb TREE VERSION [OPTIONS]: its packages, in $root/build/TREE
build_deb()
{
	local release=$2

	rm -rf "$root/build/$1"
	mkdir -p "$root/build/$1"
	cp -a "$work/$1" "$root/build/$1/ratelimit-$release"
	tar -C "$root/build/$1" --exclude="ratelimit-$release/debian" -czf "$root/build/$1/ratelimit_$release.orig.tar.gz" "ratelimit-$release"
	in_root sh -ec "
		getent passwd builder || useradd --create-home builder
		chown -R builder: /build/$1
		cd /build/$1/ratelimit-$release
		runuser -u builder -- pg_buildext updatecontrol
		exec runuser -u builder -- env DEB_BUILD_OPTIONS='${3:-}' dpkg-buildpackage -us -uc"
}

# the files of the root that another package or a server may not change
files()
{
	in_root find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log -o -path /var/cache \
		-o -path /var/lib/apt -o -path /var/lib/dpkg -o -path "/var/lib/postgresql/$version/main" \) -prune -o -print | sort
}

deb_install()
{
	server start
	files >"$work/before"
	install "$(deb this)"
	files >"$work/installed"
	# a server that runs finds it at once
	query 'CREATE EXTENSION ratelimit'
	answers 'tttf' "SELECT string_agg(left(rl_consume('user:42', 3, 0)::text, 1), '') FROM generate_series(1, 4)"
}

deb_preload()
{
	preload
	answers "t
t" 'SELECT count(*) > 0 FROM rl_partitions()' "SELECT rl_consume('hot', 6000, 0, 0.5)"
}

# Calls in connections that come and go, until stop_load: none of them may fail.
start_load()
{
	rm -f "$root/tmp/enough" "$root/tmp/rounds"
	# shellcheck disable=SC2016 # the shell in the root knows it
	in_root runuser -u postgres -- sh -ec 'while [ ! -e /tmp/enough ]; do
		pgbench -n -c 4 -t 100 -f /tmp/load.sql postgres
		echo >>/tmp/rounds
	done' >"$work/load.log" 2>&1 &
	load=$!
}

rounds()
{
	wc -l 2>/dev/null <"$root/tmp/rounds" || echo 0
}

# load_until COMMAND...: wait while calls run
load_until()
{
	until "$@"; do
		kill -0 "$load" || { cat "$work/load.log"; return 1; }
		sleep 0.1
	done
}

more_rounds()
{
	[ "$(rounds)" -gt "$before" ]
}

stop_load()
{
	local before

	before=$(rounds)
	load_until more_rounds || return
	touch "$root/tmp/enough"
	wait "$load" || { cat "$work/load.log"; return 1; }
}

true_in_database()
{
	[ "$(query "$1")" = t ]
}

# While calls run, the package is replaced, and after a restart the extension updated: as many
# are allowed as there are tokens.
deb_update()
{
	local load

	query 'CREATE TABLE allowed (one int)'
	echo "INSERT INTO allowed SELECT 1 WHERE rl_consume('hot', 6000, 0);" >"$root/tmp/load.sql"
	start_load
	load_until true_in_database 'SELECT count(*) > 100 FROM allowed'
	install "$(deb next)"
	echo "after the package: $(rounds) rounds"
	# the server still has the old library, which lacks a function of the new script
	if query 'ALTER EXTENSION ratelimit UPDATE'; then
		return 1
	fi
	answers 1.0 "SELECT extversion FROM pg_extension WHERE extname = 'ratelimit'"
	stop_load
	server restart

	start_load
	query 'ALTER EXTENSION ratelimit UPDATE'
	load_until true_in_database "SELECT NOT allowed FROM rl_peek('hot', 6000, 0)"
	stop_load
	answers 1.1 "SELECT extversion FROM pg_extension WHERE extname = 'ratelimit'"
	answers next 'SELECT rl_next()'
	answers 5999 'SELECT count(*) FROM allowed'
}

# README.md, "From a package", as it stands: to make the package, and to install it
deb_by_readme()
{
	local block

	checkout root/ratelimit
	awk '/^### / { on = $0 == "### From a package" } on' "$top/README.md" | awk '/^```/ { n++; next } n % 2' |
		sed "s/\\<15\\>/$version/g" >"$root/root/by-hand"
	[ "$(wc -l <"$root/root/by-hand")" = 8 ]
	block=$(cat "$root/root/by-hand")
	in_root sh -exc "cd /root/ratelimit; $block"
	answers "t" 'CREATE EXTENSION ratelimit' 'SELECT count(*) > 0 FROM rl_partitions()'
}

# nothing COMMAND...: it prints nothing
nothing()
{
	if "$@" 2>/dev/null | grep .; then
		return 1
	fi
}

deb_purge()
{
	query 'DROP EXTENSION ratelimit'
	in_root pg_conftool "$version" main remove shared_preload_libraries
	server restart
	rm "$root/var/lib/postgresql/$version/main/pg_stat/pgsql_tmp.ratelimit"
	in_root apt-get -qq purge -y "$package"
	server restart
	files >"$work/after"
	diff "$work/before" "$work/after"
	nothing in_root find / -xdev -name '*ratelimit*' -not -path '/root/*'
	# shellcheck disable=SC2016 # dpkg-query knows them
	nothing in_root dpkg-query -W -f '${db:Status-Status} ${Package}\n' '*ratelimit*'
}

# $tools: the root with the packages of this commit, and of the next version
built()
{
	local next

	package=postgresql-$version-ratelimit
	# shellcheck disable=SC2086 # a list of words
	kept "$suite-deb" "$bare" $deb_tools
	tools=$root
	[ "$(cat "$tools/build/commit" 2>/dev/null)" != "$commit" ] || return 0
	rm -rf "$work/this" "$work/next" "$tools/build/commit"
	tree this
	tree next
	next=$("$top/test/next/make" "$work/next")
	check "$suite: the package is built, and make installcheck passes" build_deb this "$release"
	check "$suite: the package of version $next is built" build_deb next "$next.0" nocheck
	[ "$(find "$tools"/build/{this,next} -maxdepth 1 -name "${package}_*.deb" | wc -l)" != 2 ] || echo "$commit" >"$tools/build/commit"
}

# packages NAME: $root, a bare Debian with the packages in /root/this and /root/next
packages()
{
	local folder

	copy "$1" "$bare"
	for folder in this next; do
		mkdir "$root/root/$folder"
		cp "$tools/build/$folder"/*.{dsc,tar.*} "$tools/build/$folder/${package}_"*.deb "$root/root/$folder"
	done
}

# deb FOLDER: the package in /root/FOLDER of $root
deb()
{
	basename -a "$root/root/$1/"*.deb | sed "s,^,/root/$1/,"
}

test_deb()
{
	local package tools

	built
	# the package is not on its way into Debian, so it closes no bug there that asks for it
	check "$suite: lintian" in_root runuser -u builder -- sh -c \
		"cd /build/this && lintian --info --fail-on error,warning --suppress-tags initial-upload-closes-no-bugs ./*.changes"
	[ -e "$root/bare.tar.gz" ] || tar -C "$bare" -czf "$root/bare.tar.gz" .
	check "$suite: piuparts" in_root sh -c "piuparts --basetgz=/bare.tar.gz --distribution=$suite \
		--mirror=http://deb.debian.org/debian --no-eatmydata --warn-on-usr-move=disabled /build/this/${package}_*.deb"
	packages "$suite-autopkgtest"
	check "$suite: autopkgtest" test_autopkgtest
}

test_install()
{
	local package tools

	built
	packages "$suite-installed"
	check "$suite: PostgreSQL" install_postgresql
	check "$suite: installed, CREATE EXTENSION, a decision" deb_install
	check "$suite: preloaded, memory, a decision" deb_preload
	check "$suite: updated while calls run" deb_update
	check "$suite: purged without a trace" deb_purge
	copy "$suite-readme" "$bare"
	check "$suite: README.md, from a package" deb_by_readme
}

test_autopkgtest()
{
	in_root apt-get -qq update
	install autopkgtest dpkg-dev
	in_root sh -c 'cd /root/this && autopkgtest ./*.deb ./*.dsc -- null'
}

install_postgresql()
{
	in_root apt-get -qq update
	install "postgresql-$version"
	in_root pg_lsclusters
}
