/*
 * table/places.c
 *		Slots without shared memory: in the lock manager, and in rate_limit_tickets.
 *
 * The slots of a key are numbered places, and each place is a heavyweight lock.  It
 * is held as advisory locks are, by a transaction or by a session, so the server
 * frees it when these end, however they end, and subtransactions need no care.  A
 * call takes the places with the least numbers that are free, and never waits for a
 * place.
 *
 * An interval outlives its transaction, and has a row in rate_limit_tickets, which
 * says which places it holds until when.  Until the transaction ends it holds the
 * places' locks, too.  The row becomes visible before the locks are released.  So
 * whoever gets a place's lock, and then finds no row with a new snapshot, has the
 * place.  If the transaction is rolled back, there is no row, and the place is free.
 *
 * Two more locks of each key keep order.  The mutex is held while a call takes
 * places, so that no call fails because another one has taken places that it then
 * gives up.  The queue's lock is waited for, in the order in which calls come, and
 * its holder is the first of those that wait: it looks again and again whether there
 * are enough places.  A call that does not wait needs the queue's lock for sharing,
 * which it does not get if others wait.
 *
 * The locks' tag has 64 bits of SHA-256 of the names, because nobody can find a key
 * that shares them with a given other one; a hash with a secret would have to be in
 * shared memory.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/settings.h"
#include "core/transaction.h"
#include "executor/spi.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "table/places.h"
#include "table/sql.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#define MAX_PLACES		1000	/* of a key */
#define PLACE_MUTEX		65534
#define PLACE_QUEUE		65535

/* How long the first waiter sleeps between looks, in milliseconds. */
#define FIRST_NAP_MS	1
#define LONGEST_NAP_MS	50

/* A ticket whose places this backend has locked. */
typedef struct Held
{
	dlist_node	node;
	int64		ticket;
	HoldKind	hold;
	int			level;			/* nest level of the transaction that holds it */
	Oid			role;
	int32		slots;
	int64		since;			/* monotonic clock */
	LOCKTAG		tag;			/* except the place */
	int			limiter_len;
	int			key_len;
	char		names[MAX_LIMITER_LEN + MAX_KEY_LEN];
	int			n;
	uint16		places[FLEXIBLE_ARRAY_MEMBER];
} Held;

static dlist_head helds = DLIST_STATIC_INIT(helds);

/* What is held, of which this is the node. */
static Held *
held_of(dlist_node *node)
{
	/* cppcheck-suppress nullPointer ; the macro names a member for its type only */
	return dlist_container(Held, node, node);
}

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

/*
 * Locks
 */

/* The tag of the key's locks. */
static void
make_tag(LOCKTAG *tag, const BucketId *id)
{
	uint8		digest[PG_SHA256_DIGEST_LENGTH] = {0};
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);
	uint8		len = id->limiter_len;

	if (!ctx || pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, &len, 1) < 0 ||
		pg_cryptohash_update(ctx, (const uint8 *) id->limiter, id->limiter_len) < 0 ||
		pg_cryptohash_update(ctx, (const uint8 *) id->key, id->key_len) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
	{
		pg_cryptohash_free(ctx);
		elog(ERROR, "could not compute a hash");
	}
	pg_cryptohash_free(ctx);
	memset(tag, 0, sizeof(*tag));
	tag->locktag_field1 = id->database;
	memcpy(&tag->locktag_field2, digest, sizeof(uint32));
	memcpy(&tag->locktag_field3, digest + sizeof(uint32), sizeof(uint32));
	tag->locktag_type = LOCKTAG_USERLOCK;
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

/*
 * Lock a place, the mutex or the queue, for the current subtransaction.  It is not
 * the portal that gets the lock, as usual, because locks of a portal cannot be
 * released when the portal is gone.
 */
