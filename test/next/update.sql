
-- What test/next/make's next version adds
CREATE FUNCTION rl_next() RETURNS text
LANGUAGE c STABLE PARALLEL SAFE STRICT AS 'MODULE_PATHNAME';
COMMENT ON FUNCTION rl_next() IS 'says which library is loaded';
REVOKE ALL ON FUNCTION rl_next() FROM PUBLIC;

ALTER TABLE rate_limit_flags ADD COLUMN next text;
COMMENT ON COLUMN rate_limit_flags.next IS 'what the next version knows of a flag';
