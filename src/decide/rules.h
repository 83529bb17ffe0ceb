/*
 * decide/rules.h
 *		The rule that a call's capacity, refill and cost make: see decide/rules.c.
 */
#ifndef RATELIMIT_DECIDE_RULES_H
#define RATELIMIT_DECIDE_RULES_H

#include "core/bucket.h"
#include "core/compat.h"

#define REMEMBERED_RULES	16	/* the hash below has 4 bits */

/* A rule in a cache line of its own. */
typedef union RuleLine
{
	BucketRule	rule;
	char		pad[PG_CACHE_LINE_SIZE];
} RuleLine;

extern hidden_data RuleLine remembered_rules[REMEMBERED_RULES];

extern void check_tokens(const char *name, double tokens);
extern const BucketRule *get_rule(double capacity, double refill, double cost);
extern void rule_make_in_period(BucketRule *rule, double allowance, double refill,
								double cost, double length) pg_attribute_cold;
extern void rule_make(BucketRule *rule, double capacity, double refill, double cost)
			pg_attribute_cold;

/* Where the rule of numbers with these bits is remembered. */
static inline BucketRule *
remembered_rule(const uint64 *bits)
{
	return &remembered_rules[((bits[0] ^ bits[1] * 3 ^ bits[2] * 5) *
							  UINT64CONST(0x9E3779B97F4A7C15)) >> 60].rule;
}

/* The rule of these numbers, checked: see get_rule(). */
static pg_attribute_always_inline const BucketRule *
find_rule(double capacity, double refill, double cost)
{
	BucketRule *rule;
	uint64		bits[3];
	uint64		its[3];

	memcpy(&bits[0], &capacity, sizeof(double));
	memcpy(&bits[1], &refill, sizeof(double));
	memcpy(&bits[2], &cost, sizeof(double));
	rule = remembered_rule(bits);

	/*
	 * An entry with capacity 0 is unused, or of a call with capacity 0, for which the
	 * rule is always made anew.
	 */
	memcpy(its, rule, sizeof(its));
	if (unlikely(bits[0] == 0 ||
				 its[0] != bits[0] || its[1] != bits[1] || its[2] != bits[2]))
		rule_make(rule, capacity, refill, cost);
	return rule;
}

/*
 * The rule of a call in a period of this end and length, likewise.  The bits of the
 * three numbers are those of no rule outside of periods.
 */
static pg_attribute_always_inline const BucketRule *
find_rule_in_period(double allowance, double refill, double cost, double length)
{
	BucketRule *rule;
	uint64		bits[3];
	uint64		its[3];

	memcpy(&bits[0], &allowance, sizeof(double));
	memcpy(&bits[1], &refill, sizeof(double));
	memcpy(&bits[2], &cost, sizeof(double));
	rule = remembered_rule(bits);

	/* a month and its last day end together */
	memcpy(its, rule, sizeof(its));
	if (unlikely(bits[0] == 0 ||
				 its[0] != bits[0] || its[1] != bits[1] || its[2] != bits[2] ||
				 rule->length != length))
		rule_make_in_period(rule, allowance, refill, cost, length);
	return rule;
}

#endif							/* RATELIMIT_DECIDE_RULES_H */
