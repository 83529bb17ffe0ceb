/*
 * violations/stats.c
 *		Counts of decisions, per limiter.
 *
 * Each (database, limiter) has an entry in shared memory, which is made when it is
 * first counted and kept until its database goes.  (When only the extension goes, its
 * entries are forgotten: they are not shown, and are free for others once no line
 * counts for them.)  When all entries are taken, further limiters of a database are
 * counted together, under OTHER_LIMITER.  These entries are not those of violations
 * (violations/entries.h).
 *
 * Every role may choose names of limiters, so a full room is shared
 * (violations/shares.c): a role that has less than its fair share of the entries gets
 * one of a role that has more, whose counts then go to its database's OTHER_LIMITER.
 *
 * A backend counts in lines of its own, one for each limiter that it called last, so
 * that counting writes to no memory that other processors write to.  When a line
 * passes to another limiter, its counts are added to its entry first.  An entry's
 * counts are those that it holds itself and those of all lines that count for it.
 * Only the owner changes a line's counts, and the limiter that a line counts for
 * changes only under the lock.  A line stays when its backend ends, and the next
 * backend with the same number goes on from there.
 *
 * Because a line belongs to its owner, resetting the counts does not change them.  It
 * remembers what they were, and that is subtracted when they are shown.
 */
#include "postgres.h"

#include "core/clock.h"
#include "core/compat.h"
#include "core/names.h"
#include "core/saved_file.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "violations/shares.h"
#include "violations/stats.h"

#define MAX_LIMITERS	1024
#define OWN_LIMITERS	8		/* lines that each backend has */
#define NO_LIMITER		(-1)
#define OTHER_LIMITER	"(other)"
#define OTHER_ENTRIES	(MAX_LIMITERS / 16) /* kept for OTHER_LIMITER */

/* An entry.  The lock protects all of it. */
typedef struct SharedLimiter
{
	Oid			database;		/* InvalidOid if the entry is free */
	bool		forgotten;		/* not shown until it counts again */
	uint8		limiter_len;
	char		limiter[MAX_LIMITER_LEN];
	int			cell;			/* of the role that it was made for; NO_CELL for
								 * OTHER_LIMITER */
	uint64		counts[N_COUNTS];	/* except those in lines */
	uint64		before[N_COUNTS];	/* those before the last reset */
} SharedLimiter;

/* Counts of one backend for one limiter. */
typedef struct Line
{
	pg_atomic_uint64 counts[N_COUNTS];
	int			limiter;		/* index of its entry, under the lock */
} Line;

/* The lines of one backend, which share no cache line with those of another. */
typedef union OwnLines
{
	Line		lines[OWN_LIMITERS];
	char		pad[TYPEALIGN(PG_CACHE_LINE_SIZE, OWN_LIMITERS * sizeof(Line))];
} OwnLines;

static SharedLimiter *limiters = NULL;	/* MAX_LIMITERS of them */
static OwnLines *all_lines;		/* MaxBackends of them */
static Shares *shares;			/* of the entries, except those of OTHER_LIMITER */
static LWLock *limiters_lock;

/* The limiters that this backend's lines count for. */
static struct
{
	int			limiter_len;	/* 0 if the line is not used */
	char		limiter[MAX_LIMITER_LEN];
}			own[OWN_LIMITERS];

pg_atomic_uint64 *stats_current = NULL;

static Size
size(void)
{
	Size		total = CACHELINEALIGN(MAX_LIMITERS * sizeof(SharedLimiter));

	total = add_size(total, CACHELINEALIGN(sizeof(Shares)));
	return add_size(total, mul_size(MaxBackends, sizeof(OwnLines)));
}

static void
clear_line(Line *line)
{
	for (int j = 0; j < N_COUNTS; j++)
		pg_atomic_write_u64(&line->counts[j], 0);
	line->limiter = NO_LIMITER;
}

