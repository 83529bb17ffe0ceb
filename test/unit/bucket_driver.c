/*
 * bucket_driver.c
 *		Drives src/core/bucket.c by lines of text, for bucket_test.py.
 *
 * Holds one bucket and treats it as the stores do.  Reads
 *
 *		call CAPACITY REFILL COST ELAPSED	decide a call, ELAPSED ns after the last
 *		debt CAPACITY REFILL COST ELAPSED	likewise, but allowed into debt
 *		give CAPACITY REFILL COST ELAPSED	put COST back
 *		wait CAPACITY REFILL COST ELAPSED TIMEOUT
 *											decide a call that may wait so many ns
 *		new [OWED]							a full bucket, or one that owes OWED; it
 *											takes the next call's parameters
 *
 * and answers each call with a line "ALLOWED OWED TOKENS TIMED
 * WINDOW".  Doubles may come in hexadecimal and leave so; OWED, ELAPSED and
 * WINDOW are whole numbers of up to 127 bits.
 */
#include "postgres.h"

#include "core/bucket.h"

/* postgres.h redirects it to the server's, which is not linked */
#undef printf

static const char *
parse_wide(const char *text, Owed *value)
{
	*value = 0;
	while (*text == ' ')
		text++;
	for (; *text >= '0' && *text <= '9'; text++)
		*value = *value * 10 + (*text - '0');
	return text;
}

static const char *
show_wide(Owed value)
{
	static char digits[48];
	char	   *at = digits + sizeof(digits) - 1;
	bool		negative = value < 0;

	*at = '\0';
	do
	{
		int			digit = (int) (value % 10);

		*--at = '0' + (negative ? -digit : digit);
		value /= 10;
	} while (value != 0);
	if (negative)
		*--at = '-';
	return at;
}

int
main(void)
{
	char		line[512];
	bool		begun = false;	/* capacity and refill are the bucket's */
	double		capacity = 0;
	double		refill = 0;
	Owed		owed = 0;

	while (fgets(line, sizeof(line), stdin) != NULL)
	{
		if (strncmp(line, "new", 3) == 0)
		{
			(void) parse_wide(line + 3, &owed);
			begun = false;
		}
		else if (strncmp(line, "call", 4) == 0 || strncmp(line, "debt", 4) == 0 ||
				 strncmp(line, "give", 4) == 0 || strncmp(line, "wait", 4) == 0)
		{
			BucketRule	rule;
			double		numbers[3];
			char	   *at = line + 4;
			const char *rest;
			Owed		elapsed;
			Owed		timeout;
			bool		allowed;

			for (int i = 0; i < 3; i++)
				numbers[i] = strtod(at, &at);
			rest = parse_wide(at, &elapsed);
			(void) parse_wide(rest, &timeout);
			bucket_rule(&rule, numbers[0], numbers[1], numbers[2]);
			if (line[0] == 'd')
				bucket_rule_for_debt(&rule);
			else if (line[0] == 'w')
				bucket_rule_for_wait(&rule, timeout);
			if (!begun)
			{
				capacity = rule.capacity;
				refill = rule.refill;
				begun = true;
			}

			/* this is what the stores do */
			owed = bucket_refilled(bucket_timed(capacity, refill), owed, elapsed);
			if (capacity != rule.capacity || refill != rule.refill)
				owed = bucket_carry(capacity, refill, owed, &rule);
			if (line[0] == 'g')
			{
				owed = bucket_give(&rule, owed);
				allowed = true;
			}
			else
				allowed = bucket_take(&rule, &owed);

			capacity = rule.capacity;
			refill = rule.refill;
			printf("%d %s %a %d", allowed, show_wide(owed),
				   bucket_tokens(&rule, owed), rule.timed);
			printf(" %s\n", show_wide(rule.window));
			fflush(stdout);
		}
		else
			return 1;
	}
	return 0;
}
