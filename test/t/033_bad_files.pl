# Whatever stands in the place of the saved state, the server starts, with one
# clear line in its log, takes nothing from it, and leaves it where it is: cut off
# anywhere, with any bit flipped, no file at all, of another version.  Nor does a
# file with the right checksums and nonsense in it do any harm.
#
# RATELIMIT_FULL=1 for 200 cuts, 200 flipped bits and 200 changed bytes.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use POSIX ();
use RateLimitTest;
use SavedState;
use Test::More;

my $rounds = $ENV{RATELIMIT_FULL} ? 200 : 8;
my $seed = $ENV{RATELIMIT_SEED} || time;
srand($seed);
note "RATELIMIT_SEED=$seed";

my $node = start_server('bad', conf => <<'CONF');
ratelimit.max_buckets = 1024
ratelimit.save_interval = 0
ratelimit.flush_interval = 1h
CONF
my $file = state_file($node);

sub query
{
	return $node->safe_psql('postgres', $_[0]);
}

#
# A file with records of every kind
#
query(<<'SQL');
-- none of these becomes full while the test lasts
SELECT count(rl_consume('key ' || i, 10 + i, 0.00001)) FROM generate_series(1, 30) i;
SELECT count(rl_consume('quota ' || i, 10, 0, 2, 'quota')) FROM generate_series(1, 10) i;
SELECT rl_consume(repeat('k', 255), 10, 0, 1, repeat('l', 63));
SELECT rl_block('blocked', '1 hour'), rl_penalize('debtor', 10, 0.001, 25);
SELECT rl_report('violator', 'user', 1500), rl_report('some', 'other', 3);
SELECT rl_acquire('slots ' || i, 3, 2, '1 hour') FROM generate_series(1, 3) i;
SELECT rl_reserve('reserved', 10, 0, 3) > 0;
SELECT count(*) FROM rate_limit_episodes;
SQL
my $living = query('SELECT count(*) FROM rate_limit_status');
$node->stop;
my $good = state_bytes($node);
my $header = state_header($good);
my @records = state_records($good);
is(join(' ', map { $header->{"n_$_"} > 0 ? 1 : 0 } @SavedState::KINDS), join(' ', (1) x @SavedState::KINDS), 'a file with all kinds of records')
  or diag(explain($header));

# What became of a start: lines that tell of the file, other complaints, buckets.
sub try_start
{
	my $from = -s $node->logfile;
	my %seen;

	$node->start;
	($seen{buckets}) = split /\n/, query(<<'SQL');
SELECT count(*) FROM rate_limit_status;
SELECT rl_consume('works', 10, 0), rl_consume('key 1', 11, 0.00001), rl_report('violator', 'user', 1);
SELECT count(*) FROM rate_limit_pending, rate_limit_episodes, rate_limit_stats, rl_partitions();
SELECT rl_flush();
SQL
	# without preloading, the first session loads the file
	my $log = log_since($node, $from);
	$seen{lines} = [ $log =~ /(ratelimit: .*)/g ];
	$seen{wrong} = [ $log =~ /((?:WARNING|ERROR|FATAL|PANIC):.*|.*terminated by signal.*)/g ];
	return \%seen;
}

sub is_ignored
{
	my ($seen) = @_;

	return @{ $seen->{lines} } == 1 && @{ $seen->{wrong} } == 0 && $seen->{buckets} == 0
	  && $seen->{lines}[0] =~ /^ratelimit: ignoring file "pg_stat\/pgsql_tmp\.ratelimit": \S/;
}

# All of these are ignored and left alone.
sub all_ignored
{
	my ($what, @files) = @_;
	my $wrong = 0;

	foreach my $bytes (@files)
	{
		put_state($node, $bytes);
		my $seen = try_start();

		if (!is_ignored($seen) || state_bytes($node) ne $bytes)
		{
			diag(explain($seen)) if $wrong++ < 3;
		}
		$node->stop('immediate');
	}
	is($wrong, 0, sprintf('%s, %d times: one line, and nothing taken', $what, scalar @files));
	return;
}

all_ignored('cut off', map { substr($good, 0, int(rand(length($good)))) } 1 .. $rounds);
all_ignored('a bit flipped',
	map { my $b = $good; vec($b, int(rand(8 * length($good))), 1) ^= 1; $b } 1 .. $rounds);
all_ignored('a bit of the header flipped',
	map { my $b = $good; vec($b, int(rand(8 * 216)), 1) ^= 1; $b } 1 .. $rounds / 2);
all_ignored('a bit behind the header flipped',
	map { my $b = $good; vec($b, 8 * 216 + int(rand(8 * 296)), 1) ^= 1; $b } 1 .. 2);
