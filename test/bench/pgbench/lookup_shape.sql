\set i random(1, 100000)
\set user random(1, :keys)
SELECT name, balance, length('user:' || :user) > 0 FROM account WHERE id = :i;
