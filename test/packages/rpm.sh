# test/packages/rpm.sh: rpmbuild with Debian's rpm, against Debian's PostgreSQL: the build and
# what is in the packages.  Their installation needs a system with rpm packages.
# shellcheck shell=bash disable=SC2154 # test/packages/run and test/roots.sh set them

rpm_build()
{
	in_root rm -rf /root/rpmbuild
	mkdir -p "$root/root/rpmbuild/SOURCES"
	git -C "$top" archive --format=zip --prefix="ratelimit-$release/" HEAD >"$root/root/rpmbuild/SOURCES/ratelimit-$release.zip"
	cp "$top/packages/rpm/ratelimit.spec" "$root/root/rpmbuild"
	# the names of what it needs, the folders of the server and the packages of debugging symbols
	# are those of other systems
	in_root rpmbuild --nodeps -ba --define "pgmajorversion $version" \
		--define "pginstdir /usr/lib/postgresql/$version" \
		--define "sharedir /usr/share/postgresql/$version" --define "debug_package %{nil}" /root/rpmbuild/ratelimit.spec
}

rpm_contents()
{
	in_root sh -c 'rpm -qlp /root/rpmbuild/RPMS/*/ratelimit_*.rpm | grep -v /doc/' | tee "$work/rpm"
	[ "$(grep -c -E "/ratelimit\.so$|/ratelimit\.control$|/ratelimit--1\.0\.sql$|/LICENSE$" "$work/rpm")" = 4 ]
}

rpm_lint()
{
	cp "$top/packages/rpm/rpmlintrc" "$root/root/rpmbuild"
	in_root sh -c "rpmlint --rpmlintrc /root/rpmbuild/rpmlintrc /root/rpmbuild/ratelimit.spec /root/rpmbuild/RPMS/*/ratelimit_${version}-$release*.rpm" |
		tee "$work/rpmlint" || true
	grep -q '1 packages and 1 specfiles checked' "$work/rpmlint"
	# each version of rpmlint finds other ones of what the file filters
	nothing grep -vE ': [EW]: unused-rpmlintrc-filter' <(grep ': [EW]: ' "$work/rpmlint")
}

test_rpm()
{
	kept "$suite-rpm" "$bare" build-essential "postgresql-server-dev-$version" rpm rpmlint unzip
	check "$suite: rpmbuild" rpm_build
	check "$suite: the files of the package" rpm_contents
	check "$suite: rpmlint" rpm_lint
}
