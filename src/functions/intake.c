/*
 * functions/intake.c
 *		Taking in rejections that a gateway has decided by itself: rl_report(),
 *		rl_report_batch().
 *
 * They count as violations, like denied calls: they are written, shown and flagged in
 * the same way.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "functions/arguments.h"
#include "memory/partitions.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "violations/flush.h"

SQL_FUNCTION(rl_report);
SQL_FUNCTION(rl_report_batch);

/*
 * Raise an error if violations cannot be counted.  Without shared memory, they are
 * rows that this transaction writes.
 */
static void
check_can_count(const char *function)
{
	if (!memory_attached())
		PreventCommandIfReadOnly(function);
}

/* Put a bucket's name together.  Return false if no bucket can have that name. */
static bool
make_id(BucketId *id, const char *limiter, int limiter_len, const char *key,
		int key_len)
{
	if (limiter_len == 0 || limiter_len > MAX_LIMITER_LEN ||
		key_len == 0 || key_len > MAX_KEY_LEN || memchr(limiter, ':', limiter_len))
		return false;
	make_bucket_id(id, MyDatabaseId, limiter, limiter_len, key, key_len);
	return true;
}

/* rl_report(key, limiter, rejected) returns boolean: false if it was skipped */
Datum
rl_report(PG_FUNCTION_ARGS)
{
	text	   *key;
	text	   *limiter;
	int64		rejected;
	BucketId	id;

	check_not_null(fcinfo, 0, "key");
	check_not_null(fcinfo, 1, "limiter");
	check_not_null(fcinfo, 2, "rejected");
	check_can_count("rl_report()");
	key = PG_GETARG_TEXT_PP(0);
	limiter = PG_GETARG_TEXT_PP(1);
	rejected = PG_GETARG_INT64(2);

	if (VARSIZE_ANY_EXHDR(limiter) == 0 || VARSIZE_ANY_EXHDR(key) == 0 || rejected <= 0)
		PG_RETURN_BOOL(false);
	if (rejected > MAX_VIOLATIONS_ADDED)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rejected must not be above %lld, not %lld",
						(long long) MAX_VIOLATIONS_ADDED, (long long) rejected)));
	check_limiter(VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter));
	check_length("key", VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key), MAX_KEY_LEN);
	make_bucket_id(&id, MyDatabaseId, VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter),
				   VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
	flush_record(&id, rejected, 0);
	PG_RETURN_BOOL(true);
}

/* A member of an object; NULL if the object has no such member of that type. */
static JsonbValue *
member(JsonbContainer *object, const char *name, enum jbvType type)
{
	JsonbValue *value = getKeyJsonValueFromContainer(object, name, strlen(name), NULL);

	return value && value->type == type ? value : NULL;
}

/* An entry of a batch. */
typedef struct Report
{
	BucketId	id;				/* its strings are in the batch */
	int64		rejected;
} Report;

/* Read an entry of a batch.  Return false if it is malformed. */
static bool
parse_entry(const JsonbValue *entry, BucketId *id, int64 *rejected)
{
	JsonbContainer *object;
	JsonbValue *limiter;
	JsonbValue *key;
	JsonbValue *count;
	char	   *digits;
	char	   *end;

	if (entry->type != jbvBinary || !JsonContainerIsObject(entry->val.binary.data))
		return false;
	object = entry->val.binary.data;
	limiter = member(object, "limiter", jbvString);
	key = member(object, "key", jbvString);
	count = member(object, "rejected", jbvNumeric);
	if (!limiter || !key || !count ||
		!make_id(id, limiter->val.string.val, limiter->val.string.len,
				 key->val.string.val, key->val.string.len))
		return false;

	digits = DatumGetCString(DirectFunctionCall1(numeric_out,
												 NumericGetDatum(count->val.numeric)));
	errno = 0;
	*rejected = strtoll(digits, &end, 10);
	return *end == '\0' && errno == 0 &&
		*rejected > 0 && *rejected <= MAX_VIOLATIONS_ADDED;
}

/* rl_report_batch(entries) returns (accepted, skipped) */
Datum
rl_report_batch(PG_FUNCTION_ARGS)
{
	Jsonb	   *entries;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	TupleDesc	desc;
	Datum		values[2];
	bool		nulls[2] = {false};
	Report	   *reports;
	int64		accepted = 0;
	int64		skipped = 0;

	check_not_null(fcinfo, 0, "entries");
	check_can_count("rl_report_batch()");
	entries = PG_GETARG_JSONB_P(0);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!JB_ROOT_IS_ARRAY(entries) || JB_ROOT_IS_SCALAR(entries))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("entries must be a JSON array, not a%s",
						JB_ROOT_IS_OBJECT(entries) ? "n object" : " scalar")));

	reports = palloc(JB_ROOT_COUNT(entries) * sizeof(Report));
	iterator = JsonbIteratorInit(&entries->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (parse_entry(&value, &reports[accepted].id, &reports[accepted].rejected))
			accepted++;
		else
			skipped++;
	}
	/* all of them or none: from here on nothing interrupts */
	for (int64 i = 0; i < accepted; i++)
		flush_record(&reports[i].id, reports[i].rejected, 0);
	values[0] = Int64GetDatum(accepted);
	values[1] = Int64GetDatum(skipped);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
