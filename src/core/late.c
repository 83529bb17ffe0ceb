/*
 * core/late.c
 *		Shared memory that is made while the server runs, if the library is not
 *		preloaded.
 *
 * Since PostgreSQL 17, dynamic shared memory can have a name, by which any process
 * finds it.  So the first process that loads the library makes the memory of all
 * parts (core/parts.h), loads the saved state into it, and has the workers started;
 * all others attach to it.  Everything else is as with preloading.  This file does
 * the same for all parts, and knows none of them.
 *
 * Two segments.  The registry of names makes a segment and calls a function to
 * initialize it while it holds a lock, and does not expect that this fails.  So what
 * it makes is small, the Control.  It has the handle of the segment with the parts'
 * memory and locks, which is made without it.  Both stay until the server stops.
 * After a crash they are gone, like all shared memory.
 *
 * One decision for all.  A bucket is in memory or in the table, so memory must not be
 * made while any process does without.  The Control's word says how it stands, and
 * how many processes go by that, in one atomic variable:
 *
 *		NEW			nothing has been tried yet
 *		MAKING		a process makes the memory; others wait for it
 *		READY		the memory is there, and so many processes are attached
 *		REFUSED		it could not be made: so many processes use the table
 *		OFF			the same, because ratelimit.shared_memory was off
 *
 * A process decides when it loads the library, and keeps to that until it ends.  When
 * the last one that uses the table has ended, the next one may try to make memory
 * again.  There are two exceptions, which are reported: a process that cannot attach
 * memory that is there, or whose library is of another build than the one that made
 * it, uses the table.  Until it ends, a bucket may then be both here and there, and
 * allow twice as much.
 *
 * Making does not throw.  It may fail for reasons that are not ours, such as a
 * /dev/shm that is too small, and a call must not fail because of that.  A
 * subtransaction would not do, as there may be no transaction, or a parallel query.
 * So guarded() catches the error and does what the end of a subtransaction would do
 * for the few things that are used here.  Interrupts are held meanwhile, so making
 * cannot be cancelled.  It takes as long as the memory takes to be cleared and the
 * file to be loaded: a third of a second for a million buckets.  Processes that wait
 * for it can be cancelled.
 *
 * Sizes are those that are configured when memory is made.  A session that may not
 * know them (settings_overridden) has the saver make the memory, as a worker knows
 * nothing but the configuration.  If that does not happen in a few seconds, the
 * session does it, with the standard sizes.
 *
 * Addresses.  The memory may be at another address in each process.  So it holds no
 * pointers; parts keep theirs in static variables, which startup() sets.
 *
 * Workers.  The process that makes memory registers the launcher and the saver.  If
 * there is no background worker slot for them, that is tried again by processes that
 * attach later, and by calls that take the long way, once a second.  The postmaster
 * restarts them after a crash, too, when the Control is new and does not know of
 * them.  A session may then have registered others already.  Therefore a worker
 * begins with making itself known, and ends for good if there is another one.
 *
 * The stop.  The last process that is attached saves the state when it ends, while
 * the postmaster waits for it with the shutdown checkpoint.  This is the saver, which
 * waits for the others, unless it happens not to run.  A process that is killed, or
 * ended by SIGQUIT, does not leave, so after a crash nobody is the last.  Walsenders
 * may outlive the shutdown checkpoint, so they do not count.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/late.h"
#include "core/node.h"
#include "core/parts.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "replication/walsender.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/pmsignal.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#define NAME			"ratelimit"
#define CONTROL_SIZE	1024	/* the same in all versions of the library */
#define CONTROL_LAYOUT	1		/* changes with the Control, or with what is in a
								 * part's memory if that keeps its size */
#define RETRY_NS		INT64CONST(60000000000) /* until memory is tried again */
#define WORKERS_NS		INT64CONST(1000000000)	/* until workers are */
#define NAP_US			1000
#define SAVER_NS		INT64CONST(5000000000)	/* until it should have made memory */

#define REPLACED		"The library has been replaced since the first session loaded it"

/* States, in the upper half of the word. */
#define NEW				((uint64) 0)
#define MAKING			((uint64) 1 << 32)
#define READY			((uint64) 2 << 32)
#define REFUSED			((uint64) 3 << 32)
#define OFF				((uint64) 4 << 32)
#define STATE(word)		((word) & ~(uint64) PG_UINT32_MAX)
#define PROCESSES(word) ((uint32) (word))

