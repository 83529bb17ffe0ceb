/*
 * reports.c
 *		rl_report_batch() (src/functions/intake.c), and counting violations.
 *
 * The input is JSON, or it is what the entries of a batch are made of; then what
 * has to be accepted is known, and so is by how much pending violations have to grow.
 */
#include "fuzz.h"

#include "catalog/pg_type.h"
#include "core/names.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "violations/count.h"
#include "violations/entries.h"
#include "violations/part.h"
#include "violations/pending.h"

/* Members that an entry may have, and others. */
static const char *const names[] = {"key", "limiter", "rejected", "gateway", "", "Key"};

/* How many violations are counted, in any database. */
static int64
counted(void)
{
	int64		sum = violations_lost();

	for (uint32 at = 0; at < violations_entries(); at++)
	{
		ViolationView view;
		Oid			owner;

		if (violations_view(at, InvalidOid, &view, &owner))
			sum += view.count;
	}
	return sum;
}

/* Make an entry of input.  Returns how many rejections have to be taken from it. */
static int64
take_entry(Bytes *input, StringInfo json)
{
	int64		rejected = 0;
	bool		valid[3] = {false};
	int			n = take_byte(input) % 5;

	appendStringInfoChar(json, '{');
	for (int i = 0; i < n; i++)
	{
		int			name = take_byte(input) % lengthof(names);
		uint8		kind = take_byte(input);
		int			len;
		char	   *text;

		appendStringInfoString(json, i == 0 ? "" : ",");
		escape_json(json, names[name]);
		appendStringInfoChar(json, ':');
		if (kind % 4 == 0)
		{
			int64		number;

			take_bytes(input, &number, sizeof(number));
			number >>= kind / 4;
			appendStringInfo(json, INT64_FORMAT, number);
			/* the last member of a name counts */
			if (name < 2)
				valid[name] = false;
			if (name == 2)
			{
				valid[2] = number > 0 && number <= MAX_VIOLATIONS_ADDED;
				rejected = number;
			}
			continue;
		}
		text = take_text(input, kind % 4 == 1 ? 300 : 20, &len);
		if (!pg_verify_mbstr(PG_UTF8, text, len, true))
			for (int j = 0; j < len; j++)
				text[j] &= 0x7f;
		len = strlen(text);
		escape_json(json, text);
		if (name == 0)
			valid[0] = len > 0 && len <= MAX_KEY_LEN;
		if (name == 1)
			valid[1] = len > 0 && len <= MAX_LIMITER_LEN && !strchr(text, ':');
		if (name == 2)
			valid[2] = false;
	}
	appendStringInfoChar(json, '}');
	return valid[0] && valid[1] && valid[2] ? rejected : 0;
}

static void
try_reports(Bytes *input)
{
	static int	tried = 0;
	static FmgrInfo function;
	LOCAL_FCINFO(fcinfo, 1);
	StringInfoData json;
	bool		is_raw = take_byte(input) % 4 == 0;
	int			n = 0;
	int			accepted = 0;
	int64		rejected = 0;
	int64		before;
	HeapTupleHeader answer;
	bool		isnull;

	if (!OidIsValid(function.fn_oid))
	{
		Oid			types[] = {JSONBOID};

		fmgr_info_cxt(LookupFuncName(list_make1(makeString("rl_report_batch")), 1, types, false),
					  &function, TopMemoryContext);
	}
	/* long before any count could overflow */
	if (tried++ % 1000 == 0)
		violations_forget_database(MyDatabaseId, false);

	initStringInfo(&json);
	if (is_raw)
	{
		int			len;
		char	   *text = take_text(input, 2000, &len);

		if (!pg_verify_mbstr(PG_UTF8, text, len, true))
			return;
		appendStringInfoString(&json, text);
	}
	else
	{
		appendStringInfoChar(&json, '[');
		for (; input->at < input->end; n++)
		{
			int64		more;

			if (n > 0)
				appendStringInfoChar(&json, ',');
			more = take_entry(input, &json);
			rejected += more;
			accepted += more > 0;
		}
		appendStringInfoChar(&json, ']');
	}

	before = counted();
	InitFunctionCallInfoData(*fcinfo, &function, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data));
	fcinfo->args[0].isnull = false;
	answer = DatumGetHeapTupleHeader(FunctionCallInvoke(fcinfo));
	if (is_raw)
		return;
	if (DatumGetInt64(GetAttributeByNum(answer, 1, &isnull)) != accepted ||
		DatumGetInt64(GetAttributeByNum(answer, 2, &isnull)) != n - accepted)
		finding("%d of %d entries were to be accepted of %s", accepted, n, json.data);
	if (counted() - before != rejected)
		finding(INT64_FORMAT " rejections are counted, not " INT64_FORMAT ", of %s",
				counted() - before, rejected, json.data);
}

/* 22P05: a \u0000 */
const Fuzzer fuzz_reports = {"reports", try_reports, "22023 22P02 22P05 22003 54001"};
