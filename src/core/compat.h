/*
 * core/compat.h
 *		All differences between PostgreSQL 15 and 19.
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

/* Since 16, postgres.h does not include this header. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/*
 * The build hides all symbols that are not marked as exported.  Before 16, the
 * server's macro did not mark them.
 */
#if PG_VERSION_NUM < 160000
#undef PGDLLEXPORT
#define PGDLLEXPORT __attribute__((visibility("default")))
#endif

/*
 * Stands in the declaration of a variable that every call reads.  The build hides the
 * variable, but a declaration alone does not tell that to the compiler, which then
 * looks its address up in a table.  This saves 38 of 515 instructions a call.
 */
#define hidden_data __attribute__((visibility("hidden")))

/* Declares a function that SQL calls. */
#define SQL_FUNCTION(name) \
	extern PGDLLEXPORT Datum name(PG_FUNCTION_ARGS); \
	PG_FUNCTION_INFO_V1(name)

/* Since 18, pg_get_loaded_modules() shows the name and the version of a library. */
#if PG_VERSION_NUM < 180000
#define PG_MODULE_MAGIC_EXT(...) PG_MODULE_MAGIC
#endif

/* Since 18, this stands before the declaration. */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* Before 17, all extensions share one wait event. */
#if PG_VERSION_NUM < 170000
#define new_wait_event(name) PG_WAIT_EXTENSION
#else
#define new_wait_event(name) WaitEventExtensionNew(name)
#endif

/* The datconnlimit of a database whose DROP was interrupted; named since 15.4. */
#define INVALID_DATABASE_LIMIT (-2)

/*
 * Since 17, transaction_timeout ends long transactions, even of background workers.
 * Needs utils/guc.h.
 */
#if PG_VERSION_NUM < 170000
#define no_transaction_timeout() ((void) 0)
#else
#define no_transaction_timeout() \
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE)
#endif

/* Since 17, an interval may be infinite.  Needs datatype/timestamp.h. */
#if PG_VERSION_NUM < 170000
#define interval_is_finite(span) true
#else
#define interval_is_finite(span) (!INTERVAL_NOT_FINITE(span))
#endif

/*
 * Since 17, a library that is not preloaded can find shared memory by its name:
 * get_named_segment() returns its address, and makes it if necessary.  Its init()
 * takes named_segment_args.  Needs storage/dsm_registry.h, which this includes.
 */
#if PG_VERSION_NUM < 170000
#define HAVE_NAMED_SEGMENTS false
#define named_segment_args void *memory
#define get_named_segment(name, size, init, found) \
	((void) (init), *(found) = false, (void *) NULL)
#else
#include "storage/dsm_registry.h"
#define HAVE_NAMED_SEGMENTS true
#if PG_VERSION_NUM < 190000
#define named_segment_args void *memory
#define get_named_segment(name, size, init, found) \
	GetNamedDSMSegment(name, size, init, found)
#else
#define named_segment_args void *memory, void *arg
#define get_named_segment(name, size, init, found) \
	GetNamedDSMSegment(name, size, init, found, NULL)
#endif
#endif

/*
 * A setting that was named before it was defined, or NULL.  Needs utils/guc_tables.h.
 */
#if PG_VERSION_NUM < 170000
#define find_setting(name) ((void) (name), (struct config_generic *) NULL)
#else
#define find_setting(name) find_option(name, false, true, 0)
#endif

/* Before 19, each process names a tranche of locks.  Needs storage/lwlock.h. */
#if PG_VERSION_NUM < 190000
#define new_lock_tranche(name) LWLockNewTrancheId()
#define name_lock_tranche(id, name) LWLockRegisterTranche(id, name)
#else
#define new_lock_tranche(name) LWLockNewTrancheId(name)
#define name_lock_tranche(id, name) ((void) 0)
#endif

/* The number of this backend among MaxBackends.  Needs storage/proc.h. */
#if PG_VERSION_NUM < 170000
#define my_proc_number() (MyProc->pgprocno)
#else
#define my_proc_number() MyProcNumber
#endif

/* Since 17, it can be asked for stronger locks, too.  Needs storage/lock.h. */
#if PG_VERSION_NUM < 170000
#define lock_held_by_me(tag, mode) LockHeldByMe(tag, mode)
#else
#define lock_held_by_me(tag, mode) LockHeldByMe(tag, mode, false)
#endif

/* The number of the file that holds a table's rows.  Needs utils/rel.h. */
#if PG_VERSION_NUM < 160000
#define relation_file(rel) ((rel)->rd_node.relNode)
#else
#define relation_file(rel) ((rel)->rd_locator.relNumber)
#endif

/*
 * Since 18 a scan can be instrumented, since 19 it has flags.  Needs access/genam.h.
 */
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

/*
 * Since 17, on a server that is built with injection points, a test can have an error
 * thrown here, or let a process wait here.  So no LWLock, word, buffer or critical
 * section is held where one stands.  On other servers this is nothing.
 */
#if PG_VERSION_NUM < 170000
#define injection_point(name) ((void) 0)
#else
#include "utils/injection_point.h"
#if PG_VERSION_NUM < 180000
#define injection_point(name) INJECTION_POINT(name)
#else
#define injection_point(name) INJECTION_POINT(name, NULL)
#endif
#endif

#endif							/* RATELIMIT_COMPAT_H */