static LockAcquireResult
lock(LOCKTAG *tag, uint16 place, LOCKMODE mode, bool wait)
{
	ResourceOwner owner = CurrentResourceOwner;
	LockAcquireResult result;

	tag->locktag_field4 = place;
	/* an error leaves it so; whatever undoes the error sets it again */
	CurrentResourceOwner = CurTransactionResourceOwner;
	result = LockAcquire(tag, mode, false, !wait);
	CurrentResourceOwner = owner;
	return result;
}

/* Release a lock that the transaction at this nest level holds. */
static void
unlock(LOCKTAG *tag, uint16 place, LOCKMODE mode, int level)
{
	ResourceOwner owner = CurrentResourceOwner;

	tag->locktag_field4 = place;
	CurrentResourceOwner = CurTransactionResourceOwner;
	for (int i = GetCurrentTransactionNestLevel(); i > level; i--)
		CurrentResourceOwner = ResourceOwnerGetParent(CurrentResourceOwner);
	(void) LockRelease(tag, mode, false);
	CurrentResourceOwner = owner;
}

static void
unlock_here(LOCKTAG *tag, uint16 place, LOCKMODE mode)
{
	unlock(tag, place, mode, GetCurrentTransactionNestLevel());
}

/* Lock the place if nobody has it, this backend included. */
static bool
lock_place(LOCKTAG *tag, uint16 place)
{
	switch (lock(tag, place, ExclusiveLock, false))
	{
		case LOCKACQUIRE_NOT_AVAIL:
			return false;
		case LOCKACQUIRE_OK:
			return true;
		default:
			unlock_here(tag, place, ExclusiveLock);
			return false;
	}
}

/*
 * What this backend holds
 */

static void
forget(Held *held)
{
	dlist_delete(&held->node);
	pfree(held);
}

/* The lock manager has freed the places, or given them to the parent. */
static void
at_subxact_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
			   void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	dlist_mutable_iter i;

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	dlist_foreach_modify(i, &helds)
	{
		Held	   *held = held_of(i.cur);

		if (held->level < level)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			held->level = level - 1;
		else
			forget(held);
	}
}

static void
at_xact_end(XactEvent event, void *arg)
{
	dlist_mutable_iter i;

	if (event != XACT_EVENT_PRE_PREPARE && event != XACT_EVENT_PREPARE &&
		event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	dlist_foreach_modify(i, &helds)
	{
		Held	   *held = held_of(i.cur);

		if (event == XACT_EVENT_PRE_PREPARE && held->hold == HOLD_TRANSACTION)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("cannot PREPARE a transaction that holds slots"),
					 errhint("Release them first, or acquire them for the session or for an interval.")));
		if (event != XACT_EVENT_PRE_PREPARE && held->level > 0)
			forget(held);
	}
}

/* A record for the ticket that the call may get; the caller forgets it otherwise. */
static Held *
make_held(const AcquireCall *call)
{
	const BucketId *id = call->id;
	Held	   *held = MemoryContextAllocZero(TopMemoryContext,
											  offsetof(Held, places) +
											  call->weight * sizeof(uint16));

	held->hold = call->hold;
	held->level = GetCurrentTransactionNestLevel();
	held->role = GetOuterUserId();
	held->slots = call->slots;
	held->since = monotonic_ns();
	held->limiter_len = id->limiter_len;
	held->key_len = id->key_len;
	memcpy(held->names, id->limiter, id->limiter_len);
	memcpy(held->names + id->limiter_len, id->key, id->key_len);
	held->ticket = (int64) (secret_seed() >> 1);
	if (held->ticket == 0)
		held->ticket = 1;
	/* if an error comes, the end of the transaction forgets it */
	dlist_push_head(&helds, &held->node);
	return held;
}

/*
 * Rows
 */

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
		statements.nest = sql_restrict_names();
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
static void
find_in_rows(const BucketId *id, bool *taken)
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