static int
locks(void)
{
	return 1;
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	char	   *p = memory;

	limiters = memory;
	p += CACHELINEALIGN(MAX_LIMITERS * sizeof(SharedLimiter));
	shares = (Shares *) p;
	p += CACHELINEALIGN(sizeof(Shares));
	all_lines = (OwnLines *) p;
	limiters_lock = &my_locks[0].lock;
	if (found)
		return;
	memset(limiters, 0, MAX_LIMITERS * sizeof(SharedLimiter));
	shares_init(shares, secret_seed(), MAX_LIMITERS - OTHER_ENTRIES);
	for (int i = 0; i < MaxBackends; i++)
	{
		for (int n = 0; n < OWN_LIMITERS; n++)
		{
			for (int j = 0; j < N_COUNTS; j++)
				pg_atomic_init_u64(&all_lines[i].lines[n].counts[j], 0);
			clear_line(&all_lines[i].lines[n]);
		}
	}
}

/* The limiter's entry, or NO_LIMITER.  The caller holds the lock. */
static int
find_shared(Oid database, const char *limiter, int len)
{
	for (int i = 0; i < MAX_LIMITERS; i++)
		if (limiters[i].database == database &&
			limiters[i].limiter_len == len &&
			memcmp(limiters[i].limiter, limiter, len) == 0)
			return i;
	return NO_LIMITER;
}

/* The entries as they were when last copied, with the counts of their lines. */
static struct
{
	SharedLimiter limiter;
	bool		shown;
	bool		has_line;
}			copies[MAX_LIMITERS];

/*
 * Copy the entries.  The copies' counts are those that are shown: with the lines, and
 * without those before the last reset.  There may be many lines, so this passes over
 * them only once.  The caller holds the lock.
 */
static void
copy_all(void)
{
	for (int i = 0; i < MAX_LIMITERS; i++)
	{
		SharedLimiter *copy = &copies[i].limiter;

		*copy = limiters[i];
		copies[i].shown = OidIsValid(copy->database) && !copy->forgotten;
		copies[i].has_line = false;
		for (int j = 0; j < N_COUNTS; j++)
			copy->counts[j] -= copy->before[j];
	}
	for (int i = 0; i < MaxBackends; i++)
	{
		for (int k = 0; k < OWN_LIMITERS; k++)
		{
			Line	   *line = &all_lines[i].lines[k];

			if (line->limiter == NO_LIMITER)
				continue;
			copies[line->limiter].has_line = true;
			for (int j = 0; j < N_COUNTS; j++)
				copies[line->limiter].limiter.counts[j] += pg_atomic_read_u64(&line->counts[j]);
		}
	}
	for (int i = 0; i < MAX_LIMITERS; i++)
		for (int j = 0; j < N_COUNTS; j++)
			copies[i].shown |= OidIsValid(copies[i].limiter.database) &&
				copies[i].limiter.counts[j] != 0;
}

static void
free_entry(int entry)
{
	limiters[entry].database = InvalidOid;
	if (limiters[entry].cell != NO_CELL)
		shares_give(shares, limiters[entry].cell);
}

/*
 * Free the entries that are forgotten and that no line counts for.  Returns whether
 * there was one.  The caller holds the lock exclusively.
 */
static bool
free_forgotten(void)
{
	bool		freed = false;

	copy_all();
	for (int i = 0; i < MAX_LIMITERS; i++)
	{
		if (!OidIsValid(limiters[i].database) || copies[i].shown || copies[i].has_line)
			continue;
		free_entry(i);
		freed = true;
	}
	return freed;
}

static bool
any_forgotten(void)
{
	for (int i = 0; i < MAX_LIMITERS; i++)
		if (OidIsValid(limiters[i].database) && limiters[i].forgotten)
			return true;
	return false;
}

/* A free entry, or NO_LIMITER. */
static int
find_free(void)
{
	for (int i = 0; i < MAX_LIMITERS; i++)
		if (!OidIsValid(limiters[i].database))
			return i;
	return NO_LIMITER;
}

static int
make_limiter(int entry, Oid database, const char *limiter, int len, int cell)
{
	if (entry == NO_LIMITER)
		return NO_LIMITER;
	memset(&limiters[entry], 0, sizeof(SharedLimiter));
	memcpy(limiters[entry].limiter, limiter, len);
	limiters[entry].limiter_len = len;
	limiters[entry].database = database;
	limiters[entry].cell = cell;
	return entry;
}

/*
 * The database's entry of OTHER_LIMITER, made if need be.  Returns NO_LIMITER if
 * there are too many databases.
 */
