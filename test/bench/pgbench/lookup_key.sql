\set i random(1, :keys)
SELECT name, balance FROM client WHERE key = 'user:' || :i;
