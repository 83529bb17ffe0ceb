/*
 * ratelimit.c
 *		Loading: settings, shared memory, hooks, worker.
 */
#include "ratelimit.h"

#include <dlfcn.h>

#include <limits.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "block.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "databases.h"
#include "episodes.h"
#include "flags.h"
#include "flush.h"
#include "miscadmin.h"
#include "policy.h"
#include "postgrest.h"
#include "refund.h"
#include "rows.h"
#include "snapshot.h"
#include "sql.h"
#include "stats.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "violations.h"

PG_MODULE_MAGIC;

int			max_buckets_setting = 131072;
int			overflow_setting = OVERFLOW_TABLE;
int			on_error_setting = ON_ERROR_ERROR;
int			flush_interval_setting = 60;
char	   *gateway_name_setting = NULL;
int			max_violations_setting = 16384;
int			violation_sink_setting = SINK_TABLE;
int			violation_retention_setting = 0;
int			flag_threshold_setting = 1000;
int			flag_window_setting = 600;
char	   *flag_limiters_setting = NULL;
int			max_episodes_setting = 200;
int			episode_retention_setting = 3600;
int			save_interval_setting = 300;
bool		enabled_setting hot_data = true;
bool		shadow_setting hot_data = false;
bool		refund_setting hot_data = false;
int			postgrest_headers_setting = HTTP_ERROR_PT429;

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

static const struct config_enum_entry sink_options[] = {
	{"table", SINK_TABLE, false},
	{"log", SINK_LOG, false},
	{"none", SINK_NONE, false},
	{NULL, 0, false}
};

/* The values of a boolean, and one more. */
static const struct config_enum_entry postgrest_headers_options[] = {
	{"off", HTTP_ERROR_PT429, false},
	{"on", HTTP_ERROR_PGRST, false},
	{"problem", HTTP_ERROR_PROBLEM, false},
	{"false", HTTP_ERROR_PT429, true},
	{"true", HTTP_ERROR_PGRST, true},
	{"no", HTTP_ERROR_PT429, true},
	{"yes", HTTP_ERROR_PGRST, true},
	{"0", HTTP_ERROR_PT429, true},
	{"1", HTTP_ERROR_PGRST, true},
	{NULL, 0, false}
};

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
static object_access_hook_type prev_object_access_hook = NULL;

/* What this transaction drops, if it commits. */
static Oid	dropped_database = InvalidOid;	/* InvalidOid: none */
static int	dropped_level = 0;	/* the extension, at this nest level; 0: not */

extern void _PG_init(void);

