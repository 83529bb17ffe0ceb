/*
 * core/parts.c
 *		The list of the extension's parts, and what is done for each of them in turn.
 *
 * A part is what keeps something in shared memory; core/parts.h says what it can do.
 */
#include "postgres.h"

#include "core/parts.h"
#include "storage/shmem.h"

static const Part *const *parts = NULL;
static int	n_parts = 0;

/* Use this list of parts, in this order. */
void
parts_use(const Part *const *list, int n)
{
	parts = list;
	n_parts = n;
}

/* The list of parts; *n is how many there are. */
const Part *const *
parts_list(int *n)
{
	*n = n_parts;
	return parts;
}

/* The size of shared memory that the parts need; each begins on a cache line. */
Size
parts_size(void)
{
	Size		size = 0;

	for (int i = 0; i < n_parts; i++)
		size = add_size(size, CACHELINEALIGN(parts[i]->size()));
	return add_size(size, n_parts * PG_CACHE_LINE_SIZE);
}

/* How many LWLocks the parts need. */
int
parts_locks(void)
{
	int			n = 0;

	for (int i = 0; i < n_parts; i++)
		if (parts[i]->locks)
			n += parts[i]->locks();
	return n;
}

/* Let a part use this memory and these locks.  Returns the locks that follow. */
static LWLockPadded *
start_part(const Part *part, void *memory, LWLockPadded *locks, bool found)
{
	part->startup(memory, locks, found);
	return part->locks ? locks + part->locks() : locks;
}

/*
 * Attach each part's memory, and initialize it when the server starts.  Returns
 * whether it existed already.  The caller holds AddinShmemInitLock.
 */
bool
parts_startup(LWLockPadded *locks)
{
	bool		found = false;

	for (int i = 0; i < n_parts; i++)
	{
		void	   *memory = ShmemInitStruct(parts[i]->name, parts[i]->size(), &found);

		locks = start_part(parts[i], memory, locks, found);
	}
	return found;
}

/*
 * Let the parts use parts_size() bytes of memory, which begin on a cache line, one
 * part after the other, and initialize them if they are new.  The memory may be at
 * another address in each process.
 */
void
parts_place(char *memory, LWLockPadded *locks, bool found)
{
	for (int i = 0; i < n_parts; i++)
	{
		locks = start_part(parts[i], memory, locks, found);
		memory += CACHELINEALIGN(parts[i]->size());
	}
}

/*
 * The part that has records of this kind.  The file of saved state numbers the kinds
 * of all parts consecutively; *kind is replaced by the part's own number of it.
 * Returns NULL if no part has such records.
 */
const Part *
part_of_kind(int *kind)
{
	for (int i = 0; i < n_parts; i++)
	{
		if (*kind < parts[i]->n_kinds)
			return parts[i];
		*kind -= parts[i]->n_kinds;
	}
	return NULL;
}

/*
 * Tell the parts that the database has lost the extension or, if "dropped" is true,
 * has been dropped itself.
 */
void
forget_database(Oid database, bool dropped)
{
	for (int i = 0; i < n_parts; i++)
		if (parts[i]->forget_database)
			parts[i]->forget_database(database, dropped);
}