all_ignored('a byte too short or too long', substr($good, 0, -1), $good . "\0");
all_ignored('empty', '');
all_ignored('something else', "PK\x03\x04 something else\n" x 100, 'x', "\0" x 4096);

foreach my $other ([ format => 1 ], [ format => 99 ], [ pg_version => 9 ], [ pg_version => 99 ])
{
	put_state($node, state_with($good, @$other));
	my $seen = try_start();
	ok(is_ignored($seen), "another version, @$other: ignored");
	like($seen->{lines}[0], qr/another version/, '... and the log says so');
	$node->stop('immediate');
}
foreach my $other ([ system_identifier => 1 ], [ born => 1, inode => 1 ])
{
	put_state($node, state_with($good, @$other));
	my $seen = try_start();
	ok(is_ignored($seen), "of another server, by @$other: ignored");
	like($seen->{lines}[0], qr/saved by another server/, '... and the log says so');
	$node->stop('immediate');
}
put_state($node, state_with($good, version => 'another'));
is(try_start()->{buckets}, $living, 'another version of the extension with the same format: taken');
$node->stop('immediate');

#
# No file
#
my %instead = (
	'a directory' => sub { mkdir($file) or die $! },
	'a directory with something in it' => sub { mkdir($file) or die $!; PostgreSQL::Test::Utils::append_to_file("$file/x", 'x') },
	'a pipe' => sub { POSIX::mkfifo($file, 0600) or die $! },
	'a device' => sub { symlink('/dev/zero', $file) or die $! },
	'an unreadable file' => sub { put_state($node, $good); chmod(0, $file) });
foreach my $what (sort keys %instead)
{
	unlink($file);
	$instead{$what}->();
	my $seen = try_start();
	ok(is_ignored($seen), "$what: one line, and nothing taken") or diag(explain($seen));
	if ($what =~ /directory/)
	{
		my $from = -s $node->logfile;
		$node->stop;
		my @lines = slurp_file($node->logfile, $from) =~ /(ratelimit: .*)/g;
		is(scalar @lines, 1, "$what: the stop cannot save, and says so in one line") or diag(explain(\@lines));
		ok(-d $file, "$what: and is still there");
		system_or_bail('rm', '-r', $file);
	}
	else
	{
		$node->stop;
		my $bytes = -p $file || -c $file ? '' : slurp_file($file);
		ok(-f $file && length($bytes) > 512, "$what: the next save replaces it");
		unlink($file);
	}
}
ok(-c '/dev/zero', 'the device is still there');
unlink($file);
my $seen = try_start();
is("@{ $seen->{lines} } $seen->{buckets}", ' 0', 'no file: nothing to tell');
$node->stop('immediate');

#
# The right checksums
#
# The bucket that is changed: with short names, whose lengths and places are known.
sub is_plain
{
	my ($record) = @_;

	return $SavedState::KINDS[ $record->[0] ] eq 'bucket' && substr($record->[1], 58) eq 'defaultkey 7';
}

sub with_record
{
	my ($kind, $at, $bytes) = @_;
	my @changed = map { [@$_] } @records;

	foreach my $record (@changed)
	{
		next unless $SavedState::KINDS[ $record->[0] ] eq $kind;
		next if $kind eq 'bucket' && !is_plain($record);
		substr($record->[1], $at, length($bytes)) = $bytes;
		last;
	}
	return state_from_records($good, @changed);
}

