/*
 * core/compat.h
 *		Differences between PostgreSQL 15 and 19, all of them.
 */
#ifndef RATELIMIT_COMPAT_H
#define RATELIMIT_COMPAT_H

#include "fmgr.h"

#if PG_VERSION_NUM < 150000
#error "ratelimit needs PostgreSQL 15 or later"
#endif

#ifndef PG_INT128_TYPE
#error "ratelimit needs a compiler with 128-bit integers"
#endif

/* Since 16, postgres.h does not include it. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/*
 * Before 16, the server did not say of what a library exports that it does; and the
 * build hides everything else.
 */
#if PG_VERSION_NUM < 160000
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

/* A function that SQL calls. */
#define SQL_FUNCTION(name) \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

/* 18 put it before the declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* Before 17, extensions share one wait event. */
#if PG_VERSION_NUM < 170000
#define new_wait_event(name) PG_WAIT_EXTENSION
#else
#define new_wait_event(name) WaitEventExtensionNew(name)
#endif

/* The datconnlimit of a database whose DROP was interrupted; since 15.4 it has a name. */
#define INVALID_DATABASE_LIMIT (-2)

/* 17 ends transactions that take long, background workers' too; needs utils/guc.h. */
#if PG_VERSION_NUM < 170000
#define no_transaction_timeout() ((void) 0)
#else
#define no_transaction_timeout() \
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE)
#endif

/* Since 17, an interval may be infinite; needs datatype/timestamp.h. */
#if PG_VERSION_NUM < 170000
#define interval_is_finite(span) true
#else
#define interval_is_finite(span) (!INTERVAL_NOT_FINITE(span))
#endif

/* Which of MaxBackends this one is; needs storage/proc.h. */
#if PG_VERSION_NUM < 170000
#define my_proc_number() (MyProc->pgprocno)
#else
#define my_proc_number() MyProcNumber
#endif

/* Which file a table's rows are in; needs utils/rel.h. */
#if PG_VERSION_NUM < 160000
#define relation_file(rel) ((rel)->rd_node.relNode)
#else
#define relation_file(rel) ((rel)->rd_locator.relNumber)
#endif

/* 18 counts what a scan does, 19 has flags; needs access/genam.h. */
#if PG_VERSION_NUM < 180000
#define begin_index_scan(table, index, snapshot, keys) \
	index_beginscan(table, index, snapshot, keys, 0)
#elif PG_VERSION_NUM < 190000
#define begin_index_scan(table, index, snapshot, keys) \
	index_beginscan(table, index, snapshot, NULL, keys, 0)
#else
#define begin_index_scan(table, index, snapshot, keys) \
	index_beginscan(table, index, snapshot, NULL, keys, 0, 0)
#endif

#endif							/* RATELIMIT_COMPAT_H */
