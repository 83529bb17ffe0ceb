\set i random(1, :keys)
SELECT length('user:' || :i);