/* Write the row of an interval whose places are locked. */
static void
write_row(const AcquireCall *call, const Held *held)
{
	Datum		places[MAX_PLACES];
	Datum		values[7];
	Statements	statements;

	for (int i = 0; i < held->n; i++)
		places[i] = Int32GetDatum(held->places[i]);
	values[0] = Int64GetDatum(held->ticket);
	values[1] = text_of(call->id->limiter, call->id->limiter_len);
	values[2] = text_of(call->id->key, call->id->key_len);
	values[3] = PointerGetDatum(construct_array(places, held->n, INT4OID,
												sizeof(int32), true, TYPALIGN_INT));
	values[4] = Int32GetDatum(call->slots);
	values[5] = ObjectIdGetDatum(held->role);
	values[6] = TimestampTzGetDatum(time_after(call->length));
	statements = begin(RowExclusiveLock);
	sql_execute(&delete_expired, NULL, NULL, false);
	sql_execute(&insert_ticket, values, NULL, false);
	end(statements);
}

/*
 * Acquiring
 */

/*
 * Lock as many places as the call needs, and has not locked yet, as far as there are
 * any that are not taken.  Returns whether it has enough.
 */
static bool
lock_places(const AcquireCall *call, bool *taken, Held *held)
{
	for (int place = 0; place < call->slots && held->n < call->weight; place++)
	{
		if (taken[place])
			continue;
		taken[place] = true;
		if (lock_place(&held->tag, place))
			held->places[held->n++] = place;
	}
	return held->n == call->weight;
}

/* Unlock the places that a row holds. */
static void
unlock_taken(const bool *in_rows, Held *held)
{
	int			kept = 0;

	for (int i = 0; i < held->n; i++)
	{
		if (in_rows[held->places[i]])
			unlock_here(&held->tag, held->places[i], ExclusiveLock);
		else
			held->places[kept++] = held->places[i];
	}
	held->n = kept;
}

/* Let the session hold what the transaction has locked. */
static void
keep_for_session(Held *held)
{
	for (int i = 0; i < held->n; i++)
	{
		held->tag.locktag_field4 = held->places[i];
		(void) LockAcquire(&held->tag, ExclusiveLock, true, true);
		unlock_here(&held->tag, held->places[i], ExclusiveLock);
	}
	held->level = 0;
}

/*
 * Take the places that the call needs, if there are enough.  Returns whether there
 * were.
 */
static bool
take_places(const AcquireCall *call, LOCKTAG *tag, int64 *ticket)
{
	bool		tried[MAX_PLACES] = {false};
	Held	   *held = make_held(call);
	bool		enough;
	int			before;

	held->tag = *tag;
	(void) lock(tag, PLACE_MUTEX, ExclusiveLock, true);
	do
	{
		bool		in_rows[MAX_PLACES] = {false};

		CHECK_FOR_INTERRUPTS();
		enough = lock_places(call, tried, held);
		before = held->n;
		if (enough)
		{
			find_in_rows(call->id, in_rows);
			unlock_taken(in_rows, held);
		}
	} while (enough && held->n < before);

	if (enough)
	{
		*ticket = held->ticket;
		if (call->hold == HOLD_INTERVAL)
			write_row(call, held);
		else if (call->hold == HOLD_SESSION)
			keep_for_session(held);
	}
	else
	{
		for (int i = 0; i < held->n; i++)
			unlock_here(&held->tag, held->places[i], ExclusiveLock);
		forget(held);
	}
	unlock_here(tag, PLACE_MUTEX, ExclusiveLock);
	return enough;
}

