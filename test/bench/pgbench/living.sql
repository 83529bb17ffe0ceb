\set i random(1, :keys)
SELECT rl_consume('user:' || :i, 1e9, 1e-4);