static int
find_or_make_other(Oid database)
{
	int			found = find_shared(database, OTHER_LIMITER, strlen(OTHER_LIMITER));

	if (found == NO_LIMITER)
		found = make_limiter(find_free(), database, OTHER_LIMITER,
							 strlen(OTHER_LIMITER), NO_CELL);
	if (found != NO_LIMITER)
		limiters[found].forgotten = false;
	return found;
}

/*
 * Take an entry from a cell that has more than a fair share: of these entries, the
 * one with the fewest calls.  Its counts and its lines pass to OTHER_LIMITER of its
 * database.  Returns NO_LIMITER if there is no such entry, or none for OTHER_LIMITER.
 */
static int
displace_limiter(int cell)
{
	int			victim = NO_LIMITER;
	uint64		least = 0;
	int			rest;

	for (int i = 0; i < MAX_LIMITERS; i++)
	{
		uint64		calls = 0;

		if (!OidIsValid(limiters[i].database) || limiters[i].cell == NO_CELL ||
			!shares_is_above(shares, limiters[i].cell, cell))
			continue;
		for (int j = 0; j < N_COUNTS; j++)
			calls += limiters[i].counts[j];
		if (victim == NO_LIMITER || calls < least)
		{
			victim = i;
			least = calls;
		}
	}
	if (victim == NO_LIMITER)
		return NO_LIMITER;
	rest = find_or_make_other(limiters[victim].database);
	if (rest == NO_LIMITER)
		return NO_LIMITER;

	for (int j = 0; j < N_COUNTS; j++)
	{
		limiters[rest].counts[j] += limiters[victim].counts[j];
		limiters[rest].before[j] += limiters[victim].before[j];
	}
	for (int i = 0; i < MaxBackends; i++)
		for (int k = 0; k < OWN_LIMITERS; k++)
			if (all_lines[i].lines[k].limiter == victim)
				all_lines[i].lines[k].limiter = rest;
	shares_pass(shares, limiters[victim].cell, cell);
	return victim;
}

/*
 * The limiter's entry, made if need be, or that of OTHER_LIMITER.  Returns NO_LIMITER
 * if there is none.  The caller holds the lock exclusively.
 */
static int
find_or_make(Oid database, const char *limiter, int len)
{
	int			found = find_shared(database, limiter, len);
	int			cell;

	if (found != NO_LIMITER)
	{
		limiters[found].forgotten = false;
		return found;
	}
	if (len == strlen(OTHER_LIMITER) && memcmp(limiter, OTHER_LIMITER, len) == 0)
		return find_or_make_other(database);

	cell = shares_my_cell(shares, database);
	if (shares_take(shares, cell) ||
		(any_forgotten() && free_forgotten() && shares_take(shares, cell)))
	{
		found = make_limiter(find_free(), database, limiter, len, cell);
		/* very many databases may have taken more than is kept for OTHER_LIMITER */
		if (found == NO_LIMITER)
			shares_give(shares, cell);
	}
	else if (shares_is_below(shares, cell))
		found = make_limiter(displace_limiter(cell), database, limiter, len, cell);
	return found != NO_LIMITER ? found : find_or_make_other(database);
}

/* Let the line count for this limiter from now on. */
static void
give_line(Line *line, const char *limiter, int len)
{
	LWLockAcquire(limiters_lock, LW_EXCLUSIVE);
	for (int j = 0; j < N_COUNTS && line->limiter != NO_LIMITER; j++)
		limiters[line->limiter].counts[j] += pg_atomic_read_u64(&line->counts[j]);
	clear_line(line);
	line->limiter = find_or_make(MyDatabaseId, limiter, len);
	LWLockRelease(limiters_lock);
}

/* Let this backend's calls count for this limiter from now on. */
void
stats_set_limiter(const char *limiter, int len)
{
	static uint32 next_victim = 0;	/* 2^32 is a multiple of OWN_LIMITERS */
	Line	   *lines;
	int			n = 0;

	if (!limiters || my_proc_number() >= MaxBackends)
		return;
	lines = all_lines[my_proc_number()].lines;
	while (n < OWN_LIMITERS && (own[n].limiter_len != len ||
								memcmp(own[n].limiter, limiter, len) != 0))
		n++;
	if (n == OWN_LIMITERS)
	{
		n = next_victim++ % OWN_LIMITERS;
		give_line(&lines[n], limiter, len);
		own[n].limiter_len = len;
		memcpy(own[n].limiter, limiter, len);
	}
	stats_current = lines[n].counts;
}

