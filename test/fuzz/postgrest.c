/*
 * postgrest.c
 *		Rules for requests of PostgREST (src/functions/postgrest.c).
 *
 * The input is a request: its method, path, headers and claims.  The rules are those of
 * setup.sql.  A denial has to have header fields as they have to be, and so has the
 * answer to a request that is let through.  Only a request with one of the paths and
 * claims that are exempt is not limited at all, in whichever way it is written.  And the
 * keys of rules that go by address are addresses, so that no client can choose any.
 */
#include "fuzz.h"

#include <arpa/inet.h>
#include <ctype.h>

#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

/* Set one of PostgREST's settings. */
static void
set(const char *name, const char *value)
{
	SetConfigOption(name, value, PGC_USERSET, PGC_S_SESSION);
}

/* The next text of the input; as PostgREST's are, it is valid UTF-8. */
static char *
take_setting(Bytes *input)
{
	int			len;
	char	   *text = take_text(input, 1000, &len);

	if (!pg_verify_mbstr(PG_UTF8, text, len, true))
		for (int i = 0; i < len; i++)
			text[i] &= 0x7f;
	return text;
}

/* The byte that %XX stands for; -1 if it is not one, or is zero. */
static int
encoded_byte(const char *at)
{
	char		digits[3] = {0};

	if (*at != '%' || !isxdigit((unsigned char) at[1]) || !isxdigit((unsigned char) at[2]))
		return -1;
	memcpy(digits, at + 1, 2);
	return strcmp(digits, "00") == 0 ? -1 : (int) strtol(digits, NULL, 16);
}

/* Does the path begin so, as PostgREST reads it? */
static bool
path_begins(const char *path, const char *wanted)
{
	if (*path != '/')
		wanted++;
	for (; *wanted; wanted++)
	{
		int			byte = encoded_byte(path);

		if ((byte < 0 ? (unsigned char) *path : byte) != *wanted)
			return false;
		path += byte < 0 ? 1 : 3;
	}
	return true;
}

/* Do rules 1 and 2 exempt the request?  Of the claims this only says whether they may. */
static bool
may_be_exempt(const char *path, const char *claims)
{
	return path_begins(path, "/health") || strstr(claims, "admin") || strchr(claims, '\\');
}

/* Is this what the key of an address looks like? */
static bool
is_address_key(const char *key)
{
	unsigned char bytes[16];
	const char *slash = strchr(key, '/');

	if (strcmp(key, "(none)") == 0)
		return true;
	if (!slash)
		return inet_pton(AF_INET, key, bytes) == 1;
	return strcmp(slash, "/64") == 0 && inet_pton(AF_INET6, pnstrdup(key, slash - key), bytes) == 1 &&
		memcmp(bytes + 8, "\0\0\0\0\0\0\0\0", 8) == 0;
}

/* Are the keys in all buckets of policy "byip" addresses? */
static void
check_keys(void)
{
	static SPIPlanPtr plan = NULL;

	SPI_connect();
	if (!plan)
	{
		plan = SPI_prepare("SELECT key FROM rate_limit_status WHERE limiter LIKE 'byip%'", 0, NULL);
		SPI_keepplan(plan);
	}
	SPI_execute_plan(plan, NULL, NULL, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		char	   *key = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);

		if (!is_address_key(key))
			finding("the key of an address is \"%s\"", key);
	}
	SPI_finish();
}

static void
try_postgrest(Bytes *input)
{
	static FmgrInfo function;
	static uint64 n = 0;
	LOCAL_FCINFO(fcinfo, 0);
	const char *fields;
	char	   *method;
	char	   *path;
	char	   *claims;

	if (!OidIsValid(function.fn_oid))
		fmgr_info_cxt(LookupFuncName(list_make1(makeString("rl_postgrest_check")), 0, NULL, false),
					  &function, TopMemoryContext);
	set("ratelimit.postgrest_headers", take_byte(input) % 2 ? "problem" : "on");
	set("request.method", method = take_setting(input));
	set("request.path", path = take_setting(input));
	set("request.headers", take_setting(input));
	set("request.jwt.claims", claims = take_setting(input));
	set("response.headers", "");

	InitFunctionCallInfoData(*fcinfo, &function, 0, InvalidOid, NULL, NULL);
	PG_TRY();
	{
		FunctionCallInvoke(fcinfo);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		MemoryContext context = MemoryContextSwitchTo(CurTransactionContext);
		const char *at;

		error = CopyErrorData();
		MemoryContextSwitchTo(context);
		if (error->sqlerrcode == MAKE_SQLSTATE('P', 'G', 'R', 'S', 'T'))
		{
			at = strstr(error->detail, "\"headers\": ");
			if (!at)
				finding("a denial has the detail %s", error->detail);
			check_fields(pnstrdup(at + 11, strlen(at + 11) - 1));
			(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(error->message));
		}
		PG_RE_THROW();
	}
	PG_END_TRY();

	fields = GetConfigOption("response.headers", true, false);
	if (n++ % 64 == 0)
		check_keys();
	if (!(fields && *fields) && !may_be_exempt(path, claims))
		finding("path \"%s\" with claims %s is not limited", path, claims);
	if (strcmp(method, "POST") == 0 && path_begins(path, "/rpc/") &&
		!may_be_exempt(path, claims) && !strstr(fields, "\\\"api\\\""))
		finding("path \"%s\" is not limited by rule 4: %s", path, fields);
	if (fields && *fields)
		(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(fields));
}

/* 22P02: a setting is not JSON; 22P05: a \u0000 */
const Fuzzer fuzz_postgrest = {"postgrest", try_postgrest, "PGRST 22P02 22P05 22003 54001 54000"};
