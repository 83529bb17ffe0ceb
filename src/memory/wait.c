/*
 * memory/wait.c
 *		Waiting for what others hold for a moment.
 *
 * What is waited for here, a word, a layout, a partition's lock, is mostly held for
 * less than a microsecond, but its holder may have lost its processor, or have been
 * stopped by a signal, a debugger or the freezing of its container, for as long as
 * somebody likes.  So after a while the waiter sleeps, for longer and longer, and
 * heeds cancelling, timeouts and the server's end.  It never gives up by itself: that
 * is a matter for whoever can say what is then left undone, see give_way_for().
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
 * Let whoever holds something go on; round: how often the caller has been here since
 * it began to wait.  Heeds interrupts, and so may not return.
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
 * The same for callers that must neither be cancelled nor wait for ever, such as the
 * end of a transaction.  False once so many nanoseconds of patience are used up.
 */
bool
give_way_for(int round, int64 *patience)
{
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
