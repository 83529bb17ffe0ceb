/*
 * decide/acquire.c
 *		Decisions on slots: how many at a time.
 *
 * A call is denied if its key is blocked, or if it does not get its slots in time.
 * It is then counted as a violation, as any denied call is.  The slots are in shared
 * memory (memory/acquire.c) or, without it, in the lock manager and a table
 * (table/places.c).
 *
 * A call that a setting allows holds nothing.  Its ticket is 0, and releasing or
 * renewing that does nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "core/role.h"
#include "core/settings.h"
#include "decide/acquire.h"
#include "decide/blocks.h"
#include "decide/errors.h"
#include "memory/acquire.h"
#include "memory/block_filter.h"
#include "memory/tickets.h"
#include "miscadmin.h"
#include "table/places.h"
#include "table/sql.h"
#include "utils/acl.h"
#include "violations/flush.h"
#include "violations/stats.h"

/* A call, and what has become of it. */
typedef struct Attempt
{
	const AcquireCall *call;
	AcquireResult result;
	int64		ticket;
} Attempt;

/*
 * Acquire slots, unless the key is blocked.  This may use tables, and raise an
 * error.
 */
static void
attempt(void *arg)
{
	Attempt    *mine = arg;

	if (block_possible(mine->call->id) && block_left(mine->call->id) > 0)
		mine->result = ACQUIRE_FULL;
	else if (semaphores_attached())
		mine->result = semaphore_acquire(mine->call, &mine->ticket);
	else
		mine->result = places_acquire(mine->call, &mine->ticket);
}

/* The call cannot be decided: warn, and let ratelimit.on_error decide. */
static bool
allow_undecided(const BucketId *id, int sqlerrcode, const char *why)
{
	Decision	decision;

	decide_by_setting(&decision);
	warn_undecided(id, &decision, sqlerrcode, why);
	return decision.allowed;
}

/*
 * Acquire slots.  Returns whether the call is allowed.  *ticket is 0 if a setting
 * has allowed it.  A call that is allowed in any case does not wait.
 */
bool
acquire_slots(AcquireCall *call, int64 *ticket)
{
	Attempt		mine = {.call = call};
	ErrorData  *error = NULL;
	bool		shadow = shadow_setting || call->shadow;
	bool		allowed;

	*ticket = 0;
	if (!enabled_setting)
		return true;
	if (IsInParallelMode())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot acquire slots during a parallel operation")));
	if (shadow)
		call->timeout = 0;

	/* in memory nothing fails, except that there may be no room */
	if (errors_are_decided() && (!semaphores_attached() || block_possible(call->id)))
		error = sql_try(attempt, &mine);
	else
		attempt(&mine);

	if (error)
	{
		allowed = allow_undecided(call->id, error->sqlerrcode, error->message);
		FreeErrorData(error);
	}
	else if (mine.result == ACQUIRE_NO_ROOM)
	{
		if (!errors_are_decided())
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("cannot acquire slots of key \"%.*s\", limiter \"%.*s\": too many tickets are held",
							call->id->key_len, call->id->key,
							call->id->limiter_len, call->id->limiter),
					 errhint("Increase ratelimit.max_tickets.")));
		allowed = allow_undecided(call->id, ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
								  "Too many tickets are held.");
	}
	else
	{
		allowed = mine.result == ACQUIRED;
		*ticket = allowed ? mine.ticket : 0;
	}

	if (allowed)
	{
		stats_count(COUNT_ALLOWED);
		return true;
	}
	flush_record(call->id, 1, 0);
	stats_count(shadow ? COUNT_SHADOWED : COUNT_DENIED);
	return shadow;
}

/* May this session do to a ticket what the role that acquired it may? */
static bool
acts_for(Oid owner)
{
	return has_privs_of_role(GetUserId(), owner) ||
		has_privs_of_role(calling_role(), owner);
}

/*
 * Release a ticket.  Returns whether it was held, and may be released by this
 * session.
 */
bool
release_ticket(int64 ticket)
{
	Oid			owner = InvalidOid;
	TicketResult result;

	if (ticket == 0)
		return true;
	if (!semaphores_attached())
		return places_release(ticket, acts_for);
	result = semaphore_release(ticket, calling_role(), &owner);
	if (result == TICKET_FOREIGN && acts_for(owner))
		result = semaphore_release(ticket, owner, &owner);
	return result == TICKET_DONE;
}

/* Let a ticket be held for so many nanoseconds from now.  Returns the same. */
bool
renew_ticket(int64 ticket, int64 length)
{
	Oid			owner = InvalidOid;
	TicketResult result;

	if (ticket == 0)
		return true;
	if (semaphores_attached())
	{
		result = semaphore_renew(ticket, length, calling_role(), &owner);
		if (result == TICKET_FOREIGN && acts_for(owner))
			result = semaphore_renew(ticket, length, owner, &owner);
	}
	else
		result = places_renew(ticket, length, acts_for);
	if (result == TICKET_NO_INTERVAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("ticket " INT64_FORMAT " cannot be renewed", ticket),
				 errdetail("It is held until the end of its transaction or session.")));
	return result == TICKET_DONE;
}
