\set i random_zipfian(1, 1000000, 1.1)
SELECT length('user:' || :i);
