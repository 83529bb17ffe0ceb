\set i random(1, 100000)
\set user random(1, :keys)
SELECT name, balance, rl_consume('user:' || :user, 1e9, 1) FROM account WHERE id = :i;
