/*
 * ratelimit.c
 *		Loading: settings, shared memory, hooks, worker.
 */
#include "ratelimit.h"

#include <limits.h>

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "sql.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

int			max_buckets_setting = 131072;
int			overflow_setting = OVERFLOW_TABLE;
int			on_error_setting = ON_ERROR_ERROR;
int			flush_interval_setting = 60;

static const struct config_enum_entry overflow_options[] = {
	{"table", OVERFLOW_TABLE, false},
	{"evict", OVERFLOW_EVICT, false},
	{NULL, 0, false}
};

static const struct config_enum_entry on_error_options[] = {
	{"error", ON_ERROR_ERROR, false},
	{"allow", ON_ERROR_ALLOW, false},
	{"deny", ON_ERROR_DENY, false},
	{NULL, 0, false}
};

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static object_access_hook_type prev_object_access_hook = NULL;

/* What this transaction drops, if it commits; InvalidOid: nothing. */
static Oid	dropped_database = InvalidOid;
static bool dropped_extension = false;

extern void _PG_init(void);

static void
define_settings(void)
{
	/* loaded later, by the first call: it is too late for such settings */
	GucContext	postmaster = process_shared_preload_libraries_in_progress ?
		PGC_POSTMASTER : PGC_SIGHUP;

	DefineCustomIntVariable("ratelimit.max_buckets",
							"Buckets held in shared memory.",
							"Has no effect unless ratelimit is in shared_preload_libraries.",
							&max_buckets_setting,
							131072, 16, 1 << 30, postmaster, 0,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("ratelimit.overflow",
							 "Where a bucket goes that does not fit in shared memory.",
							 "table: into rate_limit_buckets. evict: the bucket nearest to full gives way.",
							 &overflow_setting,
							 OVERFLOW_TABLE, overflow_options, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("ratelimit.on_error",
							 "What becomes of a call that rate_limit_buckets cannot decide.",
							 NULL,
							 &on_error_setting,
							 ON_ERROR_ERROR, on_error_options, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.flush_interval",
							"Time between two rounds of the worker.",
							"A round deletes rows of rate_limit_buckets that are full again.",
							&flush_interval_setting,
							60, 1, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	MarkGUCPrefixReserved("ratelimit");
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shmem_store_size());
	RequestNamedLWLockTranche("ratelimit", shmem_store_locks());
}

static void
shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shmem_store_startup();
	LWLockRelease(AddinShmemInitLock);
}

/*
 * DROP EXTENSION and DROP DATABASE leave nothing behind: the buckets in shared
 * memory go when the transaction commits.
 */
static void
object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			  void *arg)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (access != OAT_DROP)
		return;
	if (classId == DatabaseRelationId)
		dropped_database = objectId;
	else if (classId == ExtensionRelationId &&
			 objectId == get_extension_oid("ratelimit", true))
		dropped_extension = true;
}

static void
forget_dropped(XactEvent event, void *arg)
{
	if (!dropped_extension && !OidIsValid(dropped_database))
		return;

	if (event == XACT_EVENT_PRE_COMMIT && dropped_extension)
	{
		/* the drop may have been rolled back to a savepoint */
		dropped_extension = !OidIsValid(get_extension_oid("ratelimit", true));
	}
	if (event == XACT_EVENT_COMMIT && dropped_extension)
	{
		shmem_forget_database(MyDatabaseId);
		spill_forget_database(MyDatabaseId, false);
	}
	if (event == XACT_EVENT_COMMIT && OidIsValid(dropped_database))
	{
		shmem_forget_database(dropped_database);
		spill_forget_database(dropped_database, true);
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
	{
		dropped_extension = false;
		dropped_database = InvalidOid;
	}
}

void
_PG_init(void)
{
	define_settings();
	sql_init();

	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
	RegisterXactCallback(forget_dropped, NULL);
	worker_register();
}
