\set i random(1, :keys)
INSERT INTO upsert_bucket AS b VALUES ('user:' || :i, 1e9 - 1, clock_timestamp()) ON CONFLICT (key) DO UPDATE SET tokens = least(1e9, b.tokens + 1 * date_part('epoch', clock_timestamp() - b.updated_at)) - 1, updated_at = clock_timestamp() WHERE least(1e9, b.tokens + 1 * date_part('epoch', clock_timestamp() - b.updated_at)) >= 1 RETURNING tokens;
