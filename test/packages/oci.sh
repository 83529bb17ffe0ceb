# test/packages/oci.sh: the lines of the Dockerfiles, in roots laid out as the official image.
# shellcheck shell=bash disable=SC2154 # test/packages/run and test/roots.sh set them
# shellcheck source=test/packages/dockerfile.sh
. "$top/test/packages/dockerfile.sh"

# What the official image's own Dockerfile does: no cluster, and one postgresql.conf.sample
official_layout()
{
	# shellcheck disable=SC2016 # the shell in the root knows it
	in_root sh -ec 'apt-get -qq update
		mkdir -p /etc/postgresql-common
		apt-get -qq install -y --no-install-recommends postgresql-common
		sed -i "s/^#*create_main_cluster.*/create_main_cluster = false/" /etc/postgresql-common/createcluster.conf
		apt-get -qq install -y --no-install-recommends postgresql-'"$version"'
		sample=/usr/share/postgresql/'"$version"'/postgresql.conf.sample
		dpkg-divert --add --rename --divert $sample.dpkg $sample
		cp $sample.dpkg /usr/share/postgresql/postgresql.conf.sample
		ln -s ../postgresql.conf.sample $sample
		mkdir -p /var/run/postgresql
		chown postgres: /var/run/postgresql'
}

# image_server COMMAND: in the image's place
image_server()
{
	in_root runuser -u postgres -- sh -ec "PATH=/usr/lib/postgresql/$version/bin:\$PATH
		cd /var/lib/postgresql
		$1"
}

# image_answers: that the image's server decides in memory
image_answers()
{
	image_server 'pg_ctl -D data -o "-c listen_addresses=" -l log -w start || { cat log; exit 1; }'
	query 'CREATE EXTENSION ratelimit'
	answers tttf "SELECT string_agg(left(rl_consume('user:42', 3, 0)::text, 1), '') FROM generate_series(1, 4)"
	answers memory "SELECT store FROM rate_limit_status"
	image_server 'pg_ctl -D data -m fast -w stop'
}

image_test()
{
	use "$(cat "$work/$suite-image.image")"
	image_server 'initdb -D data'
	image_answers
}

# The image of files beside an unchanged server
volume_test()
{
	local volume

	volume=$(cat "$work/$suite-volume.image")
	(cd "$volume" && find . ! -type d) | sed 's/--.*\.sql$/--N.sql/' | LC_ALL=C sort -u | tee "$work/files"
	[ "$(paste -sd ' ' "$work/files")" = \
		"./lib/ratelimit.so ./licenses/ratelimit ./share/extension/ratelimit--N.sql ./share/extension/ratelimit.control" ]
	use "$work/$suite-postgres"
	mkdir -p "$root/extensions"
	cp -a "$volume" "$root/extensions/ratelimit"
	# shellcheck disable=SC2016 # the server knows them
	image_server 'initdb -D data
		cat >>data/postgresql.conf <<-CONF
			extension_control_path = '\''\$system:/extensions/ratelimit/share'\''
			dynamic_library_path = '\''\$libdir:/extensions/ratelimit/lib'\''
			shared_preload_libraries = '\''ratelimit'\''
		CONF'
	image_answers
}

test_oci()
{
	local postgres

	rm -rf "$work/context"
	tree context
	copy "$suite-postgres" "$bare"
	postgres=$root
	check "$suite: the official image's layout" official_layout
	check "$suite: Dockerfile" dockerfile "$top/packages/oci/Dockerfile" "$work/context" "$postgres" "$suite-image" "$version"
	check "$suite: the image decides" image_test
	if [ "$version" -ge 18 ]; then
		check "$suite: Dockerfile.volume" dockerfile "$top/packages/oci/Dockerfile.volume" "$work/context" "$postgres" "$suite-volume" "$version"
		check "$suite: the volume beside an unchanged server" volume_test
	fi
}
