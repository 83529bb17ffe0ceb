# ByHand.pm: README.md's way from nothing to a limit and back, keystroke by keystroke: its
# ```sh blocks, each given to sh as it is, and its ```sql blocks, typed into the psql that
# the first of them opens.
package ByHand;

use strict;
use warnings FATAL => 'all';

use DocTest;
use Exporter 'import';

our @EXPORT = qw(by_hand);

# Go that way.  text: of README.md; version: of PostgreSQL, for which README.md says what
# to write instead of 15; run: called with the name of a step, a script for sh and its
# standard input, returns its output and exit status; ok: called with each outcome, a name
# and what to show if it is false.
sub by_hand
{
	my (%way) = @_;
	my @sh = $way{text} =~ /^```sh\n(.*?)^```$/gms;
	my ($blocks) = doc_sessions($way{text});

	s/\b15\b/$way{version}/g foreach @sh;
	$way{ok}->(@sh == 2 && $sh[0] =~ /psql\n\z/, 'README.md has commands that end in psql, and commands that remove the extension', scalar @sh);

	# psql in a terminal says what each command did as well
	my ($output, $status) = $way{run}->('install', "set -e\n$sh[0]", "\\set QUIET 1\n" . session_script($blocks));
	my @said = session_answers($blocks, $output);
	$way{ok}->($status == 0, 'the commands that install end well', $output);
	foreach my $i (0 .. $#$blocks)
	{
		$way{ok}->(!differs($blocks->[$i], $said[$i]),
			"README.md:$blocks->[$i]{line}, $blocks->[$i]{section}", $said[$i]);
	}

	($output, $status) = $way{run}->('remove', "set -e\n$sh[1]", '');
	$way{ok}->($status == 0, 'the commands that remove it end well', $output);
	return;
}

1;
