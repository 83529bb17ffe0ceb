# PostgrestTest.pm: requests as PostgREST sends them to the server, and what it would
# make of the answers: its documentation, "Transactions" and "Errors", and, for what is
# not said there, src/library/PostgREST/Query/PreQuery.hs and Error.hs of version 16.1.
package PostgrestTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use JSON::PP;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(request);

my $json = JSON::PP->new->canonical;

# One request, sent again until so many (times) were answered, or until one is denied.
# claims: of a JWT, without which the role is web_anon; role: the JWT's, else web_user;
# headers; path; query; pre_request: the function.  The last answer: error (SQLSTATE,
# message, detail, hint) or rows, and the response headers that were set; and how many
# were answered.
sub request
{
	my ($node, $method, %request) = @_;
	my $role = $request{role} // ($request{claims} ? 'web_user' : 'web_anon');
	my %claims = (role => $role, %{ $request{claims} // {} });
	my $access = $method =~ /^(?:GET|HEAD)$/ ? 'READ ONLY' : 'READ WRITE';
	my $pre_request = $request{pre_request} // 'public.limit_request';
	my $query = $request{query} // (
		$access eq 'READ ONLY'
		? 'SELECT json_agg(items) FROM api.items'
		: q(INSERT INTO api.items SELECT coalesce(max(id), 0) + 1, 'new' FROM api.items RETURNING 'created'));
	my @config = (
		search_path => '"api", "public"',
		role => $role,
		'request.jwt.claims' => $json->encode(\%claims),
		'request.method' => $method,
		'request.path' => $request{path} // '/items',
		'request.headers' => $json->encode({ accept => '*/*', %{ $request{headers} // {} } }),
		'request.cookies' => '{}');
	my @set;

	while (my ($setting, $value) = splice @config, 0, 2)
	{
		$value =~ s/'/''/g;
		push @set, "set_config('$setting', '$value', true)";
	}
	my $transaction = "BEGIN ISOLATION LEVEL READ COMMITTED $access;\n"
	  . 'SELECT ' . join(', ', @set) . " \\g /dev/null\n"
	  . "SELECT $pre_request() \\g /dev/null\n"
	  . "$query;\n"
	  . "SELECT format('headers %s', current_setting('response.headers', true));\n"
	  . "COMMIT;\n";
	my $script = $node->basedir . '/request.sql';
	unlink $script;
	append_to_file($script, $transaction x ($request{times} // 1));
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n\\i $script",
		on_error_stop => 1, extra_params => [ '-U', 'authenticator' ]);
	my %answer = (out => $out, err => $err, answered => scalar(() = $out =~ /^headers/mg));

	if ($err =~ /ERROR:  (\w{5}): (.*)$/m)
	{
		@answer{qw(sqlstate message)} = ($1, $2);
		my $rest = substr $err, $+[0];
		$answer{detail} = $1 if $rest =~ /^DETAIL:  (.*)$/m;
		$answer{hint} = $1 if $rest =~ /^HINT:  (.*)$/m;
	}
	return \%answer;
}

1;
