/*
 * functions/creation.c
 *		What CREATE EXTENSION does besides executing its script: a notice that there
 *		is no shared memory, and forgetting an earlier extension.
 *
 * The script of CREATE EXTENSION calls _rl_creation(), and then drops that function.
 * PostgreSQL does not send the notices of such a script to the client.  So the notice
 * is sent when the transaction commits, if the extension exists then.
 *
 * If the library is not preloaded, CREATE EXTENSION may load it, too late for the
 * hook in ratelimit.c.  And the session that dropped an earlier extension may not
 * have loaded it at all.  So what shared memory holds of an earlier one is forgotten
 * here.  If this transaction has dropped that one, it may yet be rolled back, so this
 * waits until it commits, and then includes what it has done since, as in
 * ratelimit.c.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "core/compat.h"
#include "core/late.h"
#include "core/parts.h"
#include "core/settings.h"
#include "core/transaction.h"
#include "fmgr.h"
#include "memory/partitions.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

SQL_FUNCTION(rl_creation);

/*
 * The extension that this transaction has created, if something is due when it
 * commits, or InvalidOid.
 */
static Oid	created = InvalidOid;

#define NO_MEMORY_DETAIL \
	"Buckets are kept in the table rate_limit_buckets instead of shared memory: calls are slower, are not counted in rate_limit_stats and fail on a standby."

/* Say that there is no shared memory. */
static void
send_notice(void)
{
	if (!HAVE_NAMED_SEGMENTS)
		ereport(NOTICE,
				(errmsg("ratelimit is not in shared_preload_libraries"),
				 errdetail(NO_MEMORY_DETAIL),
				 errhint("Add ratelimit to shared_preload_libraries in postgresql.conf and restart the server.")));
	else
		ereport(NOTICE,
				(errmsg("ratelimit does not use shared memory"),
				 errdetail(NO_MEMORY_DETAIL),
				 shared_memory_setting ?
				 errhint("The server log says why.") :
				 errhint("Set ratelimit.shared_memory to on, and restart the server or end all sessions that use ratelimit.")));
}

/* The transaction has created the extension: do what is due if it commits. */
static void
creation_at_xact_end(XactEvent event, void *arg)
{
	Oid			due = created;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			created = InvalidOid;
			if (!OidIsValid(due) || get_extension_oid("ratelimit", true) != due)
				break;
			if (memory_attached())
				forget_database(MyDatabaseId, false);
			else
				send_notice();
			break;
		case XACT_EVENT_ABORT:
			created = InvalidOid;
			break;
		default:
			break;
	}
}

/*
 * Has this transaction dropped an extension ratelimit before the one that it creates,
 * other than in a subtransaction that is rolled back?
 */
static bool
has_dropped_another(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;
	bool		dropped = false;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("ratelimit"));
	/* a row stays at least until the transaction that deletes it has ended */
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, SnapshotAny, 1, &key);
	while (!dropped && (tuple = systable_getnext(scan)) != NULL)
	{
		HeapTupleHeader row = tuple->t_data;

		/* the script has updated the new one's row */
		dropped = ((Form_pg_extension) GETSTRUCT(tuple))->oid != CurrentExtensionObject &&
			(row->t_infomask & HEAP_XMAX_INVALID) == 0 &&
			!HEAP_XMAX_IS_LOCKED_ONLY(row->t_infomask) &&
			TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetUpdateXid(row));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return dropped;
}

/* _rl_creation() returns void */
Datum
rl_creation(PG_FUNCTION_ARGS)
{
	static bool called = false;

	if (late_attached() && !has_dropped_another())
		forget_database(MyDatabaseId, false);
	else if (!memory_attached() || late_attached())
	{
		call_at_ends(&called, creation_at_xact_end, NULL);
		created = CurrentExtensionObject;
	}
	PG_RETURN_VOID();
}
