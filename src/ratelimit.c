/*
 * ratelimit.c
 *		What happens when the library is loaded, and the hooks that it sets.
 *
 * This is the only file that knows all parts of the extension.  It lists those that
 * keep something in shared memory, has the server reserve and initialize that memory,
 * loads the saved state, registers the background workers, and notices when the
 * extension or a database is dropped.  If the library is not preloaded, core/late.c
 * does all of this except the last.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "core/compat.h"
#include "core/late.h"
#include "core/parts.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "core/transaction.h"
#include "decide/exceptions.h"
#include "decide/policy_cache.h"
#include "decide/postgrest_rules.h"
#include "memory/block_filter.h"
#include "memory/databases.h"
#include "memory/exception_filter.h"
#include "memory/part.h"
#include "memory/tickets_part.h"
#include "memory/reservations.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "table/rows.h"
#include "table/sql.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "violations/due_flags.h"
#include "violations/episodes.h"
#include "violations/part.h"
#include "violations/stats.h"
#include "violations/tracks.h"
#include "workers/launcher.h"
#include "workers/saver.h"

PG_MODULE_MAGIC_EXT(.name = "ratelimit", .version = RATELIMIT_RELEASE);

/*
 * All parts.  A part comes after the parts that it needs when it starts or is loaded.
 * The memory of buckets comes first: it holds the block filter's count of cells and
 * the seed of the hash, by which violations are found, too.
 */
static const Part *const parts[] = {
	&memory_part,
	&block_filter_part,
	&semaphores_part,
	&exception_filter_part,
	&stats_part,
	&violations_part,
	&episodes_part,
	&tracks_part,
	&due_flags_part,
	&databases_part,
	&reservations_part,
};

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static object_access_hook_type prev_object_access_hook = NULL;

/* What this transaction drops if it commits. */
static Oid	dropped_database = InvalidOid;	/* InvalidOid if it drops no database */
static int	dropped_level = 0;	/* nest level at which it drops the extension; 0
								 * if it does not */

extern PGDLLEXPORT void _PG_init(void);

/* Ask for the shared memory and the locks that all parts need. */
static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(parts_size());
	RequestNamedLWLockTranche("ratelimit", parts_locks());
}

/* Attach or make shared memory, and load the saved state when the server starts. */
static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	found = parts_startup(GetNamedLWLockTranche("ratelimit"));
	LWLockRelease(AddinShmemInitLock);

	if (!IsUnderPostmaster && !IsBinaryUpgrade)
	{
		on_shmem_exit(saved_at_exit, (Datum) 0);
		if (!found)
			saved_load();
	}
}

/*
 * DROP EXTENSION and DROP DATABASE leave nothing behind.  What is in shared memory is
 * forgotten when the transaction commits, at a moment when others can see its changes
 * and it still holds its locks.  Forgetting cannot fail.
 *
 * A transaction may drop the extension several times, and roll drops back to a
 * savepoint.  Of the drops that are not rolled back, dropped_level is the nest level
 * of the outermost.  The subtransaction at that level contains those of the other
 * drops.
 */
static void
forget_at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && dropped_level > 0)
		forget_database(MyDatabaseId, false);
	if (event == XACT_EVENT_COMMIT && OidIsValid(dropped_database))
		forget_database(dropped_database, true);
	switch (event)
	{
		case XACT_EVENT_PRE_PREPARE:

			/*
			 * It may be committed by another session, or when the library is not
			 * loaded any more.
			 */
			if (dropped_level > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has dropped extension ratelimit")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			dropped_level = 0;
			dropped_database = InvalidOid;
			break;
		default:
			break;
	}
}

static void
forget_at_subxact_end(SubXactEvent event, SubTransactionId mine,
					  SubTransactionId parent, void *arg)
{
	if (dropped_level < GetCurrentTransactionNestLevel())
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		dropped_level = GetCurrentTransactionNestLevel() - 1;
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		dropped_level = 0;
}

/* Is this extension, which the current command has just created, ours? */
static bool
has_created_us(Oid extension)
{
	Relation	rel;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		us;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	rel = table_open(ExtensionRelationId, AccessShareLock);
	/* only SnapshotSelf sees what the current command has done */
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	us = HeapTupleIsValid(tuple) &&
		strcmp(NameStr(((Form_pg_extension) GETSTRUCT(tuple))->extname), "ratelimit") == 0;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return us;
}

/* The hook that is called when an object is created, dropped or otherwise used. */
static void
object_access(ObjectAccessType access, Oid classId, Oid objectId, int subId,
			  void *arg)
{
	static bool called = false;

	if (prev_object_access_hook)
		prev_object_access_hook(access, classId, objectId, subId, arg);

	if (access == OAT_DROP && classId == DatabaseRelationId)
	{
		call_at_ends(&called, forget_at_xact_end, forget_at_subxact_end);
		dropped_database = objectId;
	}
	else if (access == OAT_DROP && classId == ExtensionRelationId &&
			 objectId == get_extension_oid("ratelimit", true))
	{
		call_at_ends(&called, forget_at_xact_end, forget_at_subxact_end);
		if (dropped_level == 0)
			dropped_level = GetCurrentTransactionNestLevel();
	}
	else if (access == OAT_POST_CREATE && classId == ExtensionRelationId &&
			 dropped_level == 0 && has_created_us(objectId))
	{
		/*
		 * The extension's name is unique, so it did not exist until now.  What shared
		 * memory holds was left by statements that were still running when an earlier
		 * extension was dropped.
		 */
		forget_database(MyDatabaseId, false);
	}
}

/* What the library needs that does not depend on shared memory. */
static void
init_once(void)
{
	static bool done = false;

	if (done)
		return;
	settings_define();
	sql_init();
	rows_init();
	policy_cache_init();
	exceptions_init();
	postgrest_rules_init();
	parts_use(parts, lengthof(parts));
	done = true;
}

/* Have the server make shared memory when it starts, and run the workers. */
static void
preload(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	(void) launcher_register();
	(void) saver_register();
}

/*
 * The server calls this when it loads the library, in each process or, if preloaded,
 * once.  An error, such as cancelling while late_attach() waits, makes it call this
 * again when the library is next needed.
 */
void
_PG_init(void)
{
	static const LateRegister workers[N_LATE_WORKERS] = {
		[LATE_SAVER] = saver_register,
		[LATE_LAUNCHER] = launcher_register,
	};

	init_once();
	if (process_shared_preload_libraries_in_progress)
	{
		if (!shared_memory_setting)
			return;
		preload();
	}
	else if (!late_attach(workers))
		return;
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
}
