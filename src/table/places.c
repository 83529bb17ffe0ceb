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
 * The locks are in table/place_locks.c, the rows in table/ticket_rows.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/role.h"
#include "core/settings.h"
#include "core/transaction.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "table/place_locks.h"
#include "table/places.h"
#include "table/sql.h"
#include "table/ticket_rows.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

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
	held->role = calling_role();
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
		if (place_lock_new(&held->tag, place))
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
			place_unlock_here(&held->tag, held->places[i], ExclusiveLock);
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
		place_unlock_here(&held->tag, held->places[i], ExclusiveLock);
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
	(void) place_lock(tag, PLACE_MUTEX, ExclusiveLock, true);
	do
	{
		bool		in_rows[MAX_PLACES] = {false};

		CHECK_FOR_INTERRUPTS();
		enough = lock_places(call, tried, held);
		before = held->n;
		if (enough)
		{
			ticket_rows_find_places(call->id, in_rows);
			unlock_taken(in_rows, held);
		}
	} while (enough && held->n < before);

	if (enough)
	{
		*ticket = held->ticket;
		if (call->hold == HOLD_INTERVAL)
			ticket_row_write(call, held->ticket, held->role, held->places, held->n);
		else if (call->hold == HOLD_SESSION)
			keep_for_session(held);
	}
	else
	{
		for (int i = 0; i < held->n; i++)
			place_unlock_here(&held->tag, held->places[i], ExclusiveLock);
		forget(held);
	}
	place_unlock_here(tag, PLACE_MUTEX, ExclusiveLock);
	return enough;
}

/* Take places unless others wait for some. */
static bool
take_unless_others_wait(const AcquireCall *call, LOCKTAG *tag, int64 *ticket)
{
	bool		taken;

	if (place_lock(tag, PLACE_QUEUE, ShareLock, false) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	taken = take_places(call, tag, ticket);
	place_unlock_here(tag, PLACE_QUEUE, ShareLock);
	return taken;
}

/* Wait for the queue's lock; for sql_try(). */
static void
lock_queue(void *arg)
{
	(void) place_lock(arg, PLACE_QUEUE, ExclusiveLock, true);
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
	place_unlock_here(tag, PLACE_QUEUE, ExclusiveLock);
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
	place_tag(&tag, call->id);
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
			place_unlock(&held->tag, held->places[i], ExclusiveLock, held->level);
	}
	forget(held);
	return locked;
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
	return ticket_row_find(ticket, acts_for, &tag, places, &n) &&
		ticket_row_delete(ticket);
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
	if (!ticket_row_find(ticket, acts_for, &tag, places, &n))
		return TICKET_UNKNOWN;
	(void) place_lock(&tag, PLACE_MUTEX, ExclusiveLock, true);
	for (int i = 0; i < n && locked; i++)
		locked = place_lock(&tag, places[i], ExclusiveLock, false) != LOCKACQUIRE_NOT_AVAIL;
	if (locked)
		locked = ticket_row_renew(ticket, length);
	place_unlock_here(&tag, PLACE_MUTEX, ExclusiveLock);
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
	ticket_rows_show(&view, show, arg);
}
