# What the documents show is what happens: the statements of README.md and of each
# file in docs/ are run as written, and answer what is printed below them.
# DocTest.pm says which.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DocTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# A limit refills while a slow machine gets to the next statement.  What is wrong in
# a document is wrong each time.
my $attempts = 3;

my $top = "$FindBin::RealBin/../..";
my $node = start_server('docs', conf => 'ratelimit.flush_interval = 1h');

#
# A document that is wrong is found out
#
my ($wrong) = doc_sections(<<'DOC');
## Wrong
```sql
SELECT 1 AS one;
```
```text
 one 
-----
   2
(1 row)

```
```sql
SELECT no_such_column;
```
DOC
my @said = run_in_new_database($wrong);
is(scalar @said, 2, 'a wrong document: both blocks are run');
like($said[0], qr/\(1 row\)/, '... the first answers');
ok(differs($wrong->{blocks}[0], $said[0]), '... other than it says');
ok(differs($wrong->{blocks}[1], $said[1]), '... and the second fails');

#
# The documents
#
foreach my $file ("$top/README.md", sort glob "$top/docs/*.md")
{
	my $name = $file =~ s{^\Q$top\E/}{}r;

	foreach my $section (doc_sections(slurp_file($file)))
	{
		my @blocks = @{ $section->{blocks} };

		for (1 .. $attempts)
		{
			@said = run_in_new_database($section);
			last unless grep { differs($blocks[$_], $said[$_]) } 0 .. $#blocks;
		}
		foreach my $i (0 .. $#blocks)
		{
			my $where = "$name:$blocks[$i]{line}, $section->{title}";

			if (defined $blocks[$i]{output})
			{
				is(normal_output($said[$i]), normal_output($blocks[$i]{output}), $where);
			}
			else
			{
				ok(!differs($blocks[$i], $said[$i]), $where) or diag($said[$i]);
			}
		}
	}
}

# A database with the extension, as README.md says to create it, unless the section
# creates it, and no role but the superuser; nothing of it stays.
sub run_in_new_database
{
	my ($section) = @_;
	my @said;

	$node->safe_psql('postgres', 'CREATE DATABASE app');
	$node->safe_psql('app', <<'SQL')
CREATE SCHEMA ratelimit;
CREATE EXTENSION ratelimit SCHEMA ratelimit;
ALTER DATABASE app SET search_path = "$user", public, ratelimit;
SQL
	  unless grep { $_->{sql} =~ /CREATE EXTENSION ratelimit/ } @{ $section->{blocks} };
	@said = run_section($section, '-d', $node->connstr('app'));
	$node->safe_psql('postgres', 'DROP DATABASE app WITH (FORCE)');
	$node->safe_psql('postgres',
		q(SELECT format('DROP ROLE %I', rolname) FROM pg_roles)
		  . q( WHERE rolname !~ '^pg_' AND rolname <> current_user \gexec));
	return @said;
}

$node->stop;
done_testing();
