\echo Use "CREATE EXTENSION ratelimit_region" to load this file. \quit

-- Others may have created objects in this schema before, so operators and functions are
-- written with their schemas: see the head of ratelimit's script.

-- Which home a key has

CREATE TABLE rate_limit_homes (
	limiter text COLLATE pg_catalog."C" NOT NULL,
	prefix text COLLATE pg_catalog."C" NOT NULL DEFAULT '',
	server text,
	PRIMARY KEY (limiter, prefix),
	CONSTRAINT limiter_is_one_or_star CHECK (pg_catalog.octet_length(limiter) OPERATOR(pg_catalog.>) 0
		AND pg_catalog.octet_length(limiter) OPERATOR(pg_catalog.<=) 63
		AND pg_catalog.strpos(limiter, ':') OPERATOR(pg_catalog.=) 0),
	CONSTRAINT prefix_at_most_255_bytes CHECK (pg_catalog.octet_length(prefix) OPERATOR(pg_catalog.<=) 255),
	CONSTRAINT server_not_empty_and_at_most_63_bytes CHECK (pg_catalog.octet_length(server) OPERATOR(pg_catalog.>) 0
		AND pg_catalog.octet_length(server) OPERATOR(pg_catalog.<=) 63)
) USING heap;
COMMENT ON TABLE rate_limit_homes IS
'Which server is the home of which keys, that is, has their buckets. A rule of the limiter goes before one of all limiters, then the longest prefix does. A key without a rule has its home here.';
COMMENT ON COLUMN rate_limit_homes.limiter IS 'the limiter; *: all';
COMMENT ON COLUMN rate_limit_homes.prefix IS 'how the keys begin; empty: all keys';
COMMENT ON COLUMN rate_limit_homes.server IS 'the foreign server that is their home, to which the owner of the extension has a user mapping; null: this server';
SELECT pg_catalog.pg_extension_config_dump('rate_limit_homes', '');

CREATE FUNCTION _rl_homes_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'rl_homes_changed' LANGUAGE C;
COMMENT ON FUNCTION _rl_homes_changed() IS 'The trigger of rate_limit_homes: sessions read it again.';
-- Rows that are replicated fire row triggers only.
CREATE TRIGGER rate_limit_homes_changed AFTER INSERT OR UPDATE OR DELETE ON rate_limit_homes
FOR EACH ROW EXECUTE FUNCTION _rl_homes_changed();
ALTER TABLE rate_limit_homes ENABLE ALWAYS TRIGGER rate_limit_homes_changed;
CREATE TRIGGER rate_limit_homes_truncated AFTER TRUNCATE ON rate_limit_homes
FOR EACH STATEMENT EXECUTE FUNCTION _rl_homes_changed();
ALTER TABLE rate_limit_homes ENABLE ALWAYS TRIGGER rate_limit_homes_truncated;

-- Deciding

