/*
 * decide/rules.c
 *		Rules: what follows from a call's capacity, refill and cost alone.
 *
 * Most calls have the same three numbers as an earlier call of the session.  So the
 * numbers are checked, and their quotients computed (core/bucket.c), when they first
 * appear, and the rule is remembered for the session.  To compute it takes 3,700
 * instructions; a call that did so each time would take 3.9 times as long.
 */
#include "postgres.h"

#include <math.h>

#include "decide/rules.h"
#include "fmgr.h"
#include "utils/builtins.h"

/* The number as SQL shows it. */
static char *
show_number(double value)
{
	return DatumGetCString(DirectFunctionCall1(float8out, Float8GetDatum(value)));
}

/* Raise an error unless this is a number of tokens that can be taken or given. */
void
check_tokens(const char *name, double tokens)
{
	if (!isfinite(tokens) || tokens < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a finite number not below 0, not %s",
						name, show_number(tokens))));
}

static void
check_rule(double capacity, double refill, double cost)
{
	check_tokens("capacity", capacity);
	check_tokens("refill", refill);
	check_tokens("cost", cost);
}

/* Check the numbers and make their rule. */
void
rule_make(BucketRule *rule, double capacity, double refill, double cost)
{
	check_rule(capacity, refill, cost);
	bucket_rule(rule, capacity, refill, cost);
}

/* Check the numbers of a call in a period and make their rule. */
void
rule_make_in_period(BucketRule *rule, double allowance, double refill, double cost,
					double length)
{
	check_tokens("allowance", allowance);
	check_tokens("cost", cost);
	bucket_rule_in_period(rule, allowance, refill, cost, length);
}

RuleLine	remembered_rules[REMEMBERED_RULES] pg_attribute_aligned(PG_CACHE_LINE_SIZE);

/*
 * The rule of these numbers, checked.  The caller has to copy it if it still needs it
 * after the next call of this function, which may overwrite it.
 */
const BucketRule *
get_rule(double capacity, double refill, double cost)
{
	return find_rule(capacity, refill, cost);
}
