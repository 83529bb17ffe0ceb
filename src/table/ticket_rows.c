/*
 * table/ticket_rows.c
 *		Intervals for which slots are held without shared memory, as rows of
 *		rate_limit_tickets: see table/places.c.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "core/clock.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "table/sql.h"
#include "table/ticket_rows.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

static SqlStatement read_places = {
	"SELECT t.places FROM %1$s.rate_limit_tickets t"
	" WHERE t.limiter OPERATOR(pg_catalog.=) $1 AND t.key OPERATOR(pg_catalog.=) $2"
	" AND t.until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
	2, {TEXTOID, TEXTOID}
};

static SqlStatement insert_ticket = {
	"INSERT INTO %1$s.rate_limit_tickets"
	" (ticket, limiter, key, places, slots, role, until, pid, since)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7,"
	"  pg_catalog.pg_backend_pid(), pg_catalog.clock_timestamp())",
	7, {INT8OID, TEXTOID, TEXTOID, INT4ARRAYOID, INT4OID, OIDOID, TIMESTAMPTZOID}
};

/* Some rows whose time is over, so that they do not become more and more. */
static SqlStatement delete_expired = {
	"DELETE FROM %1$s.rate_limit_tickets"
	" WHERE ticket OPERATOR(pg_catalog.=) ANY (ARRAY("
	"  SELECT t.ticket FROM %1$s.rate_limit_tickets t"
	"  WHERE t.until OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()"
	"  LIMIT 16 FOR UPDATE SKIP LOCKED))",
	0
};

static SqlStatement read_ticket = {
	"SELECT t.role, t.limiter, t.key, t.places FROM %1$s.rate_limit_tickets t"
	" WHERE t.ticket OPERATOR(pg_catalog.=) $1"
	" AND t.until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
	1, {INT8OID}
};

static SqlStatement delete_ticket = {
	"DELETE FROM %1$s.rate_limit_tickets"
	" WHERE ticket OPERATOR(pg_catalog.=) $1"
	" AND until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
	1, {INT8OID}
};

static SqlStatement renew_ticket = {
	"UPDATE %1$s.rate_limit_tickets SET until = $2"
	" WHERE ticket OPERATOR(pg_catalog.=) $1"
	" AND until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
	2, {INT8OID, TIMESTAMPTZOID}
};

static SqlStatement read_all = {
	"SELECT t.ticket, t.limiter, t.key, pg_catalog.cardinality(t.places), t.slots,"
	"  t.role, t.pid, t.since, t.until FROM %1$s.rate_limit_tickets t"
	" WHERE t.until OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
	0
};

/* Statements on the table. */
typedef struct Statements
{
	SqlCaller	caller;
	int			nest;			/* of sql_restrict_names(); 0: they only read */
} Statements;

/* Begin statements that see all that is committed now, and lock the table so. */
static Statements
begin(LOCKMODE mode)
{
	Statements	statements = {{0}};

	sql_require(SQL_TICKETS);
	statements.caller = sql_begin();
	if (mode != AccessShareLock)
		statements.nest = sql_restrict_names(statements.caller.user);
	sql_lock(SQL_TICKETS, mode);
	sql_push_latest_snapshot();
	return statements;
}

static void
end(Statements statements)
{
	PopActiveSnapshot();
	if (statements.nest > 0)
		AtEOXact_GUC(true, statements.nest);
	sql_end(statements.caller);
}

static Datum
text_of(const char *bytes, int len)
{
	return PointerGetDatum(cstring_to_text_with_len(bytes, len));
}

/* The n-th column of the current statement's i-th row. */
static Datum
column(uint64 i, int n)
{
	bool		isnull;

	return SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, n, &isnull);
}

/*
 * Can slots have these names?  Unlike a bucket's limiter, theirs never has a prefix
 * or a period.
 */
static bool
names_are_of_slots(const text *limiter, const text *key)
{
	int			len = VARSIZE_ANY_EXHDR(limiter);

	return names_valid(VARDATA_ANY(limiter), len,
					   VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key)) &&
		!memchr(VARDATA_ANY(limiter), BLOCK_PREFIX, len);
}

/*
 * The places in a row.  Rows are never trusted, so what cannot be a place is left
 * out.
 */
static int
read_array(Datum datum, uint16 *places)
{
	ArrayType  *array = DatumGetArrayTypeP(datum);
	const int32 *values = (const int32 *) ARR_DATA_PTR(array);
	int			n = 0;

	if (ARR_NDIM(array) != 1 || ARR_HASNULL(array))
		return 0;
	for (int i = 0; i < ARR_DIMS(array)[0] && n < MAX_PLACES; i++)
		if (values[i] >= 0 && values[i] < MAX_PLACES)
			places[n++] = values[i];
	return n;
}

/* Find out which places are held by intervals whose rows can be seen by now. */
void
ticket_rows_find_places(const BucketId *id, bool *taken)
{
	uint16		places[MAX_PLACES];
	Datum		values[2];
	Statements	statements;

	/* the table is unlogged: there are no rows, and there will be none */
	if (RecoveryInProgress())
		return;
	values[0] = text_of(id->limiter, id->limiter_len);
	values[1] = text_of(id->key, id->key_len);
	statements = begin(AccessShareLock);
	sql_execute(&read_places, values, NULL, true);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		int			n = read_array(column(i, 1), places);

		while (n > 0)
			taken[places[--n]] = true;
	}
	end(statements);
}

