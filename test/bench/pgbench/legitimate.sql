\set i random(1, 1000)
SELECT rl_consume('customer:' || :i, 1e9, 0, 1, 'legitimate');
