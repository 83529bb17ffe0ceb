\set i random(1, :keys)
SELECT name, balance FROM client WHERE key = 'user:' || :i AND rl_consume(key, 1e9, 1);
