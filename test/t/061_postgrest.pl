# PostgREST's requests are limited by the db-pre-request function of docs/postgrest.md,
# those that read as well, and the errors are what PostgREST makes status 429 and
# headers of.  What PostgREST sends and reads is in its documentation, "Transactions"
# and "Errors".
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use DocTest;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PostgrestTest;
use RateLimitTest;
use Test::More;

my $json = JSON::PP->new->canonical;

# The statements of the document, a block each: what an API needs, and the functions of
# one's own, the first of which raises errors and the second adds headers.
my @doc = map { map { $_->{sql} } @{ $_->{blocks} } } doc_sections(slurp_file("$FindBin::RealBin/../../docs/postgrest.md"));
my ($needs) = grep { /CREATE ROLE authenticator/ } @doc;
my ($function) = grep { /^CREATE FUNCTION public.limit_request/ } @doc;
my ($with_headers) = grep { /^CREATE OR REPLACE FUNCTION public.limit_request/ } @doc;

# A server with the roles, the table and the function of the document.
sub start_api
{
	my ($name, %options) = @_;
	my $node = start_server($name, %options, conf => 'ratelimit.flush_interval = 1h');

	$node->safe_psql('postgres', "DROP EXTENSION ratelimit;\n$needs");
	$node->safe_psql('postgres', 'ALTER DATABASE postgres SET search_path = "$user", public, ratelimit');
	$node->safe_psql('postgres', $function);
	return $node;
}

