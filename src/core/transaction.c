/*
 * core/transaction.c
 *		Being called at the ends of transactions.
 */
#include "postgres.h"

#include "core/transaction.h"

/*
 * Have functions called at the ends of transactions and subtransactions, from here
 * on.  Each takes its time of every transaction, so a part asks for this only once it
 * has something to do there.
 */
void
call_at_ends(bool *called, XactCallback at_xact_end, SubXactCallback at_subxact_end)
{
	if (*called)
		return;
	RegisterXactCallback(at_xact_end, NULL);
	if (at_subxact_end)
		RegisterSubXactCallback(at_subxact_end, NULL);
	*called = true;
}
