# The header fields are those of draft-ietf-httpapi-ratelimit-headers-10: a parser of
# structured fields that is not ours reads them, whatever names and numbers go in, and
# q, w, r, t, qu and pk are what the draft says that they are.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use RateLimitTest;
use Test::More;

my $parser = 'structured-headers@2.1.0';
my $json = JSON::PP->new->canonical->utf8;

# Without npm there is no such parser.
foreach my $program (qw(node npm))
{
	plan skip_all => "$program is not installed: it brings the parser of structured fields"
	  unless IPC::Run::run([ 'sh', '-c', "command -v $program >/dev/null" ]);
}

my $folder = PostgreSQL::Test::Utils::tempdir();
my $npm_says = '';
my $installed = do
{
	local $ENV{HOME} = $folder;
	local $ENV{NODE_EXTRA_CA_CERTS} = '/etc/ssl/certs/ca-certificates.crt';    # what this machine trusts
	IPC::Run::run(
		[ qw(npm install --no-audit --no-fund --no-save --ignore-scripts --fetch-retries=1), '--prefix' => $folder, $parser ],
		'>&', \$npm_says, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
};
if (!$installed)
{
	fail("npm installs $parser, which it cannot without a network");
	diag($npm_says);
	done_testing();
	exit;
}

# Read objects of fields, a line each, and write what the parser makes of them: of each
# field a list of name and parameters.  A byte sequence comes out as {"bytes": hex}.
append_to_file("$folder/parse.cjs", <<'JS');
const { parseList } = require('structured-headers');

const plain = (value) => value instanceof ArrayBuffer ? { bytes: Buffer.from(value).toString('hex') }
	: typeof value === 'string' || Number.isInteger(value) ? value
	: { other: String(value) };

for (const line of require('fs').readFileSync(0, 'utf8').split('\n').filter(Boolean)) {
	const parsed = {};
	for (const [name, field] of Object.entries(JSON.parse(line))) {
		try {
			parsed[name] = name === 'Retry-After' ? field : parseList(field).map(([item, parameters]) =>
				({ name: plain(item), ...Object.fromEntries([...parameters].map(([k, v]) => [k, plain(v)])) }));
		} catch (error) {
			parsed[name] = { error: error.message };
		}
	}
	console.log(JSON.stringify(parsed));
}
JS

# What the parser makes of JSON objects of fields.
sub parse
{
	my (@objects) = @_;
	my $in = join '', map { "$_\n" } @objects;
	my ($out, $err);

	IPC::Run::run([ 'node', "$folder/parse.cjs" ], '<', \$in, '>', \$out, '2>', \$err)
	  or die "node: $err";
	return map { $json->decode($_) } split /\n/, $out;
}

like((parse('{"RateLimit": "\"a\";r=1;;t"}'))[0]{RateLimit}{error}, qr/./, 'the parser does not take what is no list');

my $node = start_server('http_fields', conf => 'ratelimit.flush_interval = 1h');

# The fields of the last of some calls, parsed.
sub fields
{
	my ($calls, $arguments) = @_;
	my ($out) = $node->safe_psql('postgres',
		"SELECT rl_headers(r" . ($arguments // '') . ") FROM $calls r") =~ /([^\n]+)\z/;

	return (parse($out))[0];
}

sub is_fields
{
	my ($fields, $expected, $what) = @_;

	is($json->encode($fields), $json->encode($expected), $what);
	return;
}

is_fields(fields(q(rl_throttle('one', 100, 100 / 60.0))),
	{ RateLimit => [ { name => 'default', r => 99, t => 1 } ], 'RateLimit-Policy' => [ { name => 'default', q => 100, w => 60 } ] },
	'allowed: r is what remains, t the time until there is one more, q and w 100 in 60 s');
is_fields(fields(q(rl_throttle('day', 1000, 1000 / 86400.0, 400))),
	{ RateLimit => [ { name => 'default', r => 600, t => 87 } ], 'RateLimit-Policy' => [ { name => 'default', q => 1000, w => 86400 } ] },
	'... 1000 a day');
is_fields(fields(q(generate_series(1, 3) n, rl_throttle('few', 2, 0.1, n / n))),
	{ RateLimit => [ { name => 'default', r => 0, t => 10 } ], 'RateLimit-Policy' => [ { name => 'default', q => 2, w => 20 } ], 'Retry-After' => '10' },
	'denied: Retry-After is t');
is_fields(fields(q((SELECT rl_throttle('many', 10, 0.1, 7), 1) a, rl_throttle('many', 10, 0.1, 7))),
	{ RateLimit => [ { name => 'default', r => 3, t => 10 } ], 'RateLimit-Policy' => [ { name => 'default', q => 10, w => 100 } ], 'Retry-After' => '40' },
	'denied a cost of 7, with 3 there: one more comes sooner than Retry-After');
is_fields(fields(q((SELECT rl_throttle('part', 2, 0.1, 1.5), 1) a, rl_throttle('part', 2, 0.1, 0.75))),
	{ RateLimit => [ { name => 'default', r => 0, t => 3 } ], 'RateLimit-Policy' => [ { name => 'default', q => 2, w => 20 } ], 'Retry-After' => '3' },
	'denied a fraction: Retry-After is not before t');
is_fields(fields(q(rl_throttle('never', 5, 0))),
	{ RateLimit => [ { name => 'default', r => 4 } ], 'RateLimit-Policy' => [ { name => 'default', q => 5 } ] },
	'what never refills has neither t nor w');
is_fields(fields(q(rl_peek('full', 5, 1, 0))),
	{ RateLimit => [ { name => 'default', r => 5 } ], 'RateLimit-Policy' => [ { name => 'default', q => 5 } ] },
	'a full bucket gets no more: no t');
is_fields(fields(q(rl_throttle('large', 5, 1, 6))),
	{ RateLimit => [ { name => 'default', r => 5 } ], 'RateLimit-Policy' => [ { name => 'default', q => 5 } ] },
	'a cost above the capacity: no Retry-After');
is_fields(fields(q((SELECT rl_block('blocked', '1 hour'), rl_throttle('blocked', 5, 1)) a, rl_throttle('blocked', 5, 1))),
	{ RateLimit => [ { name => 'default', r => 0, t => 3600 } ], 'RateLimit-Policy' => [ { name => 'default', q => 5 } ], 'Retry-After' => '3600' },
	'blocked: there is more when the block ends');
is_fields(fields(q((SELECT rl_penalize('debt', 5, 0.1, 7), 1) a, rl_throttle('debt', 5, 0.1))),
	{ RateLimit => [ { name => 'default', r => 0, t => 30 } ], 'RateLimit-Policy' => [ { name => 'default', q => 5, w => 50 } ], 'Retry-After' => '30' },
	'in debt: until the first token');

is_fields(fields(q(rl_throttle('unit', 1e6, 1e5, 250000)), q(, 'bandwidth', 'content-bytes', convert_to('alice', 'UTF8'))),
	{ RateLimit => [ { name => 'bandwidth', r => 750000, t => 1, pk => { bytes => unpack 'H*', 'alice' } } ],
		'RateLimit-Policy' => [ { name => 'bandwidth', q => 1000000, qu => 'content-bytes', w => 10, pk => { bytes => unpack 'H*', 'alice' } } ] },
	'a quota unit and a partition key');
is_fields(fields(q(rl_throttle('unit', 1, 1, 1)), q(, partition_key => '')),
	{ RateLimit => [ { name => 'default', r => 0, t => 1, pk => { bytes => '' } } ], 'RateLimit-Policy' => [ { name => 'default', q => 1, w => 1, pk => { bytes => '' } } ] },
	'a partition key of no bytes');

# w is the same from call to call, whatever the rest of a token
my %windows;
foreach my $fields (parse(split /\n/, $node->safe_psql('postgres', <<'SQL')))
SELECT rl_headers(rl_throttle('same', 1000, 1000 / 3600.0, cost), 'same') FROM generate_series(1, 40) n, LATERAL (SELECT 0.37 * n AS cost) c
SQL
{
	$windows{ $fields->{'RateLimit-Policy'}[0]{w} // 'none' }++;
}
is($json->encode(\%windows), '{"3600":40}', 'w is the same from call to call');

# Whatever numbers: integers that the parser takes, and t by the time until there is more
my @all = parse(split /\n/, $node->safe_psql('postgres', <<'SQL'));
SELECT rl_headers(rl_throttle(format('%s %s %s', capacity, refill, cost), capacity, refill, cost), 'p') FROM
	(VALUES (0.5::float8), (1), (2.5), (60), (1e6), (1e12)) c (capacity), (VALUES (0::float8), (3.17e-8), (0.3), (7), (1e9)) r (refill),
	(VALUES (0::float8), (0.1), (1), (3), (1e7)) q (cost), generate_series(1, 2)
SQL
my @bad = grep
{
	my $fields = $_;
	grep { ref $_ ne 'ARRAY' || @$_ != 1 || $_->[0]{name} ne 'p' } @$fields{qw(RateLimit RateLimit-Policy)}
	  or grep { defined && !/^\d+$/ } $fields->{RateLimit}[0]{r}, $fields->{RateLimit}[0]{t}, $fields->{'RateLimit-Policy'}[0]{q}
	  or ($fields->{'RateLimit-Policy'}[0]{w} // 1) !~ /^[1-9]\d*$/
	  or ($fields->{'Retry-After'} // 1e15) < ($fields->{RateLimit}[0]{t} // 0)
} @all;
is(scalar @all, 300, 'all numbers');
is(join("\n", map { $json->encode($_) } @bad), '', '... give fields that are right');

# Whatever names
my @names = (map({ chr } 1 .. 255), 'a b', '"quoted" \\ and "', "caf\x{e9}", 'x;y=1,z', '', ' ');
utf8::upgrade($_), utf8::encode($_) foreach @names;
my @read = parse(split /\n/, $node->safe_psql('postgres',
		'SELECT rl_headers((true, 5, 4, \'0\', \'1 s\', \'l\', false, NULL)::rl_result, convert_from(decode(h, \'hex\'), \'UTF8\')) FROM unnest(ARRAY['
		  . join(', ', map { "'" . unpack('H*', $_) . "'" } @names) . ']::text[]) WITH ORDINALITY n (h, i) ORDER BY i'));
@bad = ();
foreach my $i (0 .. $#names)
{
	my $name = $names[$i];

	$name =~ s/([^ -~])/sprintf '%%%02X', ord $1/ge;
	push @bad, $name unless ref $read[$i]{RateLimit} eq 'ARRAY' && $read[$i]{RateLimit}[0]{name} eq $name;
}
is(join(' ', @bad), '', 'all names are read as they were written, what is not printable ASCII as in a URL');

#
# t is the time until there is more
#
my ($remaining, $called) = split /@/, $node->safe_psql('postgres', q(SELECT floor(remaining), rl_headers(r) ->> 'RateLimit', '@', extract(epoch FROM statement_timestamp()) FROM rl_throttle('timed', 5, 0.7) r), extra_params => [ '-F', ' ' ]);
like($remaining, qr/^4 "default";r=4;t=2/, 'a token every 1.43 s');
$node->poll_query_until('postgres', q(SELECT floor(remaining) = 5 FROM rl_peek('timed', 5, 0.7, 0)));
cmp_ok($node->safe_psql('postgres', 'SELECT extract(epoch FROM clock_timestamp())') - $called, '>', 1, 'there is none after t - 1');
is($node->safe_psql('postgres', q(SELECT remaining FROM rl_peek('timed', 5, 0.7, 0))), '5', '... and one after t');

#
# The error's fields, and its details
#
my ($rc, $out, $err) = $node->psql('postgres', <<'SQL', on_error_stop => 0);
SET ratelimit.postgrest_headers = problem;
\set VERBOSITY verbose
SELECT rl_enforce('problem', 1, 0.01, limiter => 'a "limiter"'), rl_enforce('problem', 1, 0.01, limiter => 'a "limiter"');
SQL
like($err, qr/ERROR:  PGRST: /, 'problem: SQLSTATE PGRST');
my ($message) = $err =~ /PGRST: (.*)/;
my ($detail) = $err =~ /^DETAIL:  (.*)/m;
$message = $json->decode($message);
$detail = $json->decode($detail);
is_fields((parse($json->encode($detail->{headers})))[0],
	{ RateLimit => [ { name => 'a "limiter"', r => 0, t => 100 } ], 'RateLimit-Policy' => [ { name => 'a "limiter"', q => 1, w => 100 } ], 'Retry-After' => '100' },
	'... with the fields');
my %problem = (
	type => 'https://iana.org/assignments/http-problem-types#quota-exceeded',
	title => 'Quota Exceeded',
	status => 429,
	'violated-policies' => ['a "limiter"']);
is_fields($json->decode($message->{details}), \%problem, '... and as details, which PostgREST takes as text, the problem');
is_fields({ map { $_ => $message->{$_} } qw(type title status violated-policies) }, \%problem,
	'... whose members are the message\'s as well, for whoever answers with all of it');
is("$message->{code} | $message->{message} | $message->{hint}", 'PT429 | rate limit exceeded | Wait 100 s.', '... and the members that PostgREST needs');

# Several limits are one list
my $response = $node->safe_psql('postgres', <<'SQL');
INSERT INTO rate_limit_policies (policy, capacity, refill) VALUES ('address', 10, rl_per(10, '1 minute')), ('user', 1000, rl_per(1000, '1 day'));
INSERT INTO rate_limit_postgrest_rules (position, policy, key_from, key_name) VALUES (1, 'address', 'address', NULL), (2, 'user', 'claim', 'sub');
BEGIN READ ONLY;
SELECT set_config('request.headers', '{"x-forwarded-for": "192.0.2.1"}', true), set_config('request.jwt.claims', '{"sub": "alice"}', true) \g /dev/null
SELECT rl_postgrest_check() \g /dev/null
SELECT current_setting('response.headers');
SQL
is_fields((parse($json->encode({ map { %$_ } @{ $json->decode($response) } })))[0],
	{ RateLimit => [ { name => 'address', r => 9, t => 6 }, { name => 'user', r => 999, t => 87 } ],
		'RateLimit-Policy' => [ { name => 'address', q => 10, w => 60 }, { name => 'user', q => 1000, w => 86400 } ] },
	'rl_postgrest_check(): a list of the limits of all rules');

# Errors
foreach my $case (
	[ q(rl_headers(r, quota_unit => '')), '22023: quota_unit must not be empty' ],
	[ q(rl_headers(r, quota_unit => repeat('x', 256))), '54000: quota_unit must not be longer than 255 bytes' ],
	[ q(rl_headers(r, partition_key => convert_to(repeat('x', 256), 'UTF8'))), '54000: partition_key must not be longer than 255 bytes' ])
{
	(undef, undef, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT $case->[0] FROM rl_peek('k', 1, 1) r");
	like($err, qr/ERROR:  \Q$case->[1]\E/, "$case->[0]");
}

$node->stop;
done_testing();
