/*
 * postgrest.c
 *		Rules for requests of PostgREST (src/functions/postgrest.c).
 *
 * The input is a request: its method, path, headers and claims.  The rules are those of
 * setup.sql.  A denial has to have header fields as they have to be, and so has the
 * answer to a request that is let through.
 */
#include "fuzz.h"

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

static void
try_postgrest(Bytes *input)
{
	static FmgrInfo function;
	LOCAL_FCINFO(fcinfo, 0);
	const char *fields;

	if (!OidIsValid(function.fn_oid))
		fmgr_info_cxt(LookupFuncName(list_make1(makeString("rl_postgrest_check")), 0, NULL, false),
					  &function, TopMemoryContext);
	set("ratelimit.postgrest_headers", take_byte(input) % 2 ? "problem" : "on");
	set("request.method", take_setting(input));
	set("request.path", take_setting(input));
	set("request.headers", take_setting(input));
	set("request.jwt.claims", take_setting(input));
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
	if (fields && *fields)
		(void) DirectFunctionCall1(jsonb_in, CStringGetDatum(fields));
}

/* 22P02: a setting is not JSON; 22P05: a \u0000 */
const Fuzzer fuzz_postgrest = {"postgrest", try_postgrest, "PGRST 22P02 22P05 22003 54001 54000"};