/* Take places unless others wait for some. */
static bool
take_unless_others_wait(const AcquireCall *call, LOCKTAG *tag, int64 *ticket)
{
	bool		taken;

	if (lock(tag, PLACE_QUEUE, ShareLock, false) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	taken = take_places(call, tag, ticket);
	unlock_here(tag, PLACE_QUEUE, ShareLock);
	return taken;
}

/* Wait for the queue's lock; for sql_try(). */
static void
lock_queue(void *arg)
{
	(void) lock(arg, PLACE_QUEUE, ExclusiveLock, true);
}

/* Become the first of those that wait, within so many milliseconds. */
static bool
queue_for(LOCKTAG *tag, int64 ms)
{
	int			mine = (int) Min(Max(ms, 1), INT_MAX);
	bool		shorter = LockTimeout == 0 || mine < LockTimeout;
	int			nest = NewGUCNestLevel();
	char		number[16];
	ErrorData  *error;

	snprintf(number, sizeof(number), "%d", mine);
	if (shorter)
		(void) set_config_option("lock_timeout", number, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	error = sql_try(lock_queue, tag);
	AtEOXact_GUC(true, nest);
	if (!error)
		return true;
	if (!shorter || error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	FreeErrorData(error);
	return false;
}

/* Wait until there are enough places, in the order in which calls come. */
static bool
wait_for_places(const AcquireCall *call, LOCKTAG *tag, int64 *ticket)
{
	static uint32 event = 0;
	int64		deadline = monotonic_ns() + call->timeout;
	int			nap = FIRST_NAP_MS;
	bool		taken;

	if (event == 0)
		event = new_wait_event("RateLimitSlots");
	if (!queue_for(tag, call->timeout / 1000000))
		return false;
	for (;;)
	{
		int64		left;

		taken = take_places(call, tag, ticket);
		left = deadline - monotonic_ns();
		if (taken || left <= 0)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 (long) Min(nap, left / 1000000 + 1), event);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		nap = Min(2 * nap, LONGEST_NAP_MS);
	}
	unlock_here(tag, PLACE_QUEUE, ExclusiveLock);
	return taken;
}

/* Acquire slots, waiting if the call says so. */
AcquireResult
places_acquire(const AcquireCall *call, int64 *ticket)
{
	static bool called = false;
	LOCKTAG		tag;

	if (call->slots > MAX_PLACES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("slots must not be above %d without shared memory, not %d",
						MAX_PLACES, call->slots),
				 hint_shared_memory("slots")));
	if (call->hold == HOLD_INTERVAL && RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("cannot hold slots of key \"%.*s\", limiter \"%.*s\" for an interval during recovery",
						call->id->key_len, call->id->key,
						call->id->limiter_len, call->id->limiter),
				 errdetail("Without shared memory, intervals are in a table, which cannot be written here."),
				 hint_shared_memory("slots")));
	if (call->weight > call->slots)
		return ACQUIRE_FULL;
	call_at_ends(&called, at_xact_end, at_subxact_end);
	make_tag(&tag, call->id);
	if (take_unless_others_wait(call, &tag, ticket) ||
		(call->timeout > 0 && wait_for_places(call, &tag, ticket)))
		return ACQUIRED;
	return ACQUIRE_FULL;
}

/*
 * Releasing and renewing
 */

static Held *
find_held(int64 ticket)
{
	dlist_iter	i;

	dlist_foreach(i, &helds)
	{
		Held	   *held = held_of(i.cur);

		if (held->ticket == ticket)
			return held;
	}
	return NULL;
}

/* Free the places that this backend has locked.  Returns whether it still had. */
static bool
unlock_held(Held *held)
{
	bool		locked = true;

	for (int i = 0; i < held->n; i++)
	{
		held->tag.locktag_field4 = held->places[i];
		/* DISCARD ALL and pg_advisory_unlock_all() free what the session holds */
		if (!lock_held_by_me(&held->tag, ExclusiveLock))
			locked = false;
		else if (held->level == 0)
			(void) LockRelease(&held->tag, ExclusiveLock, true);
		else
			unlock(&held->tag, held->places[i], ExclusiveLock, held->level);
	}
	forget(held);
	return locked;
}

/*
 * Look for an interval's row.  Returns false if there is none, or it belongs to a
 * role that this session does not act for.  *tag and *places are what it holds.
 */
