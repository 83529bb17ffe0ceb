/*
 * core/late.h
 *		Shared memory that is made while the server runs, without preloading: see
 *		core/late.c.
 */
#ifndef RATELIMIT_LATE_H
#define RATELIMIT_LATE_H

#include "core/compat.h"

/* The workers that the first session has started. */
/*
 * The saver comes first: the launcher has other workers started, which may take the last
 * background worker slot.
 */
typedef enum LateWorker
{
	LATE_SAVER,
	LATE_LAUNCHER,
	N_LATE_WORKERS
} LateWorker;

/* Registers a worker; returns false if no background worker slot is free. */
typedef bool (*LateRegister) (void);

/* Is a worker missing, for lack of a background worker slot? */
extern hidden_data bool late_workers_missing;

extern bool late_attach(const LateRegister *register_worker);
extern bool late_attached(void);
extern void late_start_workers(void);
extern bool late_worker_begins(LateWorker worker);
extern bool late_alone(void);

#endif							/* RATELIMIT_LATE_H */
