/*
 * violations/flags.h
 *		Writing flags: see violations/flags.c.
 */
#ifndef RATELIMIT_FLAGS_H
#define RATELIMIT_FLAGS_H

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

extern void flags_write_due(void);

#pragma GCC visibility pop

#endif							/* RATELIMIT_FLAGS_H */
