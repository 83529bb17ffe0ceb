SELECT k FROM unnest(:keys::text[]) k WHERE NOT rl_consume(k, 1e9, 1);
