/*
 * memory/wait.c
 *		Waiting for what another process holds for a moment.
 *
 * A caller waits here for a word, a layout or a partition's lock.  Each is mostly
 * held for less than a microsecond, but its holder may have lost its processor, or
 * may have been stopped by a signal, a debugger or the freezing of its container, for
 * any length of time.  So after a while the waiter sleeps, for longer and longer, and
 * heeds cancelling, timeouts and the end of the server.  It does not give up by
 * itself, except in give_way_for(), whose callers know what is then left undone.
 */
#include "postgres.h"

#include "core/compat.h"
#include "memory/wait.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/pmsignal.h"
#include "storage/s_lock.h"
#include "utils/wait_event.h"

#define FIRST_NAP		100		/* microseconds */
#define LONGEST_NAP		10000

static int
nap_length(int round)
{
	return Min(FIRST_NAP << Min(round - SPINS, 7), LONGEST_NAP);
}

/*
 * Let the process that holds something go on.  "round" is how often the caller has
 * been here since it began to wait.  Interrupts are heeded, so this may not return.
 */
void
give_way(int round)
{
	static uint32 event = 0;

	if (round < SPINS)
	{
		SPIN_DELAY();
		return;
	}
	CHECK_FOR_INTERRUPTS();
	if (event == 0 && INTERRUPTS_CAN_BE_PROCESSED())
		event = new_wait_event("RateLimitBucket");
	pgstat_report_wait_start(event ? event : PG_WAIT_EXTENSION);
	pg_usleep(nap_length(round));
	pgstat_report_wait_end();
	if (IsUnderPostmaster && INTERRUPTS_CAN_BE_PROCESSED() && !PostmasterIsAlive())
		proc_exit(1);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Do the same for a caller that must neither be cancelled nor wait for ever, such as
 * the end of a transaction.  Return false once so many nanoseconds of patience are
 * used up.  If patience is NULL, wait as give_way() does.
 */
bool
give_way_for(int round, int64 *patience)
{
	if (!patience)
	{
		give_way(round);
		return true;
	}
	if (round < SPINS)
	{
		SPIN_DELAY();
		return true;
	}
	if (*patience <= 0)
		return false;
	pgstat_report_wait_start(PG_WAIT_EXTENSION);
	pg_usleep(nap_length(round));
	pgstat_report_wait_end();
	*patience -= nap_length(round) * INT64CONST(1000);
	return true;
}
