# rl_postgrest_check() limits PostgREST's requests, those that read as well, by the rules
# in rate_limit_postgrest_rules, and by nothing that a client can choose.
use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/../perl";

use JSON::PP;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PostgrestTest;
use RateLimitTest;
use Test::More;

my $json = JSON::PP->new->canonical;

sub start_api
{
	my ($name, %options) = @_;
	my $node = start_server($name, %options, conf => "ratelimit.flush_interval = 1h\n");

	$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA ratelimit;
ALTER EXTENSION ratelimit SET SCHEMA ratelimit;
CREATE ROLE authenticator NOINHERIT LOGIN;
CREATE ROLE web_anon NOLOGIN;
CREATE ROLE web_user NOLOGIN;
CREATE ROLE service NOLOGIN;
GRANT web_anon, web_user, service TO authenticator;
CREATE SCHEMA api;
GRANT USAGE ON SCHEMA api, ratelimit TO web_anon, web_user, service;
CREATE TABLE api.items (id bigint PRIMARY KEY, name text);
INSERT INTO api.items VALUES (1, 'a lamp');
GRANT SELECT, INSERT ON api.items TO web_anon, web_user, service;
INSERT INTO ratelimit.rate_limit_policies (policy, capacity, refill) VALUES
	('user', 3, 0.001), ('address', 2, 0.001), ('login', 1, 0.001), ('key', 2, 0.001), ('plan', 1, 0.001);
INSERT INTO ratelimit.rate_limit_policies (policy, tier, capacity, refill) VALUES ('tiers', 'minute', 2, 0.01), ('tiers', 'day', 2, 0.001);
SQL
	return $node;
}

# Rules in place of those that there are, buckets all full.
sub set_rules
{
	my ($node, @rules) = @_;
	my @values = map
	{
		my $rule = $_;
		join ', ', map { defined $rule->{$_} ? "'$rule->{$_}'" : $_ eq 'key_from' ? "'address'" : $_ eq 'proxies' ? 1 : 'NULL' }
		  qw(position role claim claim_value methods path policy key_from key_name proxies)
	} @rules;

	$node->safe_psql('postgres', join ';', 'DELETE FROM ratelimit.rate_limit_postgrest_rules',
		map({ "INSERT INTO ratelimit.rate_limit_postgrest_rules (position, role, claim, claim_value, methods, path, policy, key_from, key_name, proxies) VALUES ($_)" } @values),
		'SELECT ratelimit.rl_reset_all(NULL)');
	return;
}