typedef struct Control
{
	uint32		layout;			/* CONTROL_LAYOUT, of the process that made it; if it is
								 * another one, the rest is, too */
	pg_atomic_uint64 word;
	pg_atomic_uint64 refused_at;	/* monotonic clock */
	pg_atomic_uint32 complained;	/* of another build of the library */

	/* written by the process that makes memory, before READY */
	uint64		build;			/* of its library: build_of_parts() */
	dsm_handle	handle;
	int			tranche;		/* of the locks */
	int			sizes[MAX_SIZES];
	int64		loaded_mono;	/* saved_loaded_mono() */

	/* of workers */
	pg_atomic_uint64 tried_at;	/* to register them; monotonic clock */
	pg_atomic_uint32 no_slot;	/* how often there was no slot */
	pg_atomic_uint32 registered[N_LATE_WORKERS];	/* has it been? */
	pg_atomic_uint32 pids[N_LATE_WORKERS];	/* 0 while it does not run */
} Control;

StaticAssertDecl(sizeof(Control) <= CONTROL_SIZE, "the control segment is too small");

bool		late_workers_missing = false;

static bool late = false;		/* is this process to attach by itself? */
static bool attached = false;
static bool counted = false;	/* does the word count this process? */
static Control *control = NULL;
static const LateRegister *register_worker;

/*
 * Call work() with interrupts held.  If it throws an error, return false, and what
 * the error said.  It may take LWLocks, and make and attach segments; the caller
 * holds no LWLock.
 */
static bool
guarded(void (*work) (void), char *problem, Size size)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner caller = CurrentResourceOwner;
	ResourceOwner mine = ResourceOwnerCreate(NULL, NAME);
	volatile bool done = false;
	uint32		holdoff;

	HOLD_INTERRUPTS();
	holdoff = InterruptHoldoffCount;
	PG_TRY();
	{
		CurrentResourceOwner = mine;
		/* descriptors of segments are to last as long as the process */
		MemoryContextSwitchTo(TopMemoryContext);
		work();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* throwing has set it to 0 */
		InterruptHoldoffCount = holdoff;
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		strlcpy(problem, error->message, size);
		FreeErrorData(error);
		LWLockReleaseAll();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = caller;
	/* detach segments that are not pinned */
	ResourceOwnerRelease(mine, RESOURCE_RELEASE_BEFORE_LOCKS, false, true);
	ResourceOwnerRelease(mine, RESOURCE_RELEASE_LOCKS, false, true);
	ResourceOwnerRelease(mine, RESOURCE_RELEASE_AFTER_LOCKS, false, true);
	CurrentResourceOwner = caller;
	ResourceOwnerDelete(mine);
	RESUME_INTERRUPTS();
	return done;
}

/* The segment's first user initializes it; the registry holds a lock meanwhile. */
static void
init_control(named_segment_args)
{
	Control    *new = (Control *) memory;

	memset(memory, 0, CONTROL_SIZE);
	new->layout = CONTROL_LAYOUT;
	pg_atomic_init_u64(&new->word, NEW);
	pg_atomic_init_u64(&new->refused_at, 0);
	pg_atomic_init_u32(&new->complained, 0);
	pg_atomic_init_u64(&new->tried_at, 0);
	pg_atomic_init_u32(&new->no_slot, 0);
	for (int i = 0; i < N_LATE_WORKERS; i++)
	{
		pg_atomic_init_u32(&new->registered[i], 0);
		pg_atomic_init_u32(&new->pids[i], 0);
	}
}

static void
find_control(void)
{
	bool		found = false;

	control = get_named_segment(NAME, CONTROL_SIZE, init_control, &found);
}

/*
 * What two libraries must have in common to use the same memory.  The sizes of parts
 * depend on the settings in use.
 */
static uint64
build_of_parts(void)
{
	int			n;
	const Part *const *parts = parts_list(&n);
	uint64		build = hash_bytes_extended((const unsigned char *) RATELIMIT_VERSION,
											strlen(RATELIMIT_VERSION), n);

	for (int i = 0; i < n; i++)
	{
		build = hash_combine64(build, parts[i]->size());
		build = hash_combine64(build, parts[i]->locks ? parts[i]->locks() : 0);
	}
	return build;
}

/* The locks come first in the segment, then the parts. */
static Size
locks_size(void)
{
	return CACHELINEALIGN(mul_size(parts_locks(), sizeof(LWLockPadded)));
}

/*
 * This process does not use the memory, or the table, any more.  Returns whether it
 * was the last one.
 */
static bool
leave(void)
{
	bool		was_counted = counted;

	counted = false;
	return was_counted && PROCESSES(pg_atomic_fetch_sub_u64(&control->word, 1)) == 1;
}

/*
 * on_dsm_detach callback: the process ends, or has failed to attach.  When it ends,
 * its transaction has been aborted before, which may still have used the memory.  The
 * memory is still mapped.  If the server stops, the last process saves the state.
 */
static void
leave_memory(dsm_segment *segment, Datum arg)
{
	if (leave() && attached && server_is_stopping())
		saved_at_stop();
}

/* before_shmem_exit callback */
static void
leave_table(int code, Datum arg)
{
	(void) leave();
}

