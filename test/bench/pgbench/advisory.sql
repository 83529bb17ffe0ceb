\set i random(1, :keys)
SELECT advisory_consume('user:' || :i, 1000000000, 60);
