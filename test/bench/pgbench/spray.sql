\set i random(1, 9000000000000000000)
SELECT rl_consume('ip:' || :i, 10, 0.01, 1, 'spray');
