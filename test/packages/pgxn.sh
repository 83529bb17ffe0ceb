# test/packages/pgxn.sh: the zip that make dist writes, as pgxn installs it.
# shellcheck shell=bash disable=SC2154 # test/packages/run and test/roots.sh set them

pgxn_zip()
{
	rm -rf "$root/root/ratelimit"
	git clone -q --depth 1 "file://$top" "$root/root/ratelimit"
	in_root make -s -C /root/ratelimit dist
	mv "$root/root/ratelimit/ratelimit-$release.zip" "$root/tmp"
	chmod 644 "$root/tmp/ratelimit-$release.zip"
}

# META.json as pgxnclient reads it from the zip, and what PGXN's specification asks for
pgxn_meta()
{
	cat >"$root/root/meta.py" <<-'PYTHON'
		import sys
		from pgxnclient import archive, utils
		from pgxnclient.utils.semver import SemVer

		zip = archive.from_file(sys.argv[1])
		meta = zip.get_meta()
		zip.open()
		files = list(zip.list_files())
		for name in ("name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"):
		    assert meta[name], name
		SemVer(meta["version"])
		assert meta["meta-spec"]["version"] == "1.0.0"
		assert meta["release_status"] in ("stable", "testing", "unstable")
		folder = "%s-%s/" % (meta["name"], meta["version"])
		assert all(file.startswith(folder) for file in files)
		for name, extension in meta["provides"].items():
		    SemVer(extension["version"])
		    assert folder + extension["file"] in files, extension["file"]
		    assert folder + extension["docfile"] in files, extension["docfile"]
		print(meta["name"], meta["version"], len(files), "files")
	PYTHON
	in_root python3 /root/meta.py "/tmp/ratelimit-$release.zip"
}

pgxn_install()
{
	local port

	in_root pgxn install --nosudo "/tmp/ratelimit-$release.zip"
	server start
	# another port where this machine has a server already
	port=$(in_root pg_lsclusters -h | awk '{ print $3 }')
	in_root runuser -u postgres -- pgxn load --yes -d postgres -p "$port" "/tmp/ratelimit-$release.zip"
	answers 1.0 "SELECT extversion FROM pg_extension WHERE extname = 'ratelimit'"
	answers tttf "SELECT string_agg(left(rl_consume('user:42', 3, 0)::text, 1), '') FROM generate_series(1, 4)"
}

test_pgxn()
{
	kept "$suite-pgxn" "$bare" build-essential "postgresql-$version" "postgresql-server-dev-$version" pgxnclient git zip unzip
	copy "$suite-pgxn" "$root"
	check "$suite: make dist" pgxn_zip
	check "$suite: META.json, read by pgxnclient" pgxn_meta
	check "$suite: pgxn install, pgxn load, a decision" pgxn_install
}
