/*
 * workers/launcher.h
 *		The process that starts the workers of databases: see workers/launcher.c.
 */
#ifndef RATELIMIT_WORKERS_LAUNCHER_H
#define RATELIMIT_WORKERS_LAUNCHER_H

extern bool launcher_register(void);

#endif							/* RATELIMIT_WORKERS_LAUNCHER_H */
