\set i random(1, 9000000000000000000)
SELECT length('ip:' || :i);
