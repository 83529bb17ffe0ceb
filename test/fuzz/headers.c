/*
 * headers.c
 *		Header fields (src/functions/http.c, src/functions/http_answer.c).
 *
 * The input becomes an rl_result with any numbers, times and nulls, and the further
 * arguments of rl_headers().  What comes out has to be structured fields (RFC 9651).
 */
#include "fuzz.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/* Skip what is between quotes.  NULL: it does not end, or has what it must not have. */
static const char *
skip_string(const char *at)
{
	for (at++; *at != '"'; at++)
	{
		if (*at == '\\' && *++at != '"' && *at != '\\')
			return NULL;
		if (*at < ' ' || *at > '~')
			return NULL;
	}
	return at + 1;
}

/* Skip the value of a parameter: an integer, a string or a byte sequence. */
static const char *
skip_value(const char *at)
{
	Size		n;

	if (*at == '"')
		return skip_string(at);
	if (*at == ':')
	{
		at += 1 + strspn(at + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=");
		return *at == ':' ? at + 1 : NULL;
	}
	n = strspn(at, "0123456789");
	return n >= 1 && n <= 15 ? at + n : NULL;
}

/* Is this a list of strings with parameters? */
static bool
is_list(const char *at)
{
	for (;;)
	{
		if (*at != '"' || !(at = skip_string(at)))
			return false;
		while (*at == ';')
		{
			at += 1 + strspn(at + 1, "abcdefghijklmnopqrstuvwxyz");
			if (*at != '=' || !(at = skip_value(at + 1)))
				return false;
		}
		if (*at == '\0')
			return true;
		if (strncmp(at, ", ", 2) != 0)
			return false;
		at += 2;
	}
}

/* Is each member of the object a field as it has to be? */
void
check_fields(const char *json)
{
	static const char *const names[] = {"RateLimit", "RateLimit-Policy", "Retry-After"};
	Jsonb	   *object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));

	if (!JB_ROOT_IS_OBJECT(object) || JB_ROOT_COUNT(object) > lengthof(names))
		finding("fields %s", json);
	for (int i = 0; i < lengthof(names); i++)
	{
		JsonbValue *value = getKeyJsonValueFromContainer(&object->root, names[i],
														 strlen(names[i]), NULL);
		char	   *field;

		if (!value)
			continue;
		if (value->type != jbvString)
			finding("field %s of %s", names[i], json);
		field = pnstrdup(value->val.string.val, value->val.string.len);
		if (i == 2 ? *field == '\0' || field[strspn(field, "0123456789")] != '\0' : !is_list(field))
			finding("field %s: %s", names[i], field);
	}
}

static Datum
take_interval(Bytes *input)
{
	Interval   *interval = palloc0(sizeof(Interval));

	take_bytes(input, &interval->time, sizeof(interval->time));
	interval->time >>= take_byte(input) % 64;
	interval->day = (int8) take_byte(input);
	interval->month = take_byte(input) == 1 ? (int8) take_byte(input) : 0;
	return IntervalPGetDatum(interval);
}

static Datum
take_argument(Bytes *input)
{
	int			len;
	char	   *text = take_text(input, 300, &len);

	return PointerGetDatum(cstring_to_text_with_len(text, len));
}

static void
try_headers(Bytes *input)
{
	static FmgrInfo function;
	static TupleDesc desc;
	LOCAL_FCINFO(fcinfo, 4);
	uint16		nulls;
	Datum		values[8];
	bool		isnull[8];
	Datum		result;

	if (!desc)
	{
		Oid			type = TypenameGetTypid("rl_result");
		Oid			types[] = {type, TEXTOID, TEXTOID, BYTEAOID};

		fmgr_info_cxt(LookupFuncName(list_make1(makeString("rl_headers")), 4, types, false),
					  &function, TopMemoryContext);
		desc = CreateTupleDescCopy(lookup_rowtype_tupdesc_copy(type, -1));
		desc = (MemoryContextSwitchTo(TopMemoryContext), BlessTupleDesc(CreateTupleDescCopy(desc)));
	}

	take_bytes(input, &nulls, sizeof(nulls));
	for (int i = 0; i < lengthof(values); i++)
		isnull[i] = nulls >> i & 1;
	values[0] = BoolGetDatum(take_byte(input) & 1);
	values[1] = Float8GetDatum(take_double(input));
	values[2] = Float8GetDatum(take_double(input));
	values[3] = take_interval(input);
	values[4] = take_interval(input);
	values[5] = take_argument(input);
	values[6] = BoolGetDatum(take_byte(input) & 1);
	values[7] = take_interval(input);

	InitFunctionCallInfoData(*fcinfo, &function, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = HeapTupleGetDatum(heap_form_tuple(desc, values, isnull));
	for (int i = 1; i < 4; i++)
		fcinfo->args[i].value = take_argument(input);
	for (int i = 0; i < 4; i++)
		fcinfo->args[i].isnull = nulls >> (8 + i) & 1;
	result = FunctionCallInvoke(fcinfo);
	check_fields(DatumGetCString(DirectFunctionCall1(jsonb_out, result)));
}

const Fuzzer fuzz_headers = {"headers", try_headers, "22004 22023 54000"};
