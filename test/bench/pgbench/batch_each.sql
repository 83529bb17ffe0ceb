SELECT rl_consume_each(:keys, 1e9, 1);
