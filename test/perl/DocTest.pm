# DocTest.pm: the examples of a document, and what psql says to them.
#
# In a document, the statements of a ```sql block are run as written, and the ```text
# block after it shows what psql answers; if there is none, they must merely not fail.
# What stands under one "## " heading runs in one session, in a database of its own.
# What an example needs and a reader need not see is in a comment:
#
#   <!-- sql
#   CREATE ROLE support;
#   -->
package DocTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(doc_sections run_section differs normal_output);

# The sections that have statements: title, and blocks, each of line, sql and, if it
# is shown, output with its line.
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
			if ($line =~ /^(?:```|<!-- )(\w*)$/)
			{
				($kind, $body, $begin) = ($1, '', $n);
			}
			elsif ($line =~ /^## (.*)/)
			{
				push @sections, { title => $1, blocks => [] };
				$block = undef;
			}
		}
		elsif ($line !~ /^(?:```|-->)$/)
		{
			$body .= $line;
		}
		else
		{
			if ($kind eq 'sql')
			{
				$block = { line => $begin, sql => $body };
				push @{ $sections[-1]{blocks} }, $block;
			}
			elsif ($kind eq 'text')
			{
				die "line $begin: the output of nothing" unless $block;
				@$block{qw(output output_line)} = ($body, $begin);
				$block = undef;
			}
			$kind = undef;
		}
	}
	die "line $begin: has no end" if defined $kind;
	return grep { @{ $_->{blocks} } } @sections;
}

# Run the blocks of a section in one session; what psql said to each.
sub run_section
{
	my ($section, @psql) = @_;
	my @blocks = @{ $section->{blocks} };
	my $script = join '', map { "\\echo == block $_\n$blocks[$_]{sql}\n" } 0 .. $#blocks;
	my $out = '';

	IPC::Run::run([ 'psql', '-X', '-q', @psql ], '<', \$script, '>&', \$out,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	my %said = $out =~ /^== block (\d+)\n(.*?)(?=^== block |\z)/gms;
	return map { $said{$_} // 'psql did not get here' } 0 .. $#blocks;
}

# Without what differs from run to run: points in time, fractions of seconds and of
# tokens that go on refilling, and how wide that makes a column.
sub normal_output
{
	my ($output) = @_;

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
