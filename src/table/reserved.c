/*
 * table/reserved.c
 *		Reservations that are not in shared memory, as rows of rate_limit_reserved.
 *
 * A row says of which buckets the tokens are.  Rows are ordinary ones, which a
 * rollback takes away.  Whether the reservation is still outstanding is not said
 * here: that must not depend on transactions, and a bucket says it
 * (decide/reserve.c).  So rows of reservations that are settled stay until they
 * expire, and nobody who settles has to write here.  Those who insert rows delete
 * some that have expired.
 */
#include "postgres.h"

#include <math.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "core/clock.h"
#include "miscadmin.h"
#include "table/reserved.h"
#include "table/sql.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* A session deletes expired rows each time it has inserted so many. */
#define CLEAN_EVERY		16

static SqlStatement insert_row = {
	"INSERT INTO %1$s.rate_limit_reserved (reservation, expires_at, tokens, role, key, limiters, capacities, refills)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
	8, {INT8OID, TIMESTAMPTZOID, FLOAT8OID, OIDOID, TEXTOID, TEXTARRAYOID, FLOAT8ARRAYOID, FLOAT8ARRAYOID}
};

/* Rows that another session is deleting are left to it. */
static SqlStatement delete_expired = {
	"DELETE FROM %1$s.rate_limit_reserved r WHERE r.reservation OPERATOR(pg_catalog.=) ANY (ARRAY("
	"SELECT e.reservation FROM %1$s.rate_limit_reserved e WHERE e.expires_at OPERATOR(pg_catalog.<) $1"
	" ORDER BY e.expires_at LIMIT 64 FOR UPDATE SKIP LOCKED))",
	1, {TIMESTAMPTZOID}
};

#define COLUMNS	"r.reservation, r.expires_at, r.tokens, r.role, r.key, r.limiters, r.capacities, r.refills"

static SqlStatement find_row = {
	"SELECT " COLUMNS " FROM %1$s.rate_limit_reserved r WHERE r.reservation OPERATOR(pg_catalog.=) $1",
	1, {INT8OID}
};
static SqlStatement all_rows = {
	"SELECT " COLUMNS " FROM %1$s.rate_limit_reserved r WHERE r.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
	0, {0}
};

/* Can a row be inserted in this transaction? */
bool
reserved_can_write(void)
{
	return !RecoveryInProgress() && !XactReadOnly && !IsInParallelMode();
}

/* An array of so many values. */
static Datum
array_of(Datum *values, int n, Oid type)
{
	bool		by_value = type == FLOAT8OID;

	return PointerGetDatum(construct_array(values, n, type, by_value ? sizeof(float8) : -1,
										   by_value ? FLOAT8PASSBYVAL : false,
										   by_value ? TYPALIGN_DOUBLE : TYPALIGN_INT));
}

/*
 * Insert the row of a reservation.  The transaction must be able to write:
 * reserved_can_write().
 */
void
reserved_insert(const Reservation *reservation, TimestampTz expires_at)
{
	static uint32 inserted = 0;
	SqlCaller	caller;
	int			nest;
	Datum		limiters[MAX_RESERVED];
	Datum		capacities[MAX_RESERVED];
	Datum		refills[MAX_RESERVED];
	Datum		values[8];

	sql_require(SQL_RESERVED);
	caller = sql_begin();
	nest = sql_restrict_names(caller.user);
	for (int i = 0; i < reservation->n; i++)
	{
		BucketId	id;

		reservation_bucket(reservation, i, &id);
		limiters[i] = PointerGetDatum(cstring_to_text_with_len(id.limiter, id.limiter_len));
		capacities[i] = Float8GetDatum(reservation->rules[i].capacity);
		refills[i] = Float8GetDatum(reservation->rules[i].refill);
	}
	values[0] = Int64GetDatum(reservation->number);
	values[1] = TimestampTzGetDatum(expires_at);
	values[2] = Float8GetDatum(reservation->tokens);
	values[3] = ObjectIdGetDatum(reservation->role);
	values[4] = PointerGetDatum(cstring_to_text_with_len(reservation->names,
														 reservation->key_len));
	values[5] = array_of(limiters, reservation->n, TEXTOID);
	values[6] = array_of(capacities, reservation->n, FLOAT8OID);
	values[7] = array_of(refills, reservation->n, FLOAT8OID);

	sql_lock(SQL_RESERVED, RowExclusiveLock);
	sql_execute(&insert_row, values, NULL, false);

	/*
	 * By a snapshot of the whole transaction, deleting a row that somebody else has
	 * deleted meanwhile would fail.
	 */
	if (++inserted % CLEAN_EVERY == 0 && !IsolationUsesXactSnapshot())
	{
		values[0] = TimestampTzGetDatum(GetCurrentTimestamp());
		sql_execute(&delete_expired, values, NULL, false);
	}
	AtEOXact_GUC(true, nest);
	sql_end(caller);
}