# How many of so many requests are answered, until one is denied.
sub answered
{
	my ($node, $method, %request) = @_;
	my $answer = request($node, $method, times => 6, pre_request => 'ratelimit.rl_postgrest_check', %request);

	die $answer->{err} if ($answer->{sqlstate} // 'PGRST') ne 'PGRST';
	return $answer->{answered};
}

sub from
{
	my ($addresses) = @_;

	return (headers => { 'x-forwarded-for' => $addresses });
}

my $node = start_api('rules');
my %check = (pre_request => 'ratelimit.rl_postgrest_check');

#
# No rules
#
is(answered($node, 'GET'), 6, 'without rules all requests are answered');
is(request($node, 'GET', %check)->{out}, qq([{"id":1,"name":"a lamp"}]\nheaders ), '... without headers');

#
# By claim, else by address; whoever has a role passes
#
my @rules = (
	{ position => 10, role => 'service' },
	{ position => 20, policy => 'user', key_from => 'claim', key_name => 'sub' },
	{ position => 30, role => 'web_anon', policy => 'address' });
set_rules($node, @rules);

my $answer = request($node, 'GET', %check, from('203.0.113.7'));
is($answer->{out}, qq([{"id":1,"name":"a lamp"}]\nheaders [{"RateLimit": "\\"address\\";r=1;t=1000"}, {"RateLimit-Policy": "\\"address\\";q=2;w=2000"}]),
	'GET: answered, with headers');
$answer = request($node, 'GET', %check, from('203.0.113.7'), times => 2);
is($answer->{answered}, 1, 'GET: as many as there are tokens');
is($answer->{sqlstate}, 'PGRST', '... and then denied');
my $body = $json->decode($answer->{message});
like($body->{hint}, qr/^Wait (?:1000|9\d\d) s\.$/, '... with a hint when to come back');
is("$body->{code} | $body->{message}", 'PT429 | rate limit exceeded', '... and a message');
my $detail = $json->decode($answer->{detail});
is($detail->{status}, 429, '... status 429');
like($json->encode($detail->{headers}), qr/^\{"RateLimit":"\\"address\\";r=0;t=(\d+)","RateLimit-Policy":"\\"address\\";q=2;w=2000","Retry-After":"\1"\}$/, '... and headers');
is($node->safe_psql('postgres', 'SELECT limiter, key, count FROM ratelimit.rate_limit_pending'), 'address|203.0.113.7|1', '... and is a violation, though rolled back');

is(answered($node, 'HEAD', from('203.0.113.8')), 2, 'HEAD: another address');
is(answered($node, 'GET', claims => { sub => 'alice' }, from('203.0.113.7')), 3, 'by claim: as many as its policy has');
is(answered($node, 'POST', claims => { sub => 'alice' }), 0, '... whatever the method');
is(answered($node, 'GET', claims => { sub => 'bob' }), 3, '... somebody else');
is(answered($node, 'GET', claims => { sub => 17 }), 3, '... a number');
is(answered($node, 'GET', claims => { sub => '' }), 6, '... no such claim, and no rule for it');
is(answered($node, 'GET', claims => { sub => [ 'x' ] }), 6, '... nor for a list');
is(answered($node, 'GET', claims => { sub => 'x' x 300 }), 3, '... of 300 bytes');
is(answered($node, 'GET', claims => { sub => 'x' x 299 . 'y' }), 3, '... and another');
is(answered($node, 'GET', role => 'service', claims => { sub => 'carol' }), 6, 'a rule without policy lets the request pass, whatever comes after');

#
# The address
#
foreach my $case (
	[ '198.51.100.1', '10.9.9.9, 198.51.100.1', 'what a client puts before its address does not help' ],
	[ '198.51.100.2', '198.51.100.2:4711', 'a port is no part of it' ],
	[ '198.51.100.3', '::ffff:198.51.100.3', 'an IPv4 address written as IPv6 is the same' ],
	[ '2001:db8:1:2::1', '2001:db8:1:2:ffff:ffff:ffff:ffff', 'one /64 is one client' ],
	[ '2001:db8:1:3::1', '[2001:db8:1:3::2]:443', '... with brackets and a port' ],
	[ 'fe80::1', 'fe80::2%eth0', '... with a zone' ],
	[ 'unknown', ' ', 'what is no address is one client' ])
{
	my ($first, $second, $what) = @$case;

	set_rules($node, @rules);
	is(answered($node, 'GET', from($first)), 2, "$first: answered");
	is(answered($node, 'GET', from($second)), 0, "$second: $what");
}
is(answered($node, 'GET'), 0, 'without the header: the same client as others that have none');
is(answered($node, 'GET', from('1.2.3')), 0, '... or no address in it');
is(answered($node, 'GET', from('2001:db8:1:4::1')), 2, 'another /64 is another client');
is($node->safe_psql('postgres', q(SELECT key FROM ratelimit.rate_limit_status WHERE limiter = 'address' ORDER BY key)), "(none)\n2001:db8:1:4::/64", 'the keys');

set_rules($node, { position => 1, policy => 'address', proxies => 2 });
is(answered($node, 'GET', from('192.0.2.1, 198.51.100.1, 10.0.0.1')), 2, 'two proxies: the last but one is the address');
is(answered($node, 'GET', from('192.0.2.2, 198.51.100.1,10.0.0.2')), 0, '... whatever stands before it, or after');
is(answered($node, 'GET', from('198.51.100.2, 10.0.0.1')), 2, '... another');
is(answered($node, 'GET', from('198.51.100.1')), 2, '... what has not come through both has no address');
is(answered($node, 'GET', from('198.51.100.9')), 0, '... whoever it is');

set_rules($node, { position => 1, policy => 'address', key_name => 'cf-connecting-ip' });
is(answered($node, 'GET', headers => { 'cf-connecting-ip' => '198.51.100.1', 'x-forwarded-for' => '192.0.2.1' }), 2, 'another header with the address');
is(answered($node, 'GET', headers => { 'cf-connecting-ip' => '198.51.100.1', 'x-forwarded-for' => '192.0.2.2' }), 0, '... and no other');

#
# Methods, paths, roles
#
set_rules($node, { position => 1, methods => '{POST,PATCH}', policy => 'address' });
is(answered($node, 'GET', from('192.0.2.1')), 6, 'a rule for other methods');
is(answered($node, 'POST', from('192.0.2.1')), 2, '... is for these');

set_rules($node, { position => 1, path => '/rpc/login', policy => 'login' }, { position => 2, path => '/admin*x/*', policy => 'key' });
is(answered($node, 'POST', path => '/rpc/login'), 1, 'a path');
is(answered($node, 'POST', path => '/rpc/%6cog%69n'), 0, '... however it is written');
is(answered($node, 'POST', path => 'rpc/login'), 0, '... even without the slash before it');
is(answered($node, $_, path => '/rpc/login'), 0, "... and whether it is called by POST or $_") foreach qw(GET HEAD);
is(answered($node, 'GET', path => '/rpc/logins'), 6, '... not a longer one');
is(answered($node, 'GET', path => '/%'), 6, '... not one with a % that is none');
is(answered($node, 'GET', path => '/rpc/login%00'), 6, '... or a zero byte');
is(answered($node, 'GET', path => '/adminxyx/'), 2, 'a pattern');
is(answered($node, 'GET', path => '/adminx'), 6, '... does not match what lacks its end');
is(answered($node, 'GET', path => 'adminyx/'), 0, '... matches without the slash before it');
set_rules($node, { position => 1, path => '/', policy => 'login' });
is(answered($node, 'GET', path => '/'), 1, 'the root');
is(answered($node, 'GET', path => ''), 0, '... is also what has no path');

#
# Claims that a rule asks for
#
set_rules($node,
	{ position => 1, claim => 'app_metadata.plan', claim_value => 'free', policy => 'plan', key_from => 'claim', key_name => 'sub' },
	{ position => 2, claim => 'https://example.com/roles', claim_value => 'trial', policy => 'key', key_from => 'claim', key_name => 'app_metadata.org' });
is(answered($node, 'GET', claims => { sub => 'a', app_metadata => { plan => 'free' } }), 1, 'a claim inside of another');
is(answered($node, 'GET', claims => { sub => 'a', app_metadata => { plan => 'paid' } }), 6, '... of another value');
is(answered($node, 'GET', claims => { sub => 'a', app_metadata => 'free' }), 6, '... that is not there');
is(answered($node, 'GET', claims => { 'app_metadata' => { org => 5 }, 'https://example.com/roles' => [ 'x', 'trial' ] }), 2, 'a claim that is a list, with dots in its name');
is(answered($node, 'GET', claims => { 'app_metadata' => { org => 6 }, 'https://example.com/roles' => ['x'] }), 6, '... without the value');

#
# By header
#
set_rules($node, { position => 1, policy => 'key', key_from => 'header', key_name => 'x-api-key' });
is(answered($node, 'GET', headers => { 'x-api-key' => 'one' }), 2, 'a header');
is(answered($node, 'GET', headers => { 'x-api-key' => 'two' }), 2, '... another');
is(answered($node, 'GET'), 2, '... none is one client');
is(answered($node, 'GET', headers => { 'x-api-key' => '' }), 0, '... and so is an empty one');
is(answered($node, 'GET', headers => { 'x-api-key' => " \t" }), 0, '... and one of white space');
is(answered($node, 'GET', headers => { 'x-api-key' => " one\t " }), 0, 'white space around it is no part of it');
is(answered($node, 'GET', headers => { 'x-api-key' => q(it's "quoted" \\ ) . "\t" }), 2, '... any bytes');

#
# Several rules
#
set_rules($node, { position => 1, policy => 'address' }, { position => 2, policy => 'tiers', key_from => 'claim', key_name => 'sub' });
$answer = request($node, 'GET', %check, claims => { sub => 'a' }, from('192.0.2.1'));
like($answer->{out}, qr/"RateLimit": "\\"address\\";r=1;t=1000, \\"tiers\/day\\";r=1;t=1000"\}, \{"RateLimit-Policy": "\\"address\\";q=2;w=2000, \\"tiers\/day\\";q=2;w=2000"\}\]/,
	'two rules: the headers of both, of a policy the tier that binds most');
is(answered($node, 'GET', claims => { sub => 'a' }, from('192.0.2.1')), 1, '... denied by the first');
is(answered($node, 'GET', claims => { sub => 'a' }, from('192.0.2.2')), 0, '... and by the second');
$node->safe_psql('postgres', q(ALTER ROLE authenticator SET ratelimit.postgrest_headers = 'problem'));
$answer = request($node, 'GET', %check, claims => { sub => 'a' }, from('192.0.2.3'));
is($json->encode($json->decode($json->decode($answer->{message})->{details})->{'violated-policies'}), '["tiers/day","tiers/minute"]', 'all tiers that refused are violated policies');
$node->safe_psql('postgres', q(ALTER ROLE authenticator RESET ratelimit.postgrest_headers));

#
# Changes
#
set_rules($node, { position => 1, policy => 'address' });
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $requests = q(SELECT set_config('request.headers', '{"x-forwarded-for": "192.0.2.1"}', false); SELECT ratelimit.rl_postgrest_check() FROM generate_series(1, 3));
$session->query($requests);
like($session->{stderr}, qr/rate limit exceeded/, 'a session limits');
$session->{stderr} = '';
$node->safe_psql('postgres', 'UPDATE ratelimit.rate_limit_postgrest_rules SET enabled = false');
$session->query_safe($requests);
is($session->{stderr}, '', '... and no longer when another one has disabled the rule');
$session->query_safe('BEGIN; UPDATE ratelimit.rate_limit_postgrest_rules SET enabled = true; SAVEPOINT s');
$session->query($requests);
like($session->{stderr}, qr/rate limit exceeded/, 'a change of its own counts');
$session->{stderr} = '';
$session->query_safe('ROLLBACK');
$session->query_safe($requests);
is($session->{stderr}, '', '... and no longer when it is rolled back');
$node->safe_psql('postgres', 'UPDATE ratelimit.rate_limit_postgrest_rules SET enabled = true');
$node->safe_psql('postgres', 'TRUNCATE ratelimit.rate_limit_postgrest_rules');
$session->query_safe($requests);
is($session->{stderr}, '', 'none are left after TRUNCATE');
finish_session($session);

#
# What a rule cannot be
#
foreach my $case (
	[ "policy => 'p', key_from => 'cookie'", 'key_from_is_claim_header_or_address' ],
	[ "policy => 'p', key_from => 'claim'", 'a_key_from_a_claim_or_header_needs_its_key_name' ],
	[ "policy => 'p', key_from => 'header', key_name => 'X-Key'", 'a_header_is_in_lower_case' ],
	[ "policy => 'p', proxies => 0", 'proxies_is_at_least_1' ],
	[ "policy => 'a:b'", 'policy_is_a_name' ],
	[ "path => 'items'", 'path_begins_with_a_slash_or_star' ],
	[ "methods => '{get}'", 'methods_are_upper_case_and_known' ],
	[ "methods => '{}'", 'methods_are_upper_case_and_known' ],
	[ "methods => '{NULL}'", 'methods_are_upper_case_and_known' ],
	[ "claim_value => 'x'", 'a_claim_value_needs_a_claim' ])
{
	my ($columns, $constraint) = @$case;
	my @names = $columns =~ /(\w+) =>/g;
	my @values = $columns =~ /=> ('[^']*'|\d+)/g;
	my (undef, undef, $err) = $node->psql('postgres', sprintf 'INSERT INTO ratelimit.rate_limit_postgrest_rules (position, %s) VALUES (1, %s)', join(', ', @names), join(', ', @values));

	like($err, qr/violates check constraint "$constraint"/, "$columns: $constraint");
}

#
# Errors
#
set_rules($node, { position => 1, policy => 'unknown' });
is(request($node, 'GET', %check)->{sqlstate}, '42704', 'a policy that does not exist is an error');
$node->safe_psql('postgres', q(ALTER ROLE authenticator SET ratelimit.on_error = 'allow'));
is(answered($node, 'GET'), 6, '... with on_error = allow: answered');
$node->safe_psql('postgres', q(ALTER ROLE authenticator SET ratelimit.on_error = 'deny'));
$answer = request($node, 'GET', %check);
is($answer->{sqlstate}, 'PGRST', '... with on_error = deny: denied');
is($json->encode($json->decode($answer->{detail})), '{"headers":{},"status":429}', '... with what is known');
$node->safe_psql('postgres', q(ALTER ROLE authenticator RESET ratelimit.on_error));

# Rules cannot be read: never is a request let through as if there were none.
set_rules($node, { position => 1, policy => 'address' });
my $operator = in_session($node);
$operator->query_safe('BEGIN; LOCK ratelimit.rate_limit_postgrest_rules');
$node->safe_psql('postgres', q(ALTER ROLE authenticator SET lock_timeout = '100ms'));
$session = $node->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'authenticator' ]);
$session->query_safe('SET ROLE web_anon');
foreach my $try (1, 2)
{
	$session->query('SELECT ratelimit.rl_postgrest_check()');
	like($session->{stderr}, qr/canceling statement due to lock timeout/, "rules that cannot be read, $try: an error");
	$session->{stderr} = '';
}
$operator->query_safe('ROLLBACK');
finish_session($operator);
$node->safe_psql('postgres', q(ALTER ROLE authenticator RESET lock_timeout));
$session->query(q(SELECT ratelimit.rl_postgrest_check() FROM generate_series(1, 3)));
like($session->{stderr}, qr/rate limit exceeded/, '... and obeyed when they can');
$session->{stderr} = '';
$session->query('RESET ROLE; SET ROLE web_anon; TABLE ratelimit.rate_limit_postgrest_rules');
like($session->{stderr}, qr/permission denied for table rate_limit_postgrest_rules/, 'the roles of the API cannot read them');
$session->{stderr} = '';
$session->query(q(CREATE TEMP TABLE rate_limit_postgrest_rules (position integer, enabled boolean); SET search_path = pg_temp, pg_catalog; SELECT ratelimit.rl_postgrest_check()));
like($session->{stderr}, qr/rate limit exceeded/, '... nor put others in their place');
$session->{stderr} = '';
$session->query(q(SELECT set_config('request.headers', '{"x-forwarded-for": "192.0.2.99"}', false); SELECT ratelimit.rl_postgrest_check() FROM generate_series(1, 3)));
like($session->{stderr}, qr/key \\"192\.0\.2\.99\\"/, 'a role with SQL of its own can use up the tokens of any key');
$session->{stderr} = '';
$session->query(q(SELECT set_config('request.headers', '{', false); SELECT ratelimit.rl_postgrest_check()));
like($session->{stderr}, qr/invalid input syntax for type json/, '... and gets an error for what is not JSON');
$session->{stderr} = '';
$session->query(q(\set VERBOSITY sqlstate
SELECT set_config('request.headers', '{"x-forwarded-for": "192.0.2.99", "x": "\u0000"}', false);
SELECT ratelimit.rl_postgrest_check()));
like($session->{stderr}, qr/ERROR:  22P05$/m, '... or not text: never does that let the request pass');
finish_session($session);

# What the constraints forbid does no harm once the table's owner has dropped them.
$node->safe_psql('postgres', <<'SQL');
DO $$
DECLARE
	name text;
BEGIN
	FOR name IN SELECT conname FROM pg_constraint WHERE conrelid = 'ratelimit.rate_limit_postgrest_rules'::regclass AND contype = 'c' LOOP
		EXECUTE format('ALTER TABLE ratelimit.rate_limit_postgrest_rules DROP CONSTRAINT %I', name);
	END LOOP;
END
$$;
ALTER TABLE ratelimit.rate_limit_postgrest_rules ALTER key_from DROP NOT NULL, ALTER proxies DROP NOT NULL;
INSERT INTO ratelimit.rate_limit_postgrest_rules (position, policy, key_from, key_name, proxies, methods, path, claim, claim_value) VALUES
	(2, 'address', NULL, NULL, NULL, NULL, '', NULL, 'x'), (3, 'address', 'claim', NULL, 0, '{}', NULL, '', NULL),
	(4, 'address', 'header', NULL, -1, NULL, NULL, NULL, NULL), (5, 'address', 'x', '', 1, NULL, NULL, '.', NULL);
SELECT ratelimit.rl_reset_all(NULL);
SQL
is(answered($node, 'GET', from('192.0.2.1'), claims => { sub => 'a' }), 1, 'rules that the constraints would forbid');
is(answered($node, 'GET', from('192.0.2.2'), claims => { sub => 'a' }), 1, '... do no harm');

$node->safe_psql('postgres', 'DELETE FROM ratelimit.rate_limit_postgrest_rules WHERE position > 1');

# What others have set stays
is($node->safe_psql('postgres', <<'SQL'), '[{"X": "y"}]', 'response.headers that are set already stay');
BEGIN READ ONLY;
SELECT set_config('request.headers', '{"x-forwarded-for": "192.0.2.77"}', true), set_config('response.headers', '[{"X": "y"}]', true) \g /dev/null
SELECT ratelimit.rl_postgrest_check() \g /dev/null
SELECT current_setting('response.headers');
SQL
is($node->safe_psql('postgres', <<'SQL'), '', '... and those of one transaction do not outlast it');
BEGIN READ ONLY;
SELECT set_config('request.headers', '{"x-forwarded-for": "192.0.2.78"}', true) \g /dev/null
SELECT ratelimit.rl_postgrest_check() \g /dev/null
COMMIT;
SELECT current_setting('response.headers', true);
SQL

# A function with its owner's rights may call it for roles without any
$node->safe_psql('postgres', <<'SQL');
REVOKE USAGE ON SCHEMA ratelimit FROM web_anon, web_user, service;
CREATE FUNCTION public.limit_request() RETURNS void LANGUAGE sql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS 'SELECT ratelimit.rl_postgrest_check()';
SQL
set_rules($node, { position => 1, role => 'web_anon', policy => 'address' }, { position => 2, role => 'web_user', policy => 'user' });
is(answered($node, 'GET', pre_request => 'public.limit_request'), 2, 'called by a function with its owner\'s rights: the role is the request\'s');
is(answered($node, 'GET', pre_request => 'public.limit_request', claims => {}), 3, '... whichever it is');
like(request($node, 'GET', pre_request => 'public.limit_request', from('192.0.2.5'))->{out}, qr/"RateLimit": "\\"address\\";r=1/, '... and it sets the headers');

$session = $node->background_psql('postgres', on_error_stop => 0, extra_params => [ '-U', 'authenticator' ]);
$session->query(q(SET ROLE web_anon; SELECT set_config('request.headers', '{"x-forwarded-for": "192.0.2.6"}', false); SELECT public.limit_request() FROM generate_series(1, 3)));
like($session->{stderr}, qr/key \\"192\.0\.2\.6\\"/, '... also those of any key, for a role with SQL of its own');
$session->{stderr} = '';
$session->query(q(SELECT ratelimit.rl_peek('192.0.2.6', 2, 0.001, limiter => 'address')));
like($session->{stderr}, qr/permission denied for schema ratelimit/, '... which can call nothing else');
finish_session($session);

#
# Dumped and restored
#
$node->safe_psql('postgres', q(UPDATE ratelimit.rate_limit_postgrest_rules SET methods = '{GET,POST}', comment = 'as was'));
my $dump = $node->basedir . '/dump';
command_ok([ 'pg_dump', '-Fc', '--file' => $dump, '--dbname' => $node->connstr('postgres') ], 'dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
command_ok([ 'pg_restore', '--exit-on-error', '--dbname' => $node->connstr('restored'), $dump ], '... and restored');
is($node->safe_psql('restored', 'TABLE ratelimit.rate_limit_postgrest_rules'), $node->safe_psql('postgres', 'TABLE ratelimit.rate_limit_postgrest_rules'), '... with the rules');
isnt($node->safe_psql('restored', 'SELECT count(*) FROM ratelimit.rate_limit_postgrest_rules'), '0', '... that there are');
$node->stop;

#
# On a standby
#
my $primary = start_api('primary', streaming => 1);
set_rules($primary, @rules);
$primary->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'copy', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby);
is(answered($standby, 'GET', from('192.0.2.1')), 2, 'on a standby: GET is limited');
$session = $standby->background_psql('postgres', on_error_stop => 0);
$session->query_safe('SET ROLE web_anon');
$session->query($requests);
like($session->{stderr}, qr/rate limit exceeded/, '... in a session');
$session->{stderr} = '';
$primary->safe_psql('postgres', 'DELETE FROM ratelimit.rate_limit_postgrest_rules');
$primary->wait_for_catchup($standby);
$session->query_safe($requests);
is($session->{stderr}, '', '... that obeys a change on the primary');
finish_session($session);
$standby->stop;
$primary->stop;

#
# Not preloaded
#
$node = start_api('not_preloaded', preload => 0);
set_rules($node, @rules);
is(answered($node, 'GET', from('192.0.2.1')), 2, 'not preloaded: GET is limited');
is(answered($node, 'POST', claims => { sub => 'a' }), 3, '... and POST');
$node->stop;

done_testing();
