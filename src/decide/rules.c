/*
 * decide/rules.c
 *		What follows from a call's numbers alone: checked, and remembered for the session.
 *
 * The next call mostly has the same capacity, refill and cost.  They are checked, and
 * quotients worked out, when they first appear.
 */
#include "postgres.h"

#include <math.h>

#include "core/hot.h"
#include "decide/rules.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/float.h"

/* The number as SQL would show it. */
static char *
show_number(double value)
{
	return DatumGetCString(DirectFunctionCall1(float8out, Float8GetDatum(value)));
}

/* A number of tokens, above 0 or 0? */
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

void
rule_make(BucketRule *rule, double capacity, double refill, double cost)
{
	check_rule(capacity, refill, cost);
	bucket_rule(rule, capacity, refill, cost);
}

RuleLine	remembered_rules[REMEMBERED_RULES] hot_data pg_attribute_aligned(PG_CACHE_LINE_SIZE);

/*
 * The rule for a call's numbers, checked.  Lasts for the session, but may be
 * overwritten by the next call of this function.
 */
const BucketRule *
get_rule(double capacity, double refill, double cost)
{
	return find_rule(capacity, refill, cost);
}
