/*
 * functions/http_answer.c
 *		Decisions as HTTP answers: header fields, and errors that become answers.
 *
 * The fields are those of draft-ietf-httpapi-ratelimit-headers-10.  RateLimit-Policy
 * gives the quota q, which is the bucket's capacity, and the window w, which is the
 * number of seconds in which an empty bucket fills; or the allowance of a period, and
 * how long the period lasts.  RateLimit gives the remaining quota r, in whole tokens,
 * and the number of seconds t until there is more: until the next whole token, or
 * until a block ends.  Revision 11 of the draft calls t the effective window, in
 * which a client can use no more than r.  The time until the next whole token is an
 * effective window, too.  Retry-After is the time until a call like the denied one
 * would be allowed, which is never before t.
 *
 * In structured fields (RFC 9651), strings are printable ASCII, and integers have at
 * most 15 digits.
 *
 * The errors are those that PostgREST documents ("Errors", "RAISE errors with HTTP
 * Status Codes" and "Add HTTP Headers with RAISE"): SQLSTATE PT429 becomes status
 * 429, and PGRST carries body and headers as JSON.
 */
#include "postgres.h"

#include <math.h>

#include "common/base64.h"
#include "core/compat.h"
#include "functions/http_answer.h"
#include "functions/result.h"
#include "lib/stringinfo.h"
#include "utils/json.h"

#define ERRCODE_PT429	MAKE_SQLSTATE('P','T','4','2','9')
#define ERRCODE_PGRST	MAKE_SQLSTATE('P','G','R','S','T')

#define SF_INTEGER_MAX	999999999999999.0

/* The draft's problem type of a request that exceeds a quota. */
#define PROBLEM_TYPE	"https://iana.org/assignments/http-problem-types#quota-exceeded"
#define PROBLEM_TITLE	"Quota Exceeded"

/* An integer of a structured field: rounded down, and cut to what it can hold. */
static char *
sf_integer(double value)
{
	return psprintf("%.0f", floor(Max(Min(value, SF_INTEGER_MAX), 0)));
}

/* A string of a structured field.  Bytes that it cannot hold become %XX. */
char *
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

/* A byte sequence of a structured field. */
char *
sf_bytes(const char *bytes, int len)
{
	int			room = pg_b64_enc_len(len);
	char	   *result = palloc(room + 3);
	int			n;

	/* the parameter is a char * before 18, and a uint8 * since */
	n = pg_b64_encode((const void *) bytes, len, result + 1, room);
	if (n < 0)
		elog(ERROR, "could not encode %d bytes", len);

	result[0] = result[1 + n] = ':';
	result[2 + n] = '\0';
	return result;
}

/*
 * In how many seconds does a bucket have the next whole token?  It has "remaining"
 * tokens, and is full in "full" seconds.  Below 0: never.
 */
double
http_next_token(double capacity, double remaining, double full)
{
	double		next = Max(floor(remaining) + 1, 1);

	if (full < 0 || !(next <= capacity))
		return -1;
	return full * ((next - remaining) / (capacity - remaining));
}

/* The limit that a decision describes. */
static HttpLimit
limit_of_decision(const BucketRule *rule, const Decision *decision)
{
	Owed		wait = decision_wait(rule, decision);
	HttpLimit	limit;

	limit.capacity = rule->capacity;
	limit.remaining = !decision->known ? NAN : decision->blocked > 0 ? 0 :
		bucket_tokens(rule, decision->owed);
	limit.retry_after = wait < 0 ? -1 : (double) wait / 1e9;
	limit.window = rule->refill > 0 ? rule->capacity / rule->refill : -1;
	limit.window_error = limit.window * ROUNDING;
	if (bucket_in_period(rule->refill))
	{
		Owed		reset = decision_reset(rule, decision);

		limit.window = rule->length / 1e6;
		limit.window_error = 0;
		limit.more_after = decision->blocked > 0 ? (double) decision->blocked / 1e9 :
			reset <= 0 ? -1 : (double) reset / 1e9;
		return limit;
	}
	limit.more_after = decision->blocked > 0 ? (double) decision->blocked / 1e9 :
		http_next_token(limit.capacity, limit.remaining,
						rule->timed ? (double) decision->owed / 1e9 : -1);
	/* the call may have to wait for only a fraction of a token */
	if (decision->blocked == 0 && wait > 0 && limit.more_after > limit.retry_after)
		limit.more_after = limit.retry_after;
	return limit;
}

