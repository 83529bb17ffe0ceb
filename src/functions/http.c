/*
 * functions/http.c
 *		Decisions as HTTP answers: rl_headers(), rl_enforce().
 *
 * The fields are those of draft-ietf-httpapi-ratelimit-headers-11: RateLimit-Policy
 * tells the quota q, RateLimit what remains of it, r, and the seconds t for which
 * that has to do.  The bucket's tokens are the quota.  For a denied call t is the
 * time until a call like it would be allowed, which is also what Retry-After says,
 * as that must not be earlier; for an allowed one the time until the bucket is
 * full.  Integers there have at most 15 digits.
 *
 * rl_enforce()'s errors are those that PostgREST documents ("Errors", "RAISE
 * errors with HTTP Status Codes" and "Add HTTP Headers with RAISE"): SQLSTATE
 * PT429 becomes status 429, and PGRST carries body and headers as JSON.
 */
#include "postgres.h"

#include <math.h>

#include "core/settings.h"
#include "decide/one.h"
#include "decide/short_way.h"
#include "executor/executor.h"
#include "functions/arguments.h"
#include "functions/result.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

SQL_FUNCTION(rl_headers);
SQL_FUNCTION(rl_enforce);

#define ERRCODE_PT429	MAKE_SQLSTATE('P','T','4','2','9')
#define ERRCODE_PGRST	MAKE_SQLSTATE('P','G','R','S','T')

#define SF_INTEGER_MAX	999999999999999.0

/* What the headers say, NaN: not known; times in seconds, rounded up, below 0: never. */
typedef struct Answer
{
	bool		allowed;
	double		capacity;
	double		remaining;
	double		retry_after;
	double		reset_after;
} Answer;

/* A whole number of at least 0 that a structured field can hold. */
static char *
sf_integer(double value)
{
	return psprintf("%.0f", floor(Max(Min(value, SF_INTEGER_MAX), 0)));
}

/* A string of a structured field: printable ASCII only, the rest as in a URL. */
static char *
sf_string(const char *s, int len)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '"');
	for (int i = 0; i < len; i++)
	{
		unsigned char c = s[i];

		if (c == '"' || c == '\\')
			appendStringInfoChar(&buf, '\\');
		if (c < ' ' || c > '~')
			appendStringInfo(&buf, "%%%02X", c);
		else
			appendStringInfoChar(&buf, c);
	}
	appendStringInfoChar(&buf, '"');
	return buf.data;
}

static void
add_header(StringInfo buf, const char *name, const char *value)
{
	if (buf->len > 0)
		appendStringInfoString(buf, ", ");
	escape_json(buf, name);
	appendStringInfoString(buf, ": ");
	escape_json(buf, value);
}

/* The headers as a JSON object of strings. */
static char *
headers(const Answer *answer, const char *policy, int policy_len)
{
	char	   *name = sf_string(policy, policy_len);
	double		seconds = answer->allowed ? answer->reset_after : answer->retry_after;
	StringInfoData buf;

	initStringInfo(&buf);
	if (!isnan(answer->remaining))
	{
		char	   *limit = psprintf("%s;r=%s", name, sf_integer(answer->remaining));

		if (seconds >= 0)
			limit = psprintf("%s;t=%s", limit, sf_integer(seconds));
		add_header(&buf, "RateLimit", limit);
	}
	if (!isnan(answer->capacity))
		add_header(&buf, "RateLimit-Policy",
				   psprintf("%s;q=%s", name, sf_integer(answer->capacity)));
	if (!answer->allowed && answer->retry_after >= 0)
		add_header(&buf, "Retry-After", sf_integer(answer->retry_after));
	return psprintf("{%s}", buf.data);
}

/* Whole seconds of an interval, rounded up. */
static double
interval_seconds(const Interval *span)
{
	double		seconds = ((double) span->month * DAYS_PER_MONTH + span->day) *
		SECS_PER_DAY;

	return Max(ceil(seconds + (double) span->time / USECS_PER_SEC), 0);
}

