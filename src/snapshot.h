/*
 * snapshot.h
 *		State saved for the next start: see snapshot.c.
 */
#ifndef RATELIMIT_SNAPSHOT_H
#define RATELIMIT_SNAPSHOT_H

extern void snapshot_load(void);
extern void snapshot_at_exit(int code, Datum arg);

#endif							/* RATELIMIT_SNAPSHOT_H */
