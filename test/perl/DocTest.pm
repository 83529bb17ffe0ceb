# DocTest.pm: the examples of a document, and what psql says to them.
#
# The statements of a ```sql block run as they are written, and the ```text block after
# it shows what psql answers.  Where no ```text block follows, the statements must only
# not fail.  Nothing else runs: what an example needs is in a ```sql block above it that
# the reader sees.
#
# A document runs in one session, from top to bottom, in a new database.  A document that
# says "Each section runs in a new database" is split at its "## " headings: each section
# runs after the blocks above the first heading.  Of one that says "Each recipe also runs
# alone", each section runs so as well.
package DocTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';

our @EXPORT = qw(doc_sections doc_sessions session_script session_answers run_session differs normal_output);

# The sections of a document that have statements, each with its title and its blocks.  A
# block has line, sql, section and, if the document shows it, output.
sub doc_sections
{
	my ($text) = @_;
	my @sections = ({ title => 'top', blocks => [] });
	my ($kind, $body, $begin, $block);
	my $n = 0;

	foreach my $line (split /^/, $text)
	{
		$n++;
		if (!defined $kind)
		{
			die "line $n: a comment hides SQL" if $line =~ /^<!--\s*sql/;
			if ($line =~ /^```(\w*)$/)
			{
				($kind, $body, $begin) = ($1, '', $n);
			}
			elsif ($line =~ /^## (.*)/)
			{
				push @sections, { title => $1, blocks => [] };
				$block = undef;
			}
		}
		elsif ($line !~ /^```$/)
		{
			$body .= $line;
		}
		else
		{
			if ($kind eq 'sql')
			{
				$block = { line => $begin, sql => $body, section => $sections[-1]{title} };
				push @{ $sections[-1]{blocks} }, $block;
			}
			elsif ($kind eq 'text')
			{
				die "line $begin: the output of nothing" unless $block;
				$block->{output} = $body;
				$block = undef;
			}
			$kind = undef;
		}
	}
	die "line $begin: has no end" if defined $kind;
	return grep { @{ $_->{blocks} } } @sections;
}

# The blocks of each session in which a document runs.
sub doc_sessions
{
	my ($text) = @_;
	my @sections = doc_sections($text);
	my @whole = map { @{ $_->{blocks} } } @sections;

	return unless @whole;
	return \@whole
	  unless $text =~ /Each\s+(?:section\s+runs\s+in\s+a\s+new\s+database|recipe\s+(also)\s+runs\s+alone)/;

	my $also = $1;
	my $top = $sections[0]{title} eq 'top' ? shift @sections : { blocks => [] };
	return ($also ? \@whole : (), map { [ @{ $top->{blocks} }, @{ $_->{blocks} } ] } @sections);
}

# What psql gets to run blocks in one session.  A section that leaves the session in another
# role or in a transaction says so in the answer to its last block.
sub session_script
{
	my ($blocks) = @_;
	my $script = '';

	foreach my $i (0 .. $#$blocks)
	{
		$script .= "\\echo == block $i\n$blocks->[$i]{sql}\n";
		$script .= <<'SQL'
SELECT 'ERROR: the section ends in role ' || current_user WHERE NOT current_setting('is_superuser')::bool
UNION ALL
SELECT 'ERROR: the section ends in a transaction' WHERE now() <> statement_timestamp() \g (tuples_only=on format=unaligned)
SQL
		  if $i == $#$blocks || $blocks->[$i]{section} ne $blocks->[ $i + 1 ]{section};
	}
	return $script;
}

# The answer to each of the blocks, from what psql says to the script.
sub session_answers
{
	my ($blocks, $output) = @_;
	my %said = $output =~ /^== block (\d+)\n(.*?)(?=^== block |\z)/gms;

	return map { $said{$_} // 'psql did not get here' } 0 .. $#$blocks;
}

# Run blocks in one session; what psql says to each.
sub run_session
{
	my ($blocks, @psql) = @_;
	my $script = session_script($blocks);
	my $output = '';

	require IPC::Run;
	IPC::Run::run([ 'psql', '-X', '-q', @psql ], '<', \$script, '>&', \$output,
		IPC::Run::timeout($ENV{PG_TEST_TIMEOUT_DEFAULT} // 180));
	return session_answers($blocks, $output);
}

# Without what differs from run to run: points in time, fractions of seconds and of
# tokens that go on refilling, and how wide that makes a column.
sub normal_output
{
	my ($output) = @_;

	# PostgreSQL 18 and later say where in the script of an extension an error is
	$output =~ s/^CONTEXT:  SQL statement ".*?^extension script file [^\n]*\n//gms;
	$output =~ s/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?(\+\d\d)?/TIME/g;
	$output =~ s/(\d\d:\d\d):(\d\d\.\d+)/sprintf '%s:%02.0f', $1, $2/ge;
	$output =~ s/\d+\.\d{4,}|\d+\.\d+(?= of \d)/sprintf '%.0f', $&/ge;
	$output =~ s/--+/--/g;
	$output =~ s/ +/ /g;
	$output =~ s/ $//gm;
	$output =~ s/\n+\z/\n/;
	return $output;
}

# Is what psql said other than what the document shows?
sub differs
{
	my ($block, $said) = @_;

	return $said =~ /^(?:ERROR|FATAL|psql|invalid command)/m unless defined $block->{output};
	return normal_output($said) ne normal_output($block->{output});
}

1;
