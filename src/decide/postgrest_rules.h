/*
 * decide/postgrest_rules.h
 *		Which requests of PostgREST are limited: see decide/postgrest_rules.c.
 */
#ifndef RATELIMIT_DECIDE_POSTGREST_RULES_H
#define RATELIMIT_DECIDE_POSTGREST_RULES_H

/* What the key is taken from. */
typedef enum KeySource
{
	KEY_CLAIM,
	KEY_HEADER,
	KEY_ADDRESS
} KeySource;

/* A row of rate_limit_postgrest_rules.  A condition that is NULL always holds. */
typedef struct PostgrestRule
{
	char	   *role;
	char	   *claim;
	char	   *claim_value;
	char	  **methods;
	int			n_methods;
	char	   *path;
	text	   *policy;			/* NULL: the request passes */
	KeySource	key_from;
	char	   *key_name;		/* of the claim or header; NULL only for an address */
	int			proxies;		/* at least 1 */
} PostgrestRule;

extern void postgrest_rules_init(void);
extern bool postgrest_rules(const PostgrestRule **rules, int *n);

#endif							/* RATELIMIT_DECIDE_POSTGREST_RULES_H */