# Is the answer the error that PostgREST makes 429 of, with headers?  Numbers and
# strings are told apart; the only thing that may differ is the seconds to wait.
sub is_429
{
	my ($answer, $key, $limiter, $capacity, $most_seconds, $what) = @_;
	my ($seconds) = ($answer->{message} // '') =~ /"Wait (\d+) s\."/;

	is($answer->{sqlstate}, 'PGRST', "$what: SQLSTATE") or diag($answer->{err});
	ok(defined $seconds && $seconds >= 1 && $seconds <= $most_seconds, "$what: says when to come back");
	$seconds //= 'no';
	$answer->{message} =~ s/: [\d.]+ of/: 0 of/;
	is($json->encode($json->decode($answer->{message})),
		$json->encode({
			code => 'PT429',
			message => 'rate limit exceeded',
			details => qq(key "$key", limiter "$limiter": 0 of $capacity tokens remaining),
			hint => "Wait $seconds s."
		}), "$what: code, message, details and hint, strings all");
	is($json->encode($json->decode($answer->{detail})),
		$json->encode({
			status => 429,
			headers => {
				'RateLimit' => qq("$limiter";r=0;t=$seconds),
				'RateLimit-Policy' => qq("$limiter";q=$capacity;w=100),
				'Retry-After' => "$seconds"
			}
		}), "$what: status, a number, and headers, strings all");
	return;
}

my %from_here = (headers => { 'x-forwarded-for' => '203.0.113.7' });
my %alice = (claims => { sub => 'alice' });

#
# Preloaded
#
my $node = start_api('preloaded');

my $answer = request($node, 'GET', %from_here);
is("$answer->{out}$answer->{err}", qq([{"id":1,"name":"a lamp"}]\nheaders ), 'GET: answered');
$answer = request($node, 'GET', %from_here, times => 40);
cmp_ok($answer->{answered}, '>=', 9, 'GET: as many as the bucket has are answered');
is_429($answer, '203.0.113.7', 'api_ip', 10, 10, 'GET, read only');
$answer = request($node, 'GET',
	headers => { 'x-forwarded-for' => '192.0.2.1, 198.51.100.9, 203.0.113.7' }, times => 5);
is($answer->{sqlstate}, 'PGRST', 'GET: what the client puts before its address does not help it');
is(request($node, 'GET', headers => { 'x-forwarded-for' => '203.0.113.8' })->{err}, '', 'GET: another address is answered');
is(request($node, 'GET')->{err}, '', 'GET: no address either');

is($node->safe_psql('postgres',
		"SELECT gateway_name, limiter, key, count FROM rate_limit_pending WHERE limiter = 'api_ip'"),
	'061_postgrest.pl|api_ip|203.0.113.7|2', 'the denied ones are violations, though rolled back');

is(request($node, 'POST', %alice)->{out}, "created\nheaders ", 'POST with a JWT: answered');
$answer = request($node, 'POST', %alice, times => 300);
cmp_ok(scalar(() = $answer->{out} =~ /created/g), '>=', 99, 'POST: as many as the bucket has are answered');
is_429($answer, 'alice', 'api_user', 100, 1, 'POST, read-write');
is(request($node, 'POST', claims => { sub => 'bob' })->{err}, '', 'POST: somebody else is answered');

# a request that fails has used its token
$answer = request($node, 'GET', headers => { 'x-forwarded-for' => '203.0.113.9' }, query => 'SELECT 1 / 0');
is($answer->{sqlstate}, '22012', 'a request that fails');
cmp_ok($node->safe_psql('postgres',
	"SELECT remaining FROM rl_peek('203.0.113.9', 10, 0.1, 0, 'api_ip')"), '<', 10, '... has used its token');

# without headers
$node->safe_psql('postgres', 'ALTER FUNCTION public.limit_request() RESET ratelimit.postgrest_headers');
$answer = request($node, 'GET', %from_here, times => 40);
is($answer->{sqlstate}, 'PT429', 'without headers: SQLSTATE');
is($answer->{message}, 'rate limit exceeded', '... message');
like($answer->{detail}, qr/^key "203\.0\.113\.7", limiter "api_ip": [\d.]+ of 10 tokens remaining$/, '... detail');
like($answer->{hint}, qr/^Wait \d+ s\.$/, '... hint');

# headers on every answer
$node->safe_psql('postgres', $with_headers);
$answer = request($node, 'GET', claims => { sub => 'dave' });
my ($set) = $answer->{out} =~ /^headers (.*)$/m;
is($json->encode($json->decode($set)),
	$json->encode([ { RateLimit => '"api_user";r=99;t=1' }, { 'RateLimit-Policy' => '"api_user";q=100;w=100' } ]),
	'headers of an allowed request: objects of one string each');
$answer = request($node, 'GET', claims => { sub => 'dave' }, times => 300);
is($answer->{sqlstate}, 'PGRST', 'and when denied: SQLSTATE');
is($json->encode($json->decode($answer->{message})),
	'{"code":"too_many","hint":"Slow down.","message":"Too many requests"}', '... message');
is($json->encode($json->decode($answer->{detail})),
	'{"headers":{"RateLimit":"\"api_user\";r=0;t=1","RateLimit-Policy":"\"api_user\";q=100;w=100","Retry-After":"1"},"status":429}',
	'... detail');
$node->stop;

#
# Not preloaded
#
$node = start_api('not_preloaded', preload => 0);

$answer = request($node, 'POST', %alice, times => 300);
cmp_ok($answer->{answered}, '>=', 100, 'not preloaded, POST: as many as the bucket has are answered');
is_429($answer, 'alice', 'api_user', 100, 1, 'not preloaded, POST');
# the first ones may find that a second has passed
$answer = request($node, 'GET', %alice, times => 30);
is_429($answer, 'alice', 'api_user', 100, 1, 'not preloaded, GET, read only');

# the table cannot be used: what ratelimit.on_error says
my $operator = in_session($node);
$operator->query_safe('BEGIN; LOCK rate_limit_buckets');
$node->safe_psql('postgres', q(ALTER ROLE authenticator SET lock_timeout = '100ms'; ALTER ROLE authenticator SET ratelimit.on_error = 'allow'));
$answer = request($node, 'GET', %alice, times => 3);
is($answer->{answered}, 3, 'not preloaded, table locked, on_error = allow: answered, without limit');
like($answer->{err}, qr/WARNING: .* could not decide on key "alice", limiter "api_user": allowed/, '... with a warning');

$node->safe_psql('postgres', q(ALTER ROLE authenticator SET ratelimit.on_error = 'deny'));
$answer = request($node, 'GET', %alice);
is($answer->{sqlstate}, 'PGRST', '... on_error = deny: SQLSTATE');
is($json->encode($json->decode($answer->{message})),
	'{"code":"PT429","details":"key \"alice\", limiter \"api_user\"","hint":null,"message":"rate limit exceeded"}',
	'... message, with what is known');
is($json->encode($json->decode($answer->{detail})),
	'{"headers":{"RateLimit-Policy":"\"api_user\";q=100;w=100"},"status":429}', '... detail');
$operator->query_safe('ROLLBACK');
finish_session($operator);
$node->stop;

done_testing();
