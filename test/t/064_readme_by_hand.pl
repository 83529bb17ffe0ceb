# README.md's way from nothing to a limit and back works keystroke by keystroke, and leaves
# a server that starts.  Here stand-ins do what only root can do on a Debian: apt-get,
# pg_conftool, pg_ctlcluster and su.  test/bare does the same on a bare Debian without them.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use ByHand;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $readme = slurp_file("$top/README.md");
my $work = PostgreSQL::Test::Utils::tempdir();

# A PostgreSQL and a checkout of its own: the way ends with make uninstall
my %folder = map {
	my ($path) = run_command([ 'pg_config', "--$_" ]);
	system_or_bail('sh', '-c', qq(mkdir -p "$work$path" && cp -a "$path/." "$work$path"));
	$_ => "$work$path";
} qw(bindir pkglibdir sharedir);
foreach (qw(libdir includedir pkgincludedir includedir-server))
{
	my ($path) = run_command([ 'pg_config', "--$_" ]);
	system_or_bail('sh', '-c', qq([ -e "$work$path" ] || { mkdir -p "\$(dirname "$work$path")" && ln -s "$path" "$work$path"; }));
}
system_or_bail('sh', '-c', qq(mkdir "$work/ratelimit" && cd "$top" && tar -cf - --exclude=./tmp_check --exclude='*.o' --exclude='*.so' . | tar -C "$work/ratelimit" -xf -));
unlink glob "$folder{pkglibdir}/ratelimit* $folder{sharedir}/extension/ratelimit*";

my $node = PostgreSQL::Test::Cluster->new('by_hand');
$node->init;
my $conf = $node->data_dir . '/postgresql.conf';

my %stand_in = (
	'apt-get' => <<'SH',
case "$1" in
	update) exit ;;
	install) shift ;;
	*) exit 1 ;;
esac
[ "$1 $2" = "-y --no-install-recommends" ] || exit 1
shift 2
echo "apt-get: $*"
SH
	pg_conftool => <<"SH",
case "\$3" in
	set) sed -i "/^\$4 =/d" '$conf'; echo "\$4 = '\$5'" >>'$conf' ;;
	remove) sed -i "/^\$4 =/d" '$conf' ;;
	*) exit 1 ;;
esac
SH
	pg_ctlcluster => qq([ "\$2 \$3" = "main restart" ] && pg_ctl -D '${\$node->data_dir}' -l '$work/log' -w restart >/dev/null\n),
	su => qq([ "\$1 \$2" = "postgres -c" ] && exec sh -c "\$3"\n));

END
{
	my $status = $?;

	system("pg_ctl -D '" . $node->data_dir . "' -m immediate stop >/dev/null 2>&1") if -e $node->data_dir . '/postmaster.pid';
	$? = $status;
}

mkdir "$work/bin";
foreach my $name (keys %stand_in)
{
	append_to_file("$work/bin/$name", "#!/bin/sh\n$stand_in{$name}");
	chmod 0755, "$work/bin/$name";
}

local $ENV{PATH} = "$work/bin:$folder{bindir}:$ENV{PATH}";
local $ENV{PG_CONFIG} = "$folder{bindir}/pg_config";
local $ENV{PGHOST} = $node->host;
local $ENV{PGPORT} = $node->port;
local $ENV{PGDATABASE} = 'postgres';
local $ENV{HOME} = $work;
delete local $ENV{$_} foreach (qw(MAKEFLAGS MFLAGS MAKELEVEL));

# As Debian's package does
system_or_bail('pg_ctl', '-D', $node->data_dir, '-l', "$work/log", '-w', 'start');

my $packages = '';
by_hand(
	text => $readme,
	version => 15,
	ok => sub {
		my ($ok, $name, $shown) = @_;
		ok($ok, $name) or diag($shown);
	},
	run => sub {
		my ($name, $script, $input) = @_;
		my $output = '';

		append_to_file("$work/$name.sh", $script);
		append_to_file("$work/$name.in", $input);
		system("cd $work/ratelimit && sh $work/$name.sh <$work/$name.in >$work/$name.out 2>&1");
		my $status = $?;
		$output = slurp_file("$work/$name.out");
		$packages = $1 if $output =~ /^apt-get: (.*)$/m;
		return ($output, $status);
	});
is($packages, 'make gcc libc6-dev postgresql-15 postgresql-server-dev-15', 'the packages that apt-get is told to install');

#
# What it leaves
#
my ($preload) = run_command([ 'psql', '-XAtc', 'SHOW shared_preload_libraries' ]);
is($preload, '', 'the server runs, and preloads nothing');
is(join(' ', glob "$folder{pkglibdir}/ratelimit* $folder{sharedir}/extension/ratelimit*"), '', '... and no file of the extension is left');

# Why the order matters
append_to_file($conf, "shared_preload_libraries = 'ratelimit'\n");
is(system("pg_ctl -D '" . $node->data_dir . "' -l $work/log -w restart >/dev/null 2>&1") >> 8, 1, 'a server that preloads what is not there does not start');
like(slurp_file("$work/log"), qr/FATAL:  could not access file "ratelimit"/, '... and says so');

done_testing();
