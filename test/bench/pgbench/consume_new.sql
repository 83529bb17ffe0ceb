\set i random(1, 9000000000000000000)
SELECT rl_consume('ip:' || :i, 1e9, 10);
