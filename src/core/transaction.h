/*
 * core/transaction.h
 *		Registering functions that are called at the ends of transactions, and caches
 *		that a rollback makes invalid: see core/transaction.c.
 */
#ifndef RATELIMIT_TRANSACTION_H
#define RATELIMIT_TRANSACTION_H

#include "access/xact.h"

extern void call_at_ends(bool *called, XactCallback at_xact_end,
						 SubXactCallback at_subxact_end);
extern void invalid_after_rollback(bool *valid);

#endif							/* RATELIMIT_TRANSACTION_H */
