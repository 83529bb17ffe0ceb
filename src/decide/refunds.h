/*
 * decide/refunds.h
 *		Tokens that come back on rollback: see decide/refunds.c.
 */
#ifndef RATELIMIT_REFUND_H
#define RATELIMIT_REFUND_H

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

extern bool refund_pending;		/* refund_settle() has something to do */

extern void refund_reserve(int n);
extern void refund_note(const BucketId *id, double tokens);
extern void refund_settle(void);

#pragma GCC visibility pop

#endif							/* RATELIMIT_REFUND_H */
