# The file of saved state (src/core/saved_file.c), as tests read and change it; and the
# seam (test/seam/seam.c), through which they change the server's clock and disk.
package SavedState;

use strict;
use warnings FATAL => 'all';

use Cwd ();
use Exporter 'import';
use File::Basename;
use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes;

our @EXPORT = qw(
  state_file state_bytes put_state state_header state_records state_buckets
  state_with state_from_records wait_for_save kill_postmaster saver_pid wait_until_gone
  preload_seam set_seam get_seam
);

use constant HEADER_SIZE => 512;
use constant CRC_AT => 264;
use constant MAX_KINDS => 16;
our @KINDS = qw(store bucket ticket limiter lost violation episode track_seeds track due_flag database reservation);

# name, offset, template
my @FIELDS = (
	[ magic => 0, 'L' ], [ format => 4, 'L' ], [ pg_version => 8, 'L' ],
	[ at_stop => 12, 'C' ], [ used => 13, 'C' ], [ version => 14, 'Z16' ],
	[ system_identifier => 32, 'Q' ], [ born => 40, 'q' ],
	[ inode => 48, 'Q' ], [ checkpoint => 56, 'Q' ], [ saved_at => 64, 'q' ],
	[ mono => 72, 'q' ], [ boot => 80, 'a40' ], [ length => 120, 'q' ],
	(map { [ "n_$KINDS[$_]" => 128 + 8 * $_, 'Q' ] } 0 .. $#KINDS),
	[ timeline => 128 + 8 * MAX_KINDS, 'L' ], [ records_crc => 132 + 8 * MAX_KINDS, 'L' ], [ crc => CRC_AT, 'L' ]);

sub state_file
{
	my ($node) = @_;

	return $node->data_dir . '/pg_stat/pgsql_tmp.ratelimit';
}

sub state_bytes
{
	my ($node) = @_;

	return slurp_file(state_file($node));
}

# Put this into the file's place.
sub put_state
{
	my ($node, $bytes) = @_;
	my $name = state_file($node);

	open(my $file, '>:raw', $name) or die "$name: $!";
	print $file $bytes;
	close($file) or die "$name: $!";
	return;
}

sub state_header
{
	my ($bytes) = @_;

	return { map { $_->[0] => unpack("x$_->[1] $_->[2]", $bytes) } @FIELDS };
}

# [kind, bytes] of each record.
sub state_records
{
	my ($bytes) = @_;
	my $at = HEADER_SIZE;
	my @records;

	while ($at < length($bytes))
	{
		my ($kind, $size) = unpack('SS', substr($bytes, $at, 4));

		push @records, [ $kind, substr($bytes, $at + 4, $size) ];
		$at += 4 + $size;
	}
	return @records;
}

# Each bucket: what it owed when saved, and when it will be full (monotonic clock).
sub state_buckets
{
	my ($bytes) = @_;
	my $mono = state_header($bytes)->{mono};
	my %buckets;

	foreach my $record (grep { $KINDS[ $_->[0] ] eq 'bucket' } state_records($bytes))
	{
		my ($capacity, $refill, $low, $high, $database, $limiter_len, $key_len) =
		  unpack('ddQqLx20CC', $record->[1]);
		my $names = substr($record->[1], 58);
		my $name = $database . '/' . substr($names, 0, $limiter_len) . '/' . substr($names, $limiter_len);

		die "twice: $name" if $buckets{$name};
		die "owes more than is tested: $name" if $high != 0;
		$buckets{$name} = { capacity => $capacity, refill => $refill, owed => $low, full_at => $low + $mono };
	}
	return \%buckets;
}

my @crc_table = map {
	my $crc = $_;
	$crc = $crc & 1 ? ($crc >> 1) ^ 0x82F63B78 : $crc >> 1 for 1 .. 8;
	$crc
} 0 .. 255;

sub crc32c
{
	my ($bytes) = @_;
	my $crc = 0xFFFFFFFF;

	$crc = ($crc >> 8) ^ $crc_table[ ($crc ^ $_) & 0xFF ] foreach unpack('C*', $bytes);
	return $crc ^ 0xFFFFFFFF;
}

# The file with fields of its header changed, and the right checksum.
sub state_with
{
	my ($bytes, %changes) = @_;

	foreach my $field (@FIELDS)
	{
		my ($name, $at, $template) = @$field;

		next unless exists $changes{$name};
		my $packed = pack($template, delete $changes{$name});
		substr($bytes, $at, length($packed)) = $packed;
	}
	die 'no such field: ' . join(' ', keys %changes) if %changes;
	substr($bytes, CRC_AT, 4) = pack('L', crc32c(substr($bytes, 0, CRC_AT)));
	return $bytes;
}

# A file of these records with the header's other fields and the right checksums.
sub state_from_records
{
	my ($header, @records) = @_;
	my $body = join('', map { pack('SS', $_->[0], length($_->[1])) . $_->[1] } @records);
	my %count = map { ("n_$_" => 0) } @KINDS;

	foreach my $record (@records)
	{
		$count{"n_$KINDS[$record->[0]]"}++ if $record->[0] < @KINDS;
	}
	return state_with(substr($header, 0, HEADER_SIZE), length => length($body),
		records_crc => crc32c($body), %count)
	  . $body;
}

# Until state has been saved that includes all there is now.
sub wait_for_save
{
	my ($node) = @_;
	my $now = $node->safe_psql('postgres',
		"SELECT (extract(epoch FROM clock_timestamp() - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint");

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if -e state_file($node) && state_header(state_bytes($node))->{saved_at} >= $now;
		Time::HiRes::usleep(100_000);
	}
	return 0;
}

