# by_hand.pl ROOT VERSION LOGS: go README.md's way by hand in a root, for test/bare, with the
# output of its commands in the folder LOGS.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use ByHand;

my ($root, $version, $logs) = @ARGV;
my $failed = 0;

sub read_file
{
	my ($name) = @_;
	local $/ = undef;

	open my $file, '<', $name or die "$name: $!";
	return <$file>;
}

sub write_file
{
	my ($name, $text) = @_;

	open my $file, '>', $name or die "$name: $!";
	print $file $text;
	close $file or die "$name: $!";
	return;
}

by_hand(
	text => read_file("$root/root/ratelimit/README.md"),
	version => $version,
	ok => sub {
		my ($ok, $name, $shown) = @_;

		print $ok ? "ok - $name\n" : "not ok - $name\n$shown\n";
		$failed++ unless $ok;
	},
	run => sub {
		my ($name, $script, $input) = @_;
		my $began = time;

		write_file("$root/root/$name.sh", $script);
		write_file("$root/root/$name.in", $input);
		my $status = system("env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb"
			  . " chroot $root sh -c 'cd /root/ratelimit && sh /root/$name.sh </root/$name.in' >$logs/$name.out 2>&1");
		printf "== %s: %d s\n", $name, time - $began;
		return (read_file("$logs/$name.out"), $status);
	});
exit($failed ? 1 : 0);
