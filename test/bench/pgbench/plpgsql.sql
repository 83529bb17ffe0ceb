\set i random(1, :keys)
SELECT plpgsql_consume('user:' || :i, 1e9, 1);
