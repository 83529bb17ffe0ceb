\set i random(1, :rows)
SELECT rl_consume('row ' || :i, 1e9, 0);
