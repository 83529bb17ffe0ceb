# What the documents show is what happens: README.md and each file in docs/ run in a new
# database, from top to bottom in one session, and psql answers what they print.
# DocTest.pm says which blocks run.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DocTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

# A bucket refills while a slow machine gets to the next statement, so a document has
# several attempts.  A document that is wrong is wrong in each of them.
my $attempts = 5;

my $top = "$FindBin::RealBin/../..";
my $node = start_server('docs', conf => 'ratelimit.flush_interval = 1h');

#
# The test finds what is wrong
#
my ($wrong) = doc_sessions(<<'DOC');
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
```sql
CREATE ROLE somebody;
SET ROLE somebody;
```
## Next
```sql
BEGIN;
```
DOC
my @said = run_in_new_database($wrong);
is(scalar @said, 4, 'a wrong document: all blocks run');
like($said[0], qr/\(1 row\)/, '... the first answers');
ok(differs($wrong->[0], $said[0]), '... something else than the document shows');
ok(differs($wrong->[1], $said[1]), '... the second fails');
like($said[2], qr/ends in role somebody/, '... the third does not reset the role');
like($said[3], qr/ends in role somebody/, '... nor does the fourth');
is(eval { doc_sections("<!-- sql\nSELECT 1;\n-->\n"); 1 }, undef, '... hidden statements are an error');

my @split = doc_sessions(<<'DOC');
Each section
runs in a new database.
```sql
SELECT 'top';
```
## One
```sql
SELECT 1;
```
## Two
```sql
SELECT 2;
```
DOC
is(join('|', map { join ',', map { $_->{line} } @$_ } @split), '3,7|3,11', 'a document that is split: each section runs after the top');

#
# The documents
#
foreach my $file ("$top/README.md", sort glob "$top/docs/*.md")
{
	my $name = $file =~ s{^\Q$top\E/}{}r;

	next if @ARGV && !grep { $name =~ /$_/ } @ARGV;
	foreach my $blocks (doc_sessions(slurp_file($file)))
	{
		for (1 .. $attempts)
		{
			@said = run_in_new_database($blocks);
			last unless grep { differs($blocks->[$_], $said[$_]) } 0 .. $#$blocks;
		}
		foreach my $i (0 .. $#$blocks)
		{
			my $where = "$name:$blocks->[$i]{line}, $blocks->[$i]{section}";

			if (defined $blocks->[$i]{output})
			{
				is(normal_output($said[$i]), normal_output($blocks->[$i]{output}), $where);
			}
			else
			{
				ok(!differs($blocks->[$i], $said[$i]), $where) or diag($said[$i]);
			}
		}
	}
}

#
# What runs is all that there is to run, and links lead somewhere
#
my %text = map { s{^\Q$top\E/}{}r => slurp_file($_) } ("$top/README.md", "$top/CONTRIBUTING.md", glob "$top/docs/*.md");

is(join("\n", other_statements("```sql\nSELECT 1;\n```\n```\napp=# SELECT 2;\n```\n")), 'app=# SELECT 2;', 'a statement that does not run is found');
is(join("\n", broken_links('a.md', '[b](b.md) [c](#c) [README](README.md#install)')), "b.md\n#c", 'a link that leads nowhere is found');
foreach my $name (sort keys %text)
{
	is(join("\n", other_statements($text{$name})), '', "$name: no statement that does not run");
	is(join("\n", broken_links($name, $text{$name})), '', "$name: all links lead somewhere");
}

# Each test and model that docs/reliability.md names is there.
foreach my $test ($text{'docs/reliability.md'} =~ /`(\d{3}_\w+|\w+\.(?:spec|pml)|test\/[\w\/.]+)/g)
{
	my @found = grep { -e "$top/$_" } "test/t/$test.pl", "test/specs/$test", "test/model/$test", $test;

	ok(@found, "docs/reliability.md: $test is there");
}

# Lines that look like statements, in blocks that do not run, from the first block on that
# does: above it, README.md shows what it is about.
sub other_statements
{
	my ($text) = @_;
	my ($from) = $text =~ /^(```sql\n.*)/ms;
	my ($kind, @lines);

	foreach my $line (split /\n/, $from // '')
	{
		if ($line =~ /^```(\w*)$/)
		{
			$kind = defined $kind ? undef : $1;
		}
		elsif (defined $kind && $kind eq '')
		{
			push @lines, $line;
		}
	}
	return grep { /^(?:\w+=[#>] |(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|GRANT|REVOKE|SET|DO)\b)/ } @lines;
}

# The headings of a document, as GitHub links to them
sub anchors
{
	my ($text) = @_;
	my @headings = $text =~ /^#+ (.*)$/gm;

	return map { lc =~ s/[^\w\s-]//gr =~ s/ /-/gr } @headings;
}

sub broken_links
{
	my ($from, $text) = @_;
	my $folder = $from =~ m{^(.*/)} ? $1 : '';
	my @broken;

	foreach my $link ($text =~ /\]\(((?!https?:)[^)\s]+)\)/g)
	{
		my ($file, $anchor) = $link =~ /^([^#]*)#?(.*)$/;
		my $target = $file eq '' ? $from : $folder . $file;

		1 while $target =~ s{[^/]+/\.\./}{};
		my $there = $target eq $from ? $text : $text{$target};
		push @broken, $link
		  unless $anchor eq '' ? -e "$top/$target" : defined $there && grep { $_ eq $anchor } anchors($there);
	}
	return @broken;
}

# Nothing but what every server has: a database without the extension, unless the document
# creates the database, and the superuser.
sub run_in_new_database
{
	my ($blocks) = @_;
	my $creates = grep { $_->{sql} =~ /^CREATE DATABASE app;/m } @$blocks;

	$node->safe_psql('postgres', 'CREATE DATABASE app') unless $creates;
	my @said = run_session($blocks, '-d', $node->connstr($creates ? 'postgres' : 'app'));
	$node->safe_psql('postgres',
		q(SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database)
		  . q( WHERE NOT datistemplate AND datname <> 'postgres' \gexec));
	$node->safe_psql('postgres',
		q(SELECT format('DROP ROLE %I', rolname) FROM pg_roles)
		  . q( WHERE rolname !~ '^pg_' AND rolname <> current_user \gexec));
	$node->safe_psql('postgres', $_) foreach ('ALTER SYSTEM RESET ALL', 'SELECT pg_reload_conf()');
	return @said;
}

$node->stop;
done_testing();
