/*
 * postgrest.h
 *		Limits on the requests of PostgREST: see postgrest.c.
 */
#ifndef RATELIMIT_POSTGREST_H
#define RATELIMIT_POSTGREST_H

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

extern void postgrest_init(void);

#pragma GCC visibility pop

#endif							/* RATELIMIT_POSTGREST_H */
