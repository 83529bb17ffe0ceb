/*
 * decide/refunds.h
 *		Tokens that come back on rollback: see decide/refunds.c.
 */
#ifndef RATELIMIT_REFUND_H
#define RATELIMIT_REFUND_H

#include "core/names.h"

extern bool refund_pending;		/* refund_settle() has something to do */

extern void refund_reserve(int n);
extern void refund_note(const BucketId *id, double tokens);
extern void refund_settle(void);

#endif							/* RATELIMIT_REFUND_H */
