/*
 * decide/refunds.h
 *		Tokens that are given back on rollback: see decide/refunds.c.
 */
#ifndef RATELIMIT_DECIDE_REFUNDS_H
#define RATELIMIT_DECIDE_REFUNDS_H

#include "core/compat.h"
#include "core/names.h"

extern hidden_data bool refund_pending;		/* does refund_settle() have anything to do? */

extern void refund_reserve(int n);
extern void refund_note(const BucketId *id, double tokens);
extern void refund_settle(void);

/*
 * Called before tokens are given back because a subtransaction, and those inside it,
 * have been aborted; NULL until decide/reserve.c has something to do there.
 */
extern void (*refund_before_undo) (SubTransactionId aborted);
extern void refund_give(const BucketId *id, double tokens);

#endif							/* RATELIMIT_DECIDE_REFUNDS_H */
