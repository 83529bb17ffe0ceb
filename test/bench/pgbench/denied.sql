\set i random(1, :keys)
SELECT rl_consume('user:' || :i, 1, 1e-6, 1, 'dry');
