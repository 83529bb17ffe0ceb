/*
 * workers/saver.h
 *		The process that saves state now and then: see workers/saver.c.
 */
#ifndef RATELIMIT_WORKERS_SAVER_H
#define RATELIMIT_WORKERS_SAVER_H

extern bool saver_register(void);

#endif							/* RATELIMIT_WORKERS_SAVER_H */