/*
 * Use the segment, which is pinned, until the process ends.  Once a part has been
 * told of it, nothing fails.
 */
static void
use_segment(dsm_segment *segment, bool found)
{
	char	   *memory = dsm_segment_address(segment);
	LWLockPadded *locks = (LWLockPadded *) memory;

	Assert((uintptr_t) memory % PG_CACHE_LINE_SIZE == 0);
	name_lock_tranche(control->tranche, NAME);
	for (int i = 0; !found && i < parts_locks(); i++)
		LWLockInitialize(&locks[i].lock, control->tranche);
	parts_place(memory + locks_size(), locks, found);
}

/* Make the memory. */
static void
make_memory(void)
{
	Size		size;
	dsm_segment *segment;

	(void) settings_sizes(control->sizes);
	settings_use_sizes(control->sizes);
	size = add_size(locks_size(), parts_size());
	control->tranche = new_lock_tranche(NAME);
	segment = dsm_create(size, 0);
	control->build = build_of_parts();
	control->handle = dsm_segment_handle(segment);
	on_dsm_detach(segment, leave_memory, (Datum) 0);
	injection_point("ratelimit-late-make");
	dsm_pin_segment(segment);
	dsm_pin_mapping(segment);
	use_segment(segment, false);
}

/* Load the saved state into the memory. */
static void
load_memory(void)
{
	injection_point("ratelimit-late-load");
	saved_load();
	control->loaded_mono = saved_loaded_mono();
}

/* Attach the memory that another process has made. */
static void
attach_memory(void)
{
	dsm_segment *segment = dsm_attach(control->handle);

	if (!segment)
		elog(ERROR, "could not map dynamic shared memory segment");
	on_dsm_detach(segment, leave_memory, (Datum) 0);
	injection_point("ratelimit-late-attach");
	dsm_pin_mapping(segment);
	use_segment(segment, true);
	saved_set_loaded_mono(control->loaded_mono);
}

/* before_shmem_exit callback: the process ends while it makes the memory. */
static void
stop_making(int code, Datum arg)
{
	pg_atomic_write_u64(&control->word, REFUSED);
}

/*
 * Decide for all: make memory, or use the table.  The word is MAKING.
 */
static void
decide(void)
{
	char		problem[256];
	uint64		result;

	if (!shared_memory_setting)
		result = OFF;
	else
	{
		before_shmem_exit(stop_making, (Datum) 0);
		attached = guarded(make_memory, problem, sizeof(problem));
		if (attached && !guarded(load_memory, problem, sizeof(problem)))
			ereport(LOG,
					(errmsg("ratelimit: could not load all of the saved state: %s", problem)));
		cancel_before_shmem_exit(stop_making, (Datum) 0);
		result = attached ? READY : REFUSED;
	}
	if (!attached)
		before_shmem_exit(leave_table, (Datum) 0);
	pg_atomic_write_u64(&control->refused_at, monotonic_ns());
	/* what has been written must be seen before the word is */
	pg_write_barrier();
	counted = !(attached && am_walsender);
	pg_atomic_write_u64(&control->word, counted ? result + 1 : result);
	if (result == REFUSED)
		ereport(WARNING,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("ratelimit keeps buckets in the table rate_limit_buckets, because the system refuses shared memory"),
				 errdetail("%s: %zu MB are needed.", problem,
						   add_size(locks_size(), parts_size()) / (1024 * 1024) + 1),
				 errhint("Give the server more (such as a larger /dev/shm), or decrease ratelimit.max_buckets, then restart the server or end all sessions that use ratelimit.")));
}

/* May memory be tried again, now that no process uses the table? */
static bool
may_try_again(uint64 word)
{
	if (settings_overridden)
		return false;
	if (STATE(word) == OFF)
		return shared_memory_setting;
	return monotonic_ns() - (int64) pg_atomic_read_u64(&control->refused_at) >= RETRY_NS;
}

/* This process cannot use the memory that others use, and uses the table. */
static void
warn_alone(const char *problem)
{
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("this session keeps buckets in the table rate_limit_buckets, although others may keep them in shared memory"),
			 errdetail("%s.", problem),
			 errhint("Restart the server.")));
}

/* Use the memory that is there, and that counts this process already. */
static void
join(void)
{
	char		problem[256] = REPLACED;
	bool		same;

	settings_use_sizes(control->sizes);
	same = build_of_parts() == control->build;
	if (same && guarded(attach_memory, problem, sizeof(problem)))
	{
		attached = true;
		return;
	}
	(void) leave();
	if (same || pg_atomic_exchange_u32(&control->complained, 1) == 0)
		warn_alone(problem);
}

/* Wait for another process that makes the memory. */
static void
nap(void)
{
	CHECK_FOR_INTERRUPTS();
	pg_usleep(NAP_US);
	if (!PostmasterIsAlive())
		proc_exit(1);
}

