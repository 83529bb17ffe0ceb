\set i random(1, :keys)
BEGIN;
INSERT INTO three_bucket VALUES ('user:' || :i, 1e9, clock_timestamp()) ON CONFLICT (key) DO NOTHING;
SELECT tokens, date_part('epoch', clock_timestamp() - updated_at) AS elapsed FROM three_bucket WHERE key = 'user:' || :i FOR UPDATE \gset
\set left least(1000000000.0, :tokens + 1.0 * :elapsed) - 1
\if :left >= 0
UPDATE three_bucket SET tokens = :left, updated_at = clock_timestamp() WHERE key = 'user:' || :i;
\endif
COMMIT;