static TimestampTz
time_after(int64 length)
{
	return GetCurrentTimestamp() + (length + 999) / 1000;
}

/* Write the row of an interval whose n places are locked. */
void
ticket_row_write(const AcquireCall *call, int64 ticket, Oid role,
				 const uint16 *places, int n)
{
	Datum		numbers[MAX_PLACES];
	Datum		values[7];
	Statements	statements;

	for (int i = 0; i < n; i++)
		numbers[i] = Int32GetDatum(places[i]);
	values[0] = Int64GetDatum(ticket);
	values[1] = text_of(call->id->limiter, call->id->limiter_len);
	values[2] = text_of(call->id->key, call->id->key_len);
	values[3] = PointerGetDatum(construct_array(numbers, n, INT4OID,
												sizeof(int32), true, TYPALIGN_INT));
	values[4] = Int32GetDatum(call->slots);
	values[5] = ObjectIdGetDatum(role);
	values[6] = TimestampTzGetDatum(time_after(call->length));
	statements = begin(RowExclusiveLock);
	sql_execute(&delete_expired, NULL, NULL, false);
	sql_execute(&insert_ticket, values, NULL, false);
	end(statements);
}

/*
 * Look for an interval's row.  Returns false if there is none, or it belongs to a
 * role that this session does not act for.  *tag and *places are what it holds.
 */
bool
ticket_row_find(int64 ticket, bool (*acts_for) (Oid role), LOCKTAG *tag,
				uint16 *places, int *n)
{
	MemoryContext context = CurrentMemoryContext;
	Datum		value = Int64GetDatum(ticket);
	Oid			role = InvalidOid;
	bool		found;
	Statements	statements;

	if (RecoveryInProgress())
		return false;
	statements = begin(AccessShareLock);
	sql_execute(&read_ticket, &value, NULL, true);
	found = SPI_processed > 0;
	if (found)
	{
		text	   *limiter = DatumGetTextPP(column(0, 2));
		text	   *key = DatumGetTextPP(column(0, 3));
		BucketId	id;

		role = DatumGetObjectId(column(0, 1));
		*n = read_array(column(0, 4), places);
		found = names_are_of_slots(limiter, key);
		if (found)
		{
			make_bucket_id(&id, MyDatabaseId, VARDATA_ANY(limiter), VARSIZE_ANY_EXHDR(limiter),
						   VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
			place_tag(tag, &id);
		}
	}
	end(statements);
	MemoryContextSwitchTo(context);
	/* cppcheck-suppress knownConditionTrueFalse ; SPI changes SPI_processed */
	return found && acts_for(role);
}

/* Execute a statement on an interval's row.  Returns whether it was there. */
static bool
change_row(SqlStatement *statement, int64 ticket, TimestampTz until)
{
	Datum		values[2] = {Int64GetDatum(ticket), TimestampTzGetDatum(until)};
	Statements	statements = begin(RowExclusiveLock);
	bool		changed;

	sql_execute(statement, values, NULL, false);
	changed = SPI_processed > 0;
	end(statements);
	return changed;
}

/* Delete an interval's row.  Returns whether it was there. */
bool
ticket_row_delete(int64 ticket)
{
	return change_row(&delete_ticket, ticket, 0);
}

/* Let an interval last so many nanoseconds from now.  Returns whether it was there. */
bool
ticket_row_renew(int64 ticket, int64 length)
{
	return change_row(&renew_ticket, ticket, time_after(length));
}

/* Show a row; returns false if it makes no sense. */
static bool
show_row(uint64 i, TimestampTz now, int64 mono, SlotsView *view)
{
	text	   *limiter = DatumGetTextPP(column(i, 2));
	text	   *key = DatumGetTextPP(column(i, 3));

	view->limiter_len = VARSIZE_ANY_EXHDR(limiter);
	view->key_len = VARSIZE_ANY_EXHDR(key);
	if (!names_are_of_slots(limiter, key))
		return false;
	memcpy(view->limiter, VARDATA_ANY(limiter), view->limiter_len);
	memcpy(view->key, VARDATA_ANY(key), view->key_len);
	view->ticket = DatumGetInt64(column(i, 1));
	view->weight = DatumGetInt32(column(i, 4));
	view->hold = HOLD_INTERVAL;
	view->slots = DatumGetInt32(column(i, 5));
	view->role = DatumGetObjectId(column(i, 6));
	view->pid = DatumGetInt32(column(i, 7));
	view->since = mono - (now - DatumGetTimestampTz(column(i, 8))) * 1000;
	view->until = mono + (DatumGetTimestampTz(column(i, 9)) - now) * 1000;
	return true;
}

/*
 * Call show() for each interval; "blank" has what views have that a row does not say.
 */
void
ticket_rows_show(const SlotsView *blank,
				 void (*show) (const SlotsView *view, void *arg), void *arg)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		mono = monotonic_ns();
	Statements	statements;
	SlotsView  *views;
	uint64		n = 0;

	if (RecoveryInProgress() || !sql_available())
		return;
	statements = begin(AccessShareLock);
	sql_execute(&read_all, NULL, NULL, true);
	views = MemoryContextAllocHuge(CurrentMemoryContext,
								   (SPI_processed + 1) * sizeof(SlotsView));
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		views[n] = *blank;
		if (show_row(row, now, mono, &views[n]))
			n++;
	}
	for (uint64 row = 0; row < n; row++)
		show(&views[row], arg);
	end(statements);
}
