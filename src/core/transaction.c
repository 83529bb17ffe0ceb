/*
 * core/transaction.c
 *		Registering functions that are called at the ends of transactions.
 */
#include "postgres.h"

#include "core/transaction.h"

/*
 * Have these functions called at the ends of transactions and subtransactions from
 * now on, unless *called says that they already are.  Each call takes time in every
 * transaction, so a part asks for this only when it first has something to do there.
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