/* Copy a text to the end of the names; false if it is not a name. */
static bool
add_name(Reservation *reservation, Size *len, Datum name, int max, uint8 *name_len)
{
	text	   *copy = DatumGetTextPP(name);
	int			n = VARSIZE_ANY_EXHDR(copy);

	if (n == 0 || n > max)
		return false;
	memcpy(reservation->names + *len, VARDATA_ANY(copy), n);
	*len += n;
	*name_len = n;
	return true;
}

/* The values of an array, or NULL if it has another number of them. */
static Datum *
values_of(Datum array, Oid type, int n)
{
	bool		by_value = type == FLOAT8OID;
	Datum	   *values;
	bool	   *nulls;
	int			n_values;

	deconstruct_array(DatumGetArrayTypeP(array), type, by_value ? sizeof(float8) : -1,
					  by_value ? FLOAT8PASSBYVAL : false,
					  by_value ? TYPALIGN_DOUBLE : TYPALIGN_INT,
					  &values, &nulls, &n_values);
	if (n_values != n)
		return NULL;
	for (int i = 0; i < n; i++)
		if (nulls[i])
			return NULL;
	return values;
}

/*
 * Read a row, in which a person may have written anything.  Returns false if it makes
 * no sense.
 */
static bool
read_row(HeapTuple row, TupleDesc desc, Reservation *reservation, TimestampTz *expires_at)
{
	Datum		values[8];
	Datum	   *limiters;
	Datum	   *capacities;
	Datum	   *refills;
	Size		len = 0;

	memset(reservation, 0, sizeof(*reservation));
	for (int i = 0; i < lengthof(values); i++)
	{
		bool		isnull;

		values[i] = SPI_getbinval(row, desc, i + 1, &isnull);
		if (isnull)
			return false;
	}
	reservation->number = DatumGetInt64(values[0]);
	*expires_at = DatumGetTimestampTz(values[1]);
	reservation->tokens = DatumGetFloat8(values[2]);
	if (TIMESTAMP_NOT_FINITE(*expires_at))
		return false;
	reservation->role = DatumGetObjectId(values[3]);
	reservation->database = MyDatabaseId;
	reservation->n = Min(ArrayGetNItems(ARR_NDIM(DatumGetArrayTypeP(values[5])),
										ARR_DIMS(DatumGetArrayTypeP(values[5]))),
						 MAX_RESERVED);
	limiters = values_of(values[5], TEXTOID, reservation->n);
	capacities = values_of(values[6], FLOAT8OID, reservation->n);
	refills = values_of(values[7], FLOAT8OID, reservation->n);
	if (!isfinite(reservation->tokens) || reservation->tokens < 0 ||
		reservation->n == 0 || !limiters || !capacities || !refills ||
		!add_name(reservation, &len, values[4], MAX_KEY_LEN, &reservation->key_len))
		return false;
	for (int i = 0; i < reservation->n; i++)
	{
		const char *limiter;

		reservation->rules[i].capacity = DatumGetFloat8(capacities[i]);
		reservation->rules[i].refill = DatumGetFloat8(refills[i]);
		if (!add_name(reservation, &len, limiters[i], MAX_BUCKET_LIMITER_LEN,
					  &reservation->limiter_lens[i]))
			return false;
		limiter = reservation->names + len - reservation->limiter_lens[i];
		if (!reserved_rule_valid(&reservation->rules[i], limiter,
								 reservation->limiter_lens[i]) ||
			!names_valid(limiter, reservation->limiter_lens[i],
						 reservation->names, reservation->key_len))
			return false;
	}
	return true;
}

/*
 * Find the row of a reservation, as of now; false if there is none.  Its expires_at
 * is put as it is for reservations in memory.
 */
bool
reserved_find(int64 number, Reservation *reservation)
{
	SqlCaller	caller;
	Datum		values[1] = {Int64GetDatum(number)};
	TimestampTz expires_at = 0;
	bool		found;

	sql_require(SQL_RESERVED);
	caller = sql_begin();
	sql_lock(SQL_RESERVED, AccessShareLock);
	sql_push_latest_snapshot();
	sql_execute(&find_row, values, NULL, true);
	PopActiveSnapshot();
	found = SPI_processed == 1 &&
		read_row(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, reservation, &expires_at);
	sql_end(caller);
	if (found)
		reservation->expires_at = monotonic_ns() +
			(expires_at - GetCurrentTimestamp()) * 1000;
	return found;
}

/*
 * Call show() for each reservation in the table that has not expired.  It is called
 * with the rights of the extension's owner.
 */
void
reserved_show(ShowReserved show, void *arg)
{
	SqlCaller	caller;
	SPITupleTable *rows;
	uint64		n;

	sql_require(SQL_RESERVED);
	caller = sql_begin();
	sql_lock(SQL_RESERVED, AccessShareLock);
	sql_push_latest_snapshot();
	sql_execute(&all_rows, NULL, NULL, true);
	PopActiveSnapshot();
	rows = SPI_tuptable;
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
	{
		Reservation reservation;
		TimestampTz expires_at;

		CHECK_FOR_INTERRUPTS();
		if (read_row(rows->vals[i], rows->tupdesc, &reservation, &expires_at))
			show(&reservation, expires_at, arg);
	}
	sql_end(caller);
}