static bool
check_gateway_name(char **value, void **extra, GucSource source)
{
	if (strlen(*value) <= MAX_GATEWAY_LEN)
		return true;
	GUC_check_errdetail("It must not be longer than %d bytes.", MAX_GATEWAY_LEN);
	return false;
}

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
							"How often violations are written.",
							"And how often rows of rate_limit_buckets that are full again are deleted.",
							&flush_interval_setting,
							60, 1, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomStringVariable("ratelimit.gateway_name",
							   "Name of the calling instance, for its violations.",
							   "Empty: application_name, else cluster_name, else the host's name.",
							   &gateway_name_setting,
							   "", PGC_USERSET, 0,
							   check_gateway_name, NULL, NULL);
	DefineCustomIntVariable("ratelimit.max_violations",
							"Distinct (gateway, limiter, key) counted between two flushes.",
							"Violations of further keys are counted together, as key (other).",
							&max_violations_setting,
							16384, 16, 1 << 19, postmaster, 0,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("ratelimit.violation_sink",
							 "Where violations are written.",
							 NULL,
							 &violation_sink_setting,
							 SINK_TABLE, sink_options, PGC_SIGHUP, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.violation_retention",
							"Age at which rows of rate_limit_violations are deleted.",
							"0 keeps them.",
							&violation_retention_setting,
							0, 0, INT_MAX, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.flag_threshold",
							"Violations within flag_window at which a key is flagged.",
							NULL,
							&flag_threshold_setting,
							1000, 1, INT_MAX, PGC_SIGHUP, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.flag_window",
							"Within which flag_threshold violations flag a key.",
							NULL,
							&flag_window_setting,
							600, 1, 86400 * 366, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomStringVariable("ratelimit.flag_limiters",
							   "Limiters whose keys are flagged, separated by commas.",
							   NULL,
							   &flag_limiters_setting,
							   "user", PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.max_episodes",
							"Recent runs of violations that are remembered.",
							NULL,
							&max_episodes_setting,
							200, 1, 10000, postmaster, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.episode_retention",
							"How long an episode is shown after its last violation.",
							"Or for flag_window, if that is longer.",
							&episode_retention_setting,
							3600, 1, 86400 * 366, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomIntVariable("ratelimit.save_interval",
							"How often state is saved for a restart.",
							"0: only when the server is shut down.",
							&save_interval_setting,
							300, 0, INT_MAX / 1000, PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("ratelimit.enabled",
							 "Decide calls.",
							 "Off: every call is allowed and nothing is counted.",
							 &enabled_setting,
							 true, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("ratelimit.shadow",
							 "Decide and record calls, but allow them all.",
							 NULL,
							 &shadow_setting,
							 false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("ratelimit.refund_on_rollback",
							 "Give tokens back when what took them is rolled back.",
							 NULL,
							 &refund_setting,
							 false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomEnumVariable("ratelimit.postgrest_headers",
							 "Let rl_enforce() raise errors that PostgREST makes headers of.",
							 "problem: and with the details of a problem of type quota-exceeded.",
							 &postgrest_headers_setting,
							 HTTP_ERROR_PT429, postgrest_headers_options, PGC_USERSET, 0,
							 NULL, NULL, NULL);
	MarkGUCPrefixReserved("ratelimit");
}

/* Locks: partitions of buckets, those of violations, databases, limiters. */
static int
n_locks(void)
{
	return shmem_store_locks() + violations_locks() + 2;
}

static Size
shmem_size(void)
{
	Size		size = MAXALIGN(shmem_store_size());

	size = add_size(size, MAXALIGN(databases_size()));
	size = add_size(size, MAXALIGN(stats_size()));
	size = add_size(size, MAXALIGN(episodes_size()));
	size = add_size(size, MAXALIGN(block_filter_size()));
	return add_size(size, MAXALIGN(violations_size()));
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(add_size(shmem_size(), 6 * PG_CACHE_LINE_SIZE));
	RequestNamedLWLockTranche("ratelimit", n_locks());
}

/*
 * Attach each part's memory, and make it on the server's start.  "found" is set by
 * ShmemInitStruct(), so it is read in a later statement than the call: C does not say
 * in which order the arguments of one call are worked out.
 */
static void
shmem_startup(void)
{
	LWLockPadded *locks;
	void	   *memory;
	bool		found;
	bool		found_store;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	locks = GetNamedLWLockTranche("ratelimit");
	memory = ShmemInitStruct("ratelimit", shmem_store_size(), &found_store);
	shmem_store_startup(memory, locks, found_store);
	locks += shmem_store_locks();
	memory = ShmemInitStruct("ratelimit violations", violations_size(), &found);
	violations_startup(memory, locks, found);
	locks += violations_locks();
	memory = ShmemInitStruct("ratelimit databases", databases_size(), &found);
	databases_startup(memory, &locks[0].lock, found);
	memory = ShmemInitStruct("ratelimit limiters", stats_size(), &found);
	stats_startup(memory, &locks[1].lock, found);
	memory = ShmemInitStruct("ratelimit episodes", episodes_size(), &found);
	episodes_startup(memory, found);
	memory = ShmemInitStruct("ratelimit blocks", block_filter_size(), &found);
	block_filter_startup(memory, shmem_store_block_cells(), found);
	LWLockRelease(AddinShmemInitLock);

	if (!IsUnderPostmaster && !IsBinaryUpgrade)
	{
		on_shmem_exit(snapshot_at_exit, (Datum) 0);
		if (!found_store)
			snapshot_load();
	}
}

/* The database's extension is gone, or the database itself. */
void
forget_database(Oid database, bool dropped)
{
	shmem_forget_database(database);
	violations_forget_database(database);
	stats_forget_database(database, dropped);
	databases_forget(database, dropped);
}

/*
 * Have functions called at the ends of transactions and subtransactions, from here
 * on: each takes its time of every transaction, so only once it has something to
 * do there.
 */
void
call_at_ends(bool *called, XactCallback at_xact_end, SubXactCallback at_subxact_end)
{
	if (*called)
		return;
	RegisterXactCallback(at_xact_end, NULL);
	if (at_subxact_end)
		RegisterSubXactCallback(at_subxact_end, NULL);
	*called = true;
}

/*
 * DROP EXTENSION and DROP DATABASE leave nothing behind: what is in shared memory
 * goes when the transaction commits, after its changes can be seen and while it
 * holds its locks.  Nothing of this can fail.
 *
 * A drop of the extension can be rolled back to a savepoint.  Of all that are not,
 * the one in the outermost subtransaction stands for the others, which are within
 * it: dropped_level is its nest level.
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
			 * Whoever commits it later is another session, or this server without
			 * this library.
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

/* Is the extension that this command has just created this one? */
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
	/* other snapshots do not see it yet */
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	us = HeapTupleIsValid(tuple) &&
		strcmp(NameStr(((Form_pg_extension) GETSTRUCT(tuple))->extname), "ratelimit") == 0;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return us;
}

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
		 * There was none until now, as a name is unique.  So what is there is of
		 * statements that have outlasted an earlier one.
		 */
		forget_database(MyDatabaseId, false);
	}
}

/*
 * The kernel's part of clock_gettime().  Going there through libc touches two more
 * pages of data and one of code, which little else in a server does.
 */
int			(*read_clock) (clockid_t, struct timespec *) hot_data = clock_gettime;

static void
find_clock(void)
{
#ifdef __linux__
	static const char *const names[] = {"__vdso_clock_gettime", "__kernel_clock_gettime"};
	void	   *vdso = dlopen("linux-vdso.so.1", RTLD_LAZY | RTLD_NOLOAD);
	struct timespec now;

	for (int i = 0; vdso && i < lengthof(names); i++)
	{
		int			(*found) (clockid_t, struct timespec *) = dlsym(vdso, names[i]);

		if (found && found(CLOCK_MONOTONIC, &now) == 0)
			read_clock = found;
	}
#endif
}

void
_PG_init(void)
{
	find_clock();
	define_settings();
	sql_init();
	rows_init();
	policy_init();
	postgrest_init();

	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	prev_object_access_hook = object_access_hook;
	object_access_hook = object_access;
	worker_register();
	saver_register();
}