/* Register a worker if that has not been done.  Returns false if there is no slot. */
static bool
start_worker(LateWorker worker)
{
	if (pg_atomic_exchange_u32(&control->registered[worker], 1) != 0 ||
		register_worker[worker] ())
		return true;
	pg_atomic_write_u32(&control->registered[worker], 0);
	return false;
}

/*
 * Have the saver make the memory, and wait a moment for it.  Returns false if it does
 * not.
 */
static bool
wait_for_saver(int64 since)
{
	if (!start_worker(LATE_SAVER) || monotonic_ns() - since > SAVER_NS)
		return false;
	nap();
	return true;
}

/* Attach shared memory, and make it if this is the first process to need it. */
static void
find_memory(void)
{
	char		problem[256];
	int64		since = monotonic_ns();

	if (!control && !guarded(find_control, problem, sizeof(problem)))
	{
		warn_alone(problem);
		return;
	}
	if (control->layout != CONTROL_LAYOUT)
	{
		warn_alone(REPLACED);
		return;
	}

	for (;;)
	{
		uint64		word = pg_atomic_read_u64(&control->word);
		uint64		next = word + 1;

		/* what was written before the word must be seen */
		pg_read_barrier();
		if (STATE(word) == MAKING)
		{
			nap();
			continue;
		}
		if (STATE(word) == NEW && settings_overridden && wait_for_saver(since))
			continue;
		if (STATE(word) == NEW ||
			(STATE(word) != READY && PROCESSES(word) == 0 && may_try_again(word)))
			next = MAKING;
		else if (STATE(word) == READY && am_walsender)
			next = word;
		if (!pg_atomic_compare_exchange_u64(&control->word, &word, next))
			continue;
		counted = next == word + 1;
		if (next == MAKING)
			decide();
		else if (STATE(word) == READY)
			join();
		else
			before_shmem_exit(leave_table, (Datum) 0);
		break;
	}
	late_start_workers();
}

/*
 * If the library is not preloaded: attach shared memory, or make it.  Returns whether
 * it is attached.  The functions are those that register the workers.  This may be
 * cancelled while it waits for another process, and is then called again.
 */
bool
late_attach(const LateRegister *functions)
{
	/* the standalone server has no dynamic shared memory; pg_upgrade needs none */
	if (!HAVE_NAMED_SEGMENTS || !IsUnderPostmaster || IsBinaryUpgrade || !MyProc)
		return false;
	late = true;
	register_worker = functions;
	find_memory();
	return attached;
}

/* Is memory attached that was made without preloading? */
bool
late_attached(void)
{
	return attached;
}

/* Have the workers started that have not been yet. */
void
late_start_workers(void)
{
	int64		now = monotonic_ns();

	if (!attached)
		return;
	late_workers_missing = false;
	for (int i = 0; i < N_LATE_WORKERS; i++)
		if (pg_atomic_read_u32(&control->registered[i]) == 0)
			late_workers_missing = true;
	if (!late_workers_missing ||
		now - (int64) pg_atomic_read_u64(&control->tried_at) < WORKERS_NS)
		return;
	pg_atomic_write_u64(&control->tried_at, now);

	late_workers_missing = false;
	for (int i = 0; i < N_LATE_WORKERS; i++)
		late_workers_missing |= !start_worker(i);

	/* after a crash, the slots may be those of our workers, about to be restarted */
	if (late_workers_missing && pg_atomic_fetch_add_u32(&control->no_slot, 1) == 1)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("ratelimit: no background worker slot is free, violations wait and state is not saved"),
				 errhint("Increase max_worker_processes.")));
	else if (!late_workers_missing && pg_atomic_read_u32(&control->no_slot) > 1)
		ereport(LOG, (errmsg("ratelimit: got the background worker slots")));
}

/* before_shmem_exit callback of a worker */
static void
worker_ends(int code, Datum worker)
{
	pg_atomic_write_u32(&control->pids[DatumGetInt32(worker)], 0);
}

/*
 * The main function of a worker begins.  Returns false if it has to end, because
 * there is another one, or no memory.
 */
bool
late_worker_begins(LateWorker worker)
{
	uint32		nobody = 0;

	if (!late)
		return true;
	if (!attached)
	{
		/* should there be memory one day, it is registered again */
		if (control)
			pg_atomic_write_u32(&control->registered[worker], 0);
		return false;
	}
	if (!pg_atomic_compare_exchange_u32(&control->pids[worker], &nobody, MyProcPid))
		return false;
	pg_atomic_write_u32(&control->registered[worker], 1);
	before_shmem_exit(worker_ends, Int32GetDatum(worker));
	return true;
}

/* Is this the last process that uses the memory? */
bool
late_alone(void)
{
	return attached && PROCESSES(pg_atomic_read_u64(&control->word)) <= 1;
}