/* What an rl_result says; what is null in it is unknown, or never. */
static Answer
read_result(HeapTupleHeader result)
{
	Answer		answer;
	bool		isnull;
	Datum		value;

	value = GetAttributeByNum(result, 1, &isnull);
	answer.allowed = !isnull && DatumGetBool(value);
	value = GetAttributeByNum(result, 2, &isnull);
	answer.capacity = isnull ? NAN : DatumGetFloat8(value);
	value = GetAttributeByNum(result, 3, &isnull);
	answer.remaining = isnull ? NAN : DatumGetFloat8(value);
	value = GetAttributeByNum(result, 4, &isnull);
	answer.retry_after = isnull ? -1 : interval_seconds(DatumGetIntervalP(value));
	value = GetAttributeByNum(result, 5, &isnull);
	answer.reset_after = isnull ? -1 : interval_seconds(DatumGetIntervalP(value));
	return answer;
}

/* rl_headers(r, policy) returns jsonb */
Datum
rl_headers(PG_FUNCTION_ARGS)
{
	Answer		answer;
	text	   *policy;

	check_not_null(fcinfo, 0, "r");
	check_not_null(fcinfo, 1, "policy");
	answer = read_result(PG_GETARG_HEAPTUPLEHEADER(0));
	policy = PG_GETARG_TEXT_PP(1);
	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in,
										CStringGetDatum(headers(&answer, VARDATA_ANY(policy),
																VARSIZE_ANY_EXHDR(policy)))));
}

/* Say no: as an error that PostgREST makes an answer of, headers and all, or not. */
static void
raise_denied(const BucketId *id, const BucketRule *rule, const Decision *decision)
{
	Answer		answer = {false};
	Owed		wait = decision_wait(rule, decision);
	double		remaining = bucket_tokens(rule, decision->owed);
	char	   *detail;
	char	   *hint = NULL;
	StringInfoData body;

	answer.capacity = rule->capacity;
	answer.remaining = !decision->known ? NAN : decision->blocked > 0 ? 0 : remaining;
	answer.retry_after = wait < 0 ? -1 : ceil((double) wait / 1e9);

	detail = psprintf("key \"%.*s\", limiter \"%.*s\"", id->key_len, id->key,
					  id->limiter_len, id->limiter);
	/* rounded down: what is shown as there is there */
	if (decision->blocked > 0)
		detail = psprintf("%s: blocked", detail);
	else if (decision->known)
		detail = psprintf("%s: %.15g of %.15g tokens remaining", detail,
						  floor(remaining * 1000) / 1000, rule->capacity);
	if (answer.retry_after >= 0)
		hint = psprintf("Wait %.0f s.", answer.retry_after);
	else if (decision->known)
		hint = pstrdup("Waiting does not help.");

	if (!postgrest_headers_setting)
		ereport(ERROR,
				(errcode(ERRCODE_PT429),
				 errmsg("rate limit exceeded"),
				 errdetail("%s", detail),
				 hint ? errhint("%s", hint) : 0));

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"code\": \"PT429\", \"message\": \"rate limit exceeded\", \"details\": ");
	escape_json(&body, detail);
	appendStringInfoString(&body, ", \"hint\": ");
	if (hint)
		escape_json(&body, hint);
	else
		appendStringInfoString(&body, "null");
	appendStringInfoChar(&body, '}');
	ereport(ERROR,
			(errcode(ERRCODE_PGRST),
			 errmsg_internal("%s", body.data),
			 errdetail_internal("{\"status\": 429, \"headers\": %s}",
								headers(&answer, id->limiter, id->limiter_len))));
}

/* rl_enforce(key, capacity, refill, cost, limiter) returns void */
Datum
rl_enforce(PG_FUNCTION_ARGS)
{
	BucketId	id;
	const BucketRule *rule = get_call(fcinfo, &id);
	Decision	decision;

	decide_uncounted(&id, rule, &decision);
	decide_counted(&id, rule, &decision, false);
	if (!decision.allowed)
		raise_denied(&id, rule, &decision);
	PG_RETURN_VOID();
}
