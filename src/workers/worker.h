/*
 * workers/worker.h
 *		The launcher and the workers: see workers/worker.c.
 */
#ifndef RATELIMIT_WORKERS_WORKER_H
#define RATELIMIT_WORKERS_WORKER_H

extern void worker_register(void);

#endif							/* RATELIMIT_WORKERS_WORKER_H */
