/*
 * region.c
 *		Loads the library: settings, shared memory.
 *
 * A key has a home, the server that has its bucket.  Other servers hold leases of it:
 * tokens that they have taken from that bucket before any call uses them.
 *
 * shared.c	what servers, homes and workers share
 * leases.c	the leases, in shared memory
 * homes.c	which home a key has
 * consume.c	the SQL functions that decide
 * home.c	what a home does for others, in SQL functions
 * worker.c	the worker of a database, which asks homes for portions
 * link.c	its connection to one home
 * reports.c	what the views show
 */
#include "postgres.h"

#include "fmgr.h"
#include "homes.h"
#include "leases.h"
#include "miscadmin.h"
#include "settings.h"
#include "shared.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

static shmem_request_hook_type next_request;
static shmem_startup_hook_type next_startup;

static void
request(void)
{
	if (next_request)
		next_request();
	shared_request();
}

static void
startup(void)
{
	if (next_startup)
		next_startup();
	shared_startup();
}

void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	settings_define();
	next_request = shmem_request_hook;
	shmem_request_hook = request;
	next_startup = shmem_startup_hook;
	shmem_startup_hook = startup;
}