# kill -9 the postmaster, and start the server again once its children have seen it.
sub kill_postmaster
{
	my ($node) = @_;
	my $folder = Cwd::realpath($node->data_dir);

	$node->kill9;
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		# who is gone, or a zombie, has no working directory
		last unless grep { ($_ // '') eq $folder } map { readlink($_) } glob '/proc/[0-9]*/cwd';
		Time::HiRes::usleep(100_000);
	}
	# which may be long in coming to rest, where init takes its time
	unlink($node->data_dir . '/postmaster.pid', $node->host . '/.s.PGSQL.' . $node->port . '.lock');
	$node->start;
	return;
}

# The saver shows in no view: it is connected to nothing.  Without "once", it is waited for.
sub saver_pid
{
	my ($node, $once) = @_;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		foreach my $name (glob '/proc/[0-9]*/stat')
		{
			my ($pid) = $name =~ /(\d+)/;
			my $stat = eval { slurp_file($name) } // '';
			my $title = eval { slurp_file("/proc/$pid/cmdline") } // '';

			return $pid if $stat =~ /^\d+ \(.*\) [^ZX] $postmaster / && $title =~ /ratelimit saver/;
		}
		return undef if $once;
		Time::HiRes::usleep(100_000);
	}
	die 'no saver';
}

# Until the process has ended, or is a zombie.
sub wait_until_gone
{
	my ($pid) = @_;

	foreach (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if (eval { slurp_file("/proc/$pid/stat") } // '0 () Z') =~ /^\d+ \(.*\) [ZX]/;
		Time::HiRes::usleep(10_000);
	}
	return 0;
}

# From its next start on the node's server sees the seam.  Returns what to give to
# set_seam() and get_seam(), and what start() has to see in %ENV.
my @SEAM = qw(clock_us write_errno write_after fsync_errno rename_errno unlink_errno hang hanging
  stopped stop_after stop_pid);

sub preload_seam
{
	my ($node) = @_;
	my $library = $node->basedir . '/seam.so';
	my $control = $node->basedir . '/seam';
	my $source = dirname(dirname(__FILE__)) . '/seam/seam.c';

	system_or_bail($ENV{CC} // 'gcc', '-shared', '-fPIC', '-O1', '-Wall', '-Werror', '-o', $library, $source, '-ldl');
	PostgreSQL::Test::Utils::append_to_file($control, "\0" x (8 * @SEAM));
	# a sanitizer has to come first
	return ($control, LD_PRELOAD => join(' ', $ENV{LD_PRELOAD} // (), $library), RATELIMIT_SEAM => $control);
}

sub set_seam
{
	my ($control, %values) = @_;

	open(my $file, '+<:raw', $control) or die "$control: $!";
	foreach my $n (0 .. $#SEAM)
	{
		next unless exists $values{ $SEAM[$n] };
		sysseek($file, 8 * $n, 0);
		syswrite($file, pack('q', $values{ $SEAM[$n] }));
	}
	close($file);
	return;
}

sub get_seam
{
	my ($control, $name) = @_;
	my %values;

	@values{@SEAM} = unpack('q*', slurp_file($control));
	return $values{$name};
}

1;
