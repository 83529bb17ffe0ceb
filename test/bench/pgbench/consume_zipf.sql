\set i random_zipfian(1, 1000000, 1.1)
SELECT rl_consume('user:' || :i, 1e9, 1);
