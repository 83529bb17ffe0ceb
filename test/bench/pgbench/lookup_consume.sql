\set i random(1, 100000)
SELECT name, balance, rl_consume('user:' || id, 1e9, 1) FROM account WHERE id = :i;
