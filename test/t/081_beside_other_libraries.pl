# What another preloaded library leaves on the stack does not change how the server
# starts: shared memory is made when it is new, and only then.
use strict;
use warnings FATAL => 'all';

use Cwd ();
use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $node = start_server('beside', conf => "ratelimit.max_buckets = 1024\n");
my $library = Cwd::realpath($node->basedir) . '/dirty_stack';
my ($include, $code) = run_command([ 'pg_config', '--includedir-server' ]);

system_or_bail($ENV{CC} // 'gcc', '-shared', '-fPIC', '-O1', '-Wall', '-Werror', "-I$include",
	'-o', "$library.so", "$FindBin::RealBin/../seam/dirty_stack.c");

is($node->safe_psql('postgres', q{SELECT rl_consume('k', 3, 0) FROM generate_series(1, 2)}), "t\nt", 'alone, calls are decided');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'ratelimit,$library'");
foreach my $start (1 .. 2)
{
	$node->restart;
	my ($code, $answer, $messages) = $node->psql('postgres', q{SELECT rl_consume('k', 3, 0, 0), rl_consume('new', 1e9, 0)});

	is("$code $answer", '0 t|t', "start $start beside a library that fills the stack: calls are decided") or diag($messages);
	last if $code;
	is($node->safe_psql('postgres', q{SELECT (rl_peek('k', 3, 0)).remaining}), 0, "... and what was saved is there");
}

$node->stop;
done_testing();
