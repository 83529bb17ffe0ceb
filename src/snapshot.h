/*
 * snapshot.h
 *		State saved for the next start: see snapshot.c.
 */
#ifndef RATELIMIT_SNAPSHOT_H
#define RATELIMIT_SNAPSHOT_H

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

extern void snapshot_load(void);
extern void snapshot_at_exit(int code, Datum arg);

#pragma GCC visibility pop

#endif							/* RATELIMIT_SNAPSHOT_H */
