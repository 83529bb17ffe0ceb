/*
 * flags.h
 *		Writing flags: see flags.c.
 */
#ifndef RATELIMIT_FLAGS_H
#define RATELIMIT_FLAGS_H

extern void flags_init(void);
extern void flags_write_due(void);

#endif							/* RATELIMIT_FLAGS_H */