/* Copy the counts for stats_get(). */
void
stats_copy(void)
{
	LWLockAcquire(limiters_lock, LW_SHARED);
	copy_all();
	LWLockRelease(limiters_lock);
}

/*
 * This database's next limiter in the copy, from *at on.  Returns false at the end.
 */
bool
stats_get(int *at, const char **limiter, int *len, uint64 *counts)
{
	for (; *at < MAX_LIMITERS; (*at)++)
	{
		SharedLimiter *copy = &copies[*at].limiter;

		if (!copies[*at].shown || copy->database != MyDatabaseId)
			continue;
		*limiter = copy->limiter;
		*len = copy->limiter_len;
		memcpy(counts, copy->counts, sizeof(copy->counts));
		(*at)++;
		return true;
	}
	return false;
}

/* Reset this database's counts. */
void
stats_reset(void)
{
	LWLockAcquire(limiters_lock, LW_EXCLUSIVE);
	copy_all();
	for (int i = 0; i < MAX_LIMITERS; i++)
	{
		if (limiters[i].database != MyDatabaseId)
			continue;
		limiters[i].forgotten = !copies[i].shown;
		for (int j = 0; j < N_COUNTS; j++)
			limiters[i].before[j] += copies[i].limiter.counts[j];
	}
	LWLockRelease(limiters_lock);
}

/*
 * The database or its extension is gone.  If the database is still there, its
 * backends go on with their lines when it gets the extension again.
 */
static void
forget(Oid database, bool dropped)
{
	LWLockAcquire(limiters_lock, LW_EXCLUSIVE);
	copy_all();
	for (int i = 0; i < MaxBackends && dropped; i++)
	{
		for (int k = 0; k < OWN_LIMITERS; k++)
		{
			Line	   *line = &all_lines[i].lines[k];

			if (line->limiter != NO_LIMITER &&
				limiters[line->limiter].database == database)
				clear_line(line);
		}
	}
	for (int i = 0; i < MAX_LIMITERS; i++)
	{
		if (limiters[i].database != database)
			continue;
		limiters[i].forgotten = true;
		for (int j = 0; j < N_COUNTS; j++)
			limiters[i].before[j] += copies[i].limiter.counts[j];
		if (dropped)
			free_entry(i);
	}
	LWLockRelease(limiters_lock);
}

/*
 * Saving for the next start (core/saved_file.c)
 */

typedef struct SavedLimiter
{
	uint64		counts[N_COUNTS];
	Oid			database;
	uint32		limiter_len;
	char		limiter[MAX_LIMITER_LEN];
} SavedLimiter;

static void
save(Saving *saving)
{
	stats_copy();
	for (int i = 0; i < MAX_LIMITERS && saved_go_on(saving); i++)
	{
		SharedLimiter *copy = &copies[i].limiter;
		SavedLimiter record;

		if (!copies[i].shown)
			continue;
		memset(&record, 0, sizeof(record));
		memcpy(record.counts, copy->counts, sizeof(record.counts));
		record.database = copy->database;
		record.limiter_len = copy->limiter_len;
		memcpy(record.limiter, copy->limiter, MAX_LIMITER_LEN);
		saved_put(saving, 0, &record,
				  offsetof(SavedLimiter, limiter) + record.limiter_len);
	}
}

static bool
load(int kind, const char *bytes, Size size, Loading *loading)
{
	SavedLimiter record;
	int			shared;

	if (size < offsetof(SavedLimiter, limiter) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (size - offsetof(SavedLimiter, limiter) != record.limiter_len ||
		!OidIsValid(record.database) ||
		!saved_name_valid(record.limiter, record.limiter_len, MAX_LIMITER_LEN))
		return false;
	for (int j = 0; j < N_COUNTS; j++)
		if (record.counts[j] > PG_INT64_MAX / 2)
			return false;
	if (!loading->take)
		return true;
	shared = find_or_make(record.database, record.limiter, record.limiter_len);
	for (int j = 0; j < N_COUNTS && shared != NO_LIMITER; j++)
		limiters[shared].counts[j] += record.counts[j];
	return true;
}

const Part	stats_part = {
	.name = "ratelimit limiters",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = forget,
	.n_kinds = 1,
	.save = save,
	.load = load
};