is(state_from_records($good, @records), $good, 'put together again it is the same file');
my ($bucket) = grep { is_plain($_) } @records;
my ($limiter_len, $key_len) = unpack('x56 CC', $bucket->[1]);
all_ignored('nonsense',
	with_record('bucket', 0, pack('d', 'NaN')), with_record('bucket', 0, pack('d', 'Inf')),
	with_record('bucket', 0, pack('d', 0)), with_record('bucket', 8, pack('d', -1)),
	with_record('bucket', 16, pack('QQ', 0, 0)), with_record('bucket', 16, pack('qq', -1, -1)),
	with_record('bucket', 16, pack('QQ', 0, 1 << 62)),
	with_record('bucket', 32, pack('L', 0)), with_record('bucket', 56, pack('C', 0)),
	with_record('bucket', 56, pack('C', 255)), with_record('bucket', 56, pack('CC', $limiter_len + $key_len, 0)),
	with_record('bucket', 58, "\0"), with_record('bucket', 59, ':'),
	with_record('bucket', 58 + $limiter_len, "\0"),
	with_record('violation', 0, pack('q', -1)), with_record('violation', 0, pack('q', ~0 >> 1)),
	with_record('violation', 20, "\xff\xff\xff"),
	with_record('ticket', 0, pack('q', 0)), with_record('ticket', 8, pack('q', -1)),
	with_record('ticket', 16, pack('q', 0)), with_record('ticket', 16, pack('q', ~0 >> 1)),
	with_record('ticket', 24, pack('L', 0)), with_record('ticket', 32, pack('l', 0)),
	with_record('ticket', 44, pack('C', 0)), with_record('ticket', 45, pack('C', 255)),
	with_record('ticket', 46, "\0"),
	with_record('episode', 0, pack('q', -(~0 >> 1) - 1)), with_record('episode', 16, pack('q', -1)),
	with_record('track', 16, pack('q', 0)), with_record('track', 24, pack('q', -1)),
	with_record('limiter', 0, pack('Q', ~0)),
	with_record('database', 8, pack('q', -1)),
	with_record('lost', 0, pack('q', -1)),
	state_from_records($good, reverse @records),
	state_from_records($good, @records, [ 99, 'x' ]),
	state_from_records($good, @records, [ $#SavedState::KINDS, '' ]),
	state_from_records($good, @records, [ $#SavedState::KINDS, 'x' x 3000 ]),
	substr(state_with($good, length => $header->{length} - 1, records_crc => SavedState::crc32c(substr($good, 512, -1))), 0, -1),
	state_with($good, n_bucket => $header->{n_bucket} + 1),
	state_with($good, length => 1 << 62),
	state_with($good, length => -1),
	state_with($good, saved_at => ~0 >> 1));

# Nonsense that may pass for sense, and times that nobody lived in
my $refused = 0;
my $taken = 0;
my $wrong = 0;
my @odd = (
	state_with($good, mono => ~0 >> 1), state_with($good, mono => -(~0 >> 1)),
	state_with($good, boot => 'x', saved_at => 0), state_with($good, boot => 'x', saved_at => -(1 << 57)),
	state_with($good, boot => 'x', saved_at => 9 * 10**18), state_with($good, at_stop => 77, used => 99),
	with_record('store', 8, pack('LL', 0, 0)), with_record('store', 8, pack('LL', ~0, ~0)),
	with_record('bucket', 36, pack('L4', (0xffffffff) x 4)), with_record('bucket', 36, pack('L4', (0) x 4)),
	with_record('bucket', 0, pack('dd', 1e308, 5e-324)), with_record('bucket', 16, pack('QQ', 0, 1 << 33)),
	(map { with_record('bucket', 36, pack('L4', @$_)) } [ 0 .. 3 ], [ 1023, 1024, 1025, 1026 ], [ (4294967280) x 4 ], [ (4294967295) x 4 ], [ (5) x 4 ]),
	with_record('ticket', 0, pack('q', ~0 >> 1)), with_record('ticket', 32, pack('l', 0x7fffffff)),
	with_record('track', 24, pack('q', ~0 >> 1)), with_record('track', 16, pack('q', ~0 >> 1)),
	with_record('violation', 8, pack('q', ~0 >> 1)), with_record('violation', 8, pack('q', -(~0 >> 1))),
	state_from_records($good), state_from_records($good, @records, @records[-1, -1]),
	state_from_records($good, map { ($_) x ($SavedState::KINDS[ $_->[0] ] eq 'lost' ? 50 : 1) } @records));
push @odd, map {
	my @changed = map { [@$_] } @records;
	my $record = $changed[ int(rand(@changed)) ];
	substr($record->[1], int(rand(length($record->[1]))), 1) = chr(int(rand(256)));
	state_from_records($good, @changed)
} 1 .. $rounds;
foreach my $bytes (@odd)
{
	put_state($node, $bytes);
	my $result = try_start();

	is_ignored($result) ? $refused++ : $taken++;
	if (@{ $result->{wrong} } || grep { !/ratelimit: (ignoring|loaded|flagged)/ } @{ $result->{lines} })
	{
		diag(explain($result)) if $wrong++ < 3;
	}
	$node->stop('immediate');
}
is($wrong, 0, 'odd but with the right checksums, ' . @odd . " times: the server starts and works ($taken taken, $refused refused)");

#
# And after all of that
#
put_state($node, $good);
$node->start;
is(query('SELECT count(*) FROM rate_limit_status'), $living, 'the good file is good');
is(query(q{SELECT tokens < 0 FROM rate_limit_status WHERE key = 'debtor'}), 't', 'a debt is one still');
is(query(q{SELECT rl_consume('blocked', 10, 0)}), 'f', 'who was blocked is');
query('TRUNCATE rate_limit_violations');
$node->stop('immediate');
put_state($node, $good);
$node->start;
query('SELECT rl_flush()');
ok($node->poll_query_until('postgres', q{SELECT sum(count) = 3 FROM rate_limit_violation_details WHERE limiter = 'other'}), 'what was pending is written');
$node->stop;
done_testing();
