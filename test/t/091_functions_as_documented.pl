# The table of functions in docs/reference.md is that of the catalog: arguments, defaults,
# results and who may call them.  test/docs/functions writes it anew.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $top = "$FindBin::RealBin/../..";
my $node = start_server('functions');
my $reference = slurp_file("$top/docs/reference.md");

my ($table) = $reference =~ /^<!-- functions -->\n(.*)^<!-- end of functions -->$/ms;
my $catalog = $node->safe_psql('postgres', slurp_file("$top/test/docs/functions.sql"));
my @functions = grep { /^\| \[/ } split /\n/, $catalog;
cmp_ok(scalar @functions, '>', 25, scalar @functions . ' functions');
is($table // '', "$catalog\n", '... are in the table, and no others');

foreach (@functions)
{
	my ($name, $arguments, $result) = /^\| \[(rl_\w+)\]\S* \| (.*?) \| (.*?) \|/ or die $_;

	like($reference, qr/^## \Q$name\E$/m, "$name: has a section");

	# The table says so above its rows
	next unless $arguments =~ /\bkeys? text/ && $arguments =~ /\blimiters? text/;
	like($arguments, qr/^`keys? text/, '... the key comes first');
	like($arguments, qr/limiter text DEFAULT 'default'|limiters text\[\] DEFAULT NULL/, '... and the limiter has its default');
}

$node->stop;
done_testing();
