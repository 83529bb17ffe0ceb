\set i random(1, 100000)
SELECT name, balance FROM account WHERE id = :i;
