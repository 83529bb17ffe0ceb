/*
 * functions/creation.c
 *		The notice of CREATE EXTENSION that the library is not preloaded.
 *
 * The script of CREATE EXTENSION calls _rl_creation(), and then drops that function.
 * PostgreSQL does not send the notices of such a script to the client.  So this
 * notice is sent when the transaction commits, if the extension exists then.
 */
#include "postgres.h"

#include "commands/extension.h"
#include "core/compat.h"
#include "core/transaction.h"
#include "fmgr.h"
#include "memory/partitions.h"

SQL_FUNCTION(rl_creation);

/* Is the notice to be sent when this transaction commits? */
static bool notice_due = false;

/* Send the notice, if the transaction commits. */
static void
creation_at_xact_end(XactEvent event, void *arg)
{
	bool		due = notice_due;

	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			notice_due = false;
			if (due && OidIsValid(get_extension_oid("ratelimit", true)))
				ereport(NOTICE,
						(errmsg("ratelimit is not in shared_preload_libraries"),
						 errdetail("Buckets are kept in the table rate_limit_buckets instead of shared memory: calls are slower, are not counted in rate_limit_stats and fail on a standby."),
						 errhint("Add ratelimit to shared_preload_libraries in postgresql.conf and restart the server.")));
			break;
		case XACT_EVENT_ABORT:
			notice_due = false;
			break;
		default:
			break;
	}
}

/* _rl_creation() returns void */
Datum
rl_creation(PG_FUNCTION_ARGS)
{
	static bool called = false;

	if (!memory_attached())
	{
		call_at_ends(&called, creation_at_xact_end, NULL);
		notice_due = true;
	}
	PG_RETURN_VOID();
}