/* Add an item to a list. */
static void
add_item(StringInfo list, const char *item)
{
	if (list->len > 0)
		appendStringInfoString(list, ", ");
	appendStringInfoString(list, item);
}

/*
 * Add a limit to the fields.  Its name, "unit" (qu) and "partition" (pk) are values
 * of structured fields; the last two may be NULL.
 */
void
http_fields_add_limit(HttpFields *fields, const char *name, const HttpLimit *limit,
					  const char *unit, const char *partition)
{
	char	   *pk = partition ? psprintf(";pk=%s", partition) : "";

	if (!isnan(limit->remaining))
	{
		char	   *t = "";

		if (limit->more_after >= 0)
			t = psprintf(";t=%s", sf_integer(ceil(limit->more_after - RESULT_ERROR)));
		add_item(&fields->limits,
				 psprintf("%s;r=%s%s%s", name, sf_integer(limit->remaining), t, pk));
	}
	if (!isnan(limit->capacity))
	{
		char	   *qu = unit ? psprintf(";qu=%s", unit) : "";
		char	   *w = "";

		if (limit->window > 0)
			w = psprintf(";w=%s", sf_integer(Max(ceil(limit->window - limit->window_error), 1)));
		add_item(&fields->policies,
				 psprintf("%s;q=%s%s%s%s", name, sf_integer(limit->capacity), qu, w, pk));
	}
	if (limit->retry_after > fields->retry_after)
		fields->retry_after = limit->retry_after;
}

/* Begin the fields, without any limit. */
void
http_fields_begin(HttpFields *fields)
{
	initStringInfo(&fields->limits);
	initStringInfo(&fields->policies);
	fields->retry_after = 0;
}

/* Add the limit that decided a call, under the name of its limiter. */
void
http_fields_add(HttpFields *fields, const BucketCall *call)
{
	HttpLimit	limit = limit_of_decision(&call->rule, &call->decision);

	int			len = plain_limiter_len(call->id.limiter, call->id.limiter_len);

	http_fields_add_limit(fields, sf_string(call->id.limiter, len), &limit, NULL, NULL);
}

/* Add a field, unless its value is NULL or empty. */
static void
add_field(StringInfo json, bool array, const char *name, const char *value)
{
	if (!value || *value == '\0')
		return;
	if (json->len > 1)
		appendStringInfoString(json, ", ");
	if (array)
		appendStringInfoChar(json, '{');
	escape_json(json, name);
	appendStringInfoString(json, ": ");
	escape_json(json, value);
	if (array)
		appendStringInfoChar(json, '}');
}

/*
 * The fields as JSON: the members of one object, or, as PostgREST's setting
 * response.headers has them, objects of one member each in an array.
 */
char *
http_fields_json(const HttpFields *fields, bool array)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, array ? '[' : '{');
	add_field(&json, array, "RateLimit", fields->limits.data);
	add_field(&json, array, "RateLimit-Policy", fields->policies.data);
	if (fields->retry_after > 0)
		add_field(&json, array, "Retry-After", sf_integer(ceil(fields->retry_after)));
	appendStringInfoChar(&json, array ? ']' : '}');
	return json.data;
}

/* Add a member to an object, which is closed by the caller; NULL becomes null. */
static void
add_member(StringInfo object, const char *name, const char *value)
{
	appendStringInfoString(object, object->len == 0 ? "{" : ", ");
	escape_json(object, name);
	appendStringInfoString(object, ": ");
	if (value)
		escape_json(object, value);
	else
		appendStringInfoString(object, "null");
}