CREATE FUNCTION rl_consume_leased(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS boolean AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_consume_leased(text, float8, float8, float8, text) IS
'rl_consume() by the bucket at the home of the key: here, or, by a lease of tokens that this server has taken from it. If there are none, the call waits for a portion, at most ratelimit_region.timeout, and is then decided by ratelimit.on_error. Arguments and errors as of rl_consume(); also HV00N the home is away and ratelimit.on_error is error.';

CREATE FUNCTION rl_throttle_leased(key text, capacity float8, refill float8, cost float8 DEFAULT 1, limiter text DEFAULT 'default')
RETURNS rl_result AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION rl_throttle_leased(text, float8, float8, float8, text) IS
'The same decision as rl_consume_leased(), with the tokens left and the times to wait, as the home has told them last. Arguments and errors as there.';

-- What a home does for others

CREATE FUNCTION rl_lease_epoch()
RETURNS bigint AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION rl_lease_epoch() IS
'For other servers: a number that changes when this server starts. Tokens that it has given before are void then.';

CREATE FUNCTION rl_lease_take(server text, keys text[], limiters text[], capacities float8[], refills float8[], needed float8[], wanted float8[],
	OUT taken float8, OUT remaining float8, OUT blocked float8, OUT epoch bigint)
RETURNS SETOF record AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET ratelimit.on_error = error;
COMMENT ON FUNCTION rl_lease_take(text, text[], text[], float8[], float8[], float8[], float8[]) IS
'For other servers: take portions from buckets whose home is here. needed: tokens that calls wait for; wanted: those that are expected to be used. A row per key, in order: taken; remaining, in the bucket; blocked, for so many seconds; epoch, which changes when this server starts. Errors: 22004 a null; 2202E arrays of different lengths; 54000 more than 10000 keys; others as rl_consume().';

CREATE FUNCTION rl_lease_return(server text, epoch bigint, keys text[], limiters text[], tokens float8[])
RETURNS float8 AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL UNSAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
COMMENT ON FUNCTION rl_lease_return(text, bigint, text[], text[], float8[]) IS
'For other servers: give back tokens of rl_lease_take(): how many there was room for. 0 if this server has started since. Errors: 22004 a null; 2202E arrays of different lengths; 54000 more than 10000 keys; others as rl_reward().';

-- Looking

CREATE FUNCTION _rl_leases(OUT limiter text, OUT key text, OUT home text, OUT tokens float8, OUT capacity float8, OUT refill float8, OUT rate float8, OUT portion float8, OUT waiting integer, OUT until timestamptz)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_leases' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION _rl_leases() IS 'The leases of this database; read the view rate_limit_leases instead.';
CREATE VIEW rate_limit_leases AS SELECT * FROM _rl_leases();
COMMENT ON VIEW rate_limit_leases IS 'The leases that this server has of keys whose home is elsewhere, in this database.';
COMMENT ON COLUMN rate_limit_leases.limiter IS 'which rule';
COMMENT ON COLUMN rate_limit_leases.key IS 'who is limited';
COMMENT ON COLUMN rate_limit_leases.home IS 'the foreign server that is its home';
COMMENT ON COLUMN rate_limit_leases.tokens IS 'that are here and can be used now';
COMMENT ON COLUMN rate_limit_leases.capacity IS 'tokens, of the last call';
COMMENT ON COLUMN rate_limit_leases.refill IS 'tokens per second, of the last call';
COMMENT ON COLUMN rate_limit_leases.rate IS 'tokens per second that calls want here, of late';
COMMENT ON COLUMN rate_limit_leases.portion IS 'tokens that were wanted from the home last';
COMMENT ON COLUMN rate_limit_leases.waiting IS 'calls that wait for the home';
COMMENT ON COLUMN rate_limit_leases.until IS 'when the tokens are void; null: there are none';

CREATE FUNCTION _rl_home_states(OUT server text, OUT state text, OUT since timestamptz, OUT error text, OUT round_trip_ms float8, OUT leases bigint, OUT tokens float8,
	OUT here bigint, OUT waited bigint, OUT denied bigint, OUT undecided bigint, OUT asked bigint, OUT failed bigint, OUT taken float8, OUT returned float8, OUT lost float8)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_home_states' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION _rl_home_states() IS 'The homes of keys; read the view rate_limit_home_states instead.';
CREATE VIEW rate_limit_home_states AS SELECT * FROM _rl_home_states();
COMMENT ON VIEW rate_limit_home_states IS 'The homes from which this server leases in this database, and what it has decided by their leases since it started.';
COMMENT ON COLUMN rate_limit_home_states.server IS 'the foreign server';
COMMENT ON COLUMN rate_limit_home_states.state IS 'new: it has not been reached yet; there; away: calls do not wait for it';
COMMENT ON COLUMN rate_limit_home_states.since IS 'since when it has this state';
COMMENT ON COLUMN rate_limit_home_states.error IS 'why it was away, or refused a question, last';
COMMENT ON COLUMN rate_limit_home_states.round_trip_ms IS 'milliseconds from a question to its answer, of late';
COMMENT ON COLUMN rate_limit_home_states.leases IS 'how many there are now';
COMMENT ON COLUMN rate_limit_home_states.tokens IS 'how many they hold now';
COMMENT ON COLUMN rate_limit_home_states.here IS 'calls that were decided without waiting';
COMMENT ON COLUMN rate_limit_home_states.waited IS 'calls that have waited for an answer of the home';
COMMENT ON COLUMN rate_limit_home_states.denied IS 'calls of these two that were denied';
COMMENT ON COLUMN rate_limit_home_states.undecided IS 'calls that ratelimit.on_error has decided, because the home was away or late';
COMMENT ON COLUMN rate_limit_home_states.asked IS 'portions that the home was asked for';
COMMENT ON COLUMN rate_limit_home_states.failed IS 'of them, those without an answer';
COMMENT ON COLUMN rate_limit_home_states.taken IS 'tokens that have come';
COMMENT ON COLUMN rate_limit_home_states.returned IS 'tokens that were given back';
COMMENT ON COLUMN rate_limit_home_states.lost IS 'tokens that became void here, or were lost on their way back';

CREATE FUNCTION _rl_lease_servers(OUT server text, OUT seen timestamptz, OUT taken float8, OUT returned float8)
RETURNS SETOF record AS 'MODULE_PATHNAME', 'rl_lease_servers' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION _rl_lease_servers() IS 'The servers that lease from this one; read the view rate_limit_lease_servers instead.';
CREATE VIEW rate_limit_lease_servers AS SELECT * FROM _rl_lease_servers();
COMMENT ON VIEW rate_limit_lease_servers IS 'The servers that lease from this one in this database.';
COMMENT ON COLUMN rate_limit_lease_servers.server IS 'its name: ratelimit_region.server_name there';
COMMENT ON COLUMN rate_limit_lease_servers.seen IS 'when it has taken or given back tokens last';
COMMENT ON COLUMN rate_limit_lease_servers.taken IS 'tokens, since this server started';
COMMENT ON COLUMN rate_limit_lease_servers.returned IS 'tokens, since this server started';

REVOKE ALL ON rate_limit_homes, rate_limit_leases, rate_limit_home_states, rate_limit_lease_servers FROM PUBLIC;
GRANT SELECT ON rate_limit_homes, rate_limit_leases, rate_limit_home_states, rate_limit_lease_servers TO pg_monitor;
REVOKE ALL ON FUNCTION rl_lease_epoch(), _rl_homes_changed(), _rl_leases(), _rl_home_states(), _rl_lease_servers(),
	rl_lease_take(text, text[], text[], float8[], float8[], float8[], float8[]),
	rl_lease_return(text, bigint, text[], text[], float8[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION _rl_leases(), _rl_home_states(), _rl_lease_servers() TO pg_monitor;
