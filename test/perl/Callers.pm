# Sessions that call without a pause while servers are killed, and write down what they were told.
package Callers;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use POSIX ();
use PostgreSQL::Test::Cluster ();
use PostgreSQL::Test::Utils;
use Time::HiRes;

our @EXPORT = qw(start_callers end_callers read_answers);

my $folder;
my @children;

# So many processes run the SQL script again and again, with a new connection after an error.
# Each line that the script prints for a call is "key|answer|time".
sub start_callers
{
	my ($node, $callers, $sql) = @_;
	my $connection = $node->connstr('postgres');

	$folder = $node->basedir;
	PostgreSQL::Test::Utils::append_to_file("$folder/calls.sql", $sql);
	foreach my $caller (1 .. $callers)
	{
		my $pid = fork() // die $!;

		if ($pid == 0)
		{
			open(STDERR, '>', '/dev/null');
			open(STDOUT, '>>', "$folder/answers$caller");
			for (my $run = 1; !-e "$folder/over"; $run++)
			{
				# the gateway of its violations, and where its answers begin
				local $ENV{PGAPPNAME} = "$caller.$run";
				syswrite(STDOUT, "$caller.$run\n");
				Time::HiRes::usleep(50_000)
				  if system('psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $connection, '-f', "$folder/calls.sql") != 0;
			}
			POSIX::_exit(0);
		}
		push @children, $pid;
	}
	return;
}

sub end_callers
{
	return if !@children;
	PostgreSQL::Test::Utils::append_to_file("$folder/over", '');
	waitpid($_, 0) foreach @children;
	@children = ();
	return;
}

END
{
	# whatever became of the test, they stop
	my $status = $?;

	end_callers();
	$? = $status;
}

# What they were told: gateway, key, answer and time of each call.
sub read_answers
{
	my @answers;

	foreach my $file (glob "$folder/answers*")
	{
		my $gateway = '';

		foreach my $line (split /\n/, slurp_file($file))
		{
			$gateway = $1 if $line =~ /^(\d+\.\d+)$/;
			# the last line before a crash may be cut off
			push @answers, [ $gateway, $1, $2, $3 ] if $line =~ /^(\w+)\|([tf])\|([\d.]{17,})$/;
		}
	}
	return @answers;
}

1;