static bool
find_row(int64 ticket, bool (*acts_for) (Oid role), LOCKTAG *tag, uint16 *places, int *n)
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
			make_tag(tag, &id);
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

/*
 * Release a ticket of this backend, or of an interval of a role that it acts for.
 *
 * An interval's row is deleted, so others see that when this transaction commits.
 * If this transaction has written the row, it keeps the places' locks until then: if
 * the deletion is rolled back to a savepoint, nothing else says that they are held.
 */
bool
places_release(int64 ticket, bool (*acts_for) (Oid role))
{
	Held	   *held = find_held(ticket);
	uint16		places[MAX_PLACES];
	LOCKTAG		tag;
	int			n;

	if (held && held->hold != HOLD_INTERVAL)
		return unlock_held(held);
	return find_row(ticket, acts_for, &tag, places, &n) &&
		change_row(&delete_ticket, ticket, 0);
}

/*
 * Renew an interval.  Until this transaction ends, others see its row as it was.  So
 * this locks its places until then, unless this transaction has them locked anyway.
 * If another one has a place, the row's time was over.
 */
TicketResult
places_renew(int64 ticket, int64 length, bool (*acts_for) (Oid role))
{
	Held	   *held = find_held(ticket);
	uint16		places[MAX_PLACES];
	LOCKTAG		tag;
	int			n;
	bool		locked = true;

	if (held && held->hold != HOLD_INTERVAL)
		return TICKET_NO_INTERVAL;
	if (!find_row(ticket, acts_for, &tag, places, &n))
		return TICKET_UNKNOWN;
	(void) lock(&tag, PLACE_MUTEX, ExclusiveLock, true);
	for (int i = 0; i < n && locked; i++)
		locked = lock(&tag, places[i], ExclusiveLock, false) != LOCKACQUIRE_NOT_AVAIL;
	if (locked)
		locked = change_row(&renew_ticket, ticket, time_after(length));
	unlock_here(&tag, PLACE_MUTEX, ExclusiveLock);
	return locked ? TICKET_DONE : TICKET_UNKNOWN;
}

/*
 * Showing
 */

static void
show_held(const Held *held, SlotsView *view)
{
	view->limiter_len = held->limiter_len;
	view->key_len = held->key_len;
	memcpy(view->limiter, held->names, held->limiter_len);
	memcpy(view->key, held->names + held->limiter_len, held->key_len);
	view->ticket = held->ticket;
	view->weight = held->n;
	view->hold = held->hold;
	view->pid = MyProcPid;
	view->role = held->role;
	view->since = held->since;
	view->slots = held->slots;
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
 * Show the intervals, and what this session holds.  What other sessions hold is in
 * the lock manager, which does not know keys; see pg_locks.
 */
void
places_views(void (*show) (const SlotsView *view, void *arg), void *arg)
{
	SlotsView	view = {.held = -1};
	dlist_iter	i;

	dlist_foreach(i, &helds)
	{
		const Held *held = held_of(i.cur);

		if (held->hold == HOLD_INTERVAL)
			continue;
		show_held(held, &view);
		show(&view, arg);
	}
	if (!RecoveryInProgress() && sql_available())
	{
		TimestampTz now = GetCurrentTimestamp();
		int64		mono = monotonic_ns();
		Statements	statements = begin(AccessShareLock);
		SlotsView  *views;
		uint64		n = 0;

		sql_execute(&read_all, NULL, NULL, true);
		views = MemoryContextAllocHuge(CurrentMemoryContext, (SPI_processed + 1) * sizeof(SlotsView));
		for (uint64 row = 0; row < SPI_processed; row++)
		{
			views[n] = view;
			if (show_row(row, now, mono, &views[n]))
				n++;
		}
		for (uint64 row = 0; row < n; row++)
			show(&views[row], arg);
		end(statements);
	}
}