/*
 * Add the members of a problem (RFC 9457).  The policies that it names as violated
 * are the limiters of those calls that were denied.
 */
static void
add_problem(StringInfo object, const BucketCall *calls, int n)
{
	const char *between = "";

	add_member(object, "type", PROBLEM_TYPE);
	add_member(object, "title", PROBLEM_TITLE);
	appendStringInfoString(object, ", \"status\": 429, \"violated-policies\": [");
	for (int i = 0; i < n; i++)
	{
		const BucketId *id = &calls[i].id;

		if (calls[i].decision.allowed)
			continue;
		appendStringInfoString(object, between);
		escape_json(object, pnstrdup(id->limiter,
									 plain_limiter_len(id->limiter, id->limiter_len)));
		between = ", ";
	}
	appendStringInfoChar(object, ']');
}

/* Which bucket denied the call, and how many tokens it has. */
static char *
denied_detail(const BucketCall *call)
{
	const BucketId *id = &call->id;
	const Decision *decision = &call->decision;
	double		remaining = bucket_tokens(&call->rule, decision->owed);
	char	   *detail = psprintf("key \"%.*s\", limiter \"%.*s\"", id->key_len, id->key,
								  plain_limiter_len(id->limiter, id->limiter_len),
								  id->limiter);

	if (decision->blocked > 0)
		return psprintf("%s: blocked", detail);
	/* rounded down, so that the bucket has every token that is shown */
	if (decision->known)
		return psprintf("%s: %.15g of %.15g tokens remaining", detail,
						floor(remaining * 1000) / 1000, call->rule.capacity);
	return detail;
}

/* How long to wait, as a hint; NULL if that is not known. */
static char *
denied_hint(const BucketCall *call)
{
	Owed		wait = decision_wait(&call->rule, &call->decision);

	if (wait >= 0)
		return psprintf("Wait %.0f s.", ceil((double) wait / 1e9));
	return call->decision.known ? "Waiting does not help." : NULL;
}

/*
 * Raise the error, of the given form, that denies a request.  The calls on n buckets
 * were decided together, and "most" is the index of the one that binds most.  If n is
 * 0, ratelimit.on_error decided.
 */
void
http_deny(const BucketCall *calls, int n, int most, HttpError form)
{
	char	   *detail = n > 0 ? denied_detail(&calls[most]) : NULL;
	char	   *hint = n > 0 ? denied_hint(&calls[most]) : NULL;
	HttpFields	fields;
	StringInfoData body;

	if (form == HTTP_ERROR_PT429)
		ereport(ERROR,
				(errcode(ERRCODE_PT429),
				 errmsg("rate limit exceeded"),
				 detail ? errdetail("%s", detail) : 0,
				 hint ? errhint("%s", hint) : 0));

	http_fields_begin(&fields);
	if (n > 0)
		http_fields_add(&fields, &calls[most]);
	initStringInfo(&body);
	if (form == HTTP_ERROR_PROBLEM)
	{
		/*
		 * PostgREST takes code, message, details and hint, all of them text, and
		 * ignores other members.  So the problem goes into the details, and, for
		 * servers that answer with the whole body, into the body itself.
		 */
		StringInfoData problem;

		initStringInfo(&problem);
		add_problem(&problem, calls, n);
		appendStringInfoChar(&problem, '}');
		detail = problem.data;
		add_problem(&body, calls, n);
	}
	add_member(&body, "code", "PT429");
	add_member(&body, "message", "rate limit exceeded");
	add_member(&body, "details", detail);
	add_member(&body, "hint", hint);
	appendStringInfoChar(&body, '}');
	ereport(ERROR,
			(errcode(ERRCODE_PGRST),
			 errmsg_internal("%s", body.data),
			 errdetail_internal("{\"status\": 429, \"headers\": %s}",
								http_fields_json(&fields, false))));
}
