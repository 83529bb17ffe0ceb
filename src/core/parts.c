/*
 * core/parts.c
 *		What is done for all parts of the extension, one after the other.
 */
#include "postgres.h"

#include "core/parts.h"
#include "storage/shmem.h"

static const Part *const *parts = NULL;
static int	n_parts = 0;

/* These are the parts, in this order. */
void
parts_use(const Part *const *list, int n)
{
	parts = list;
	n_parts = n;
}

const Part *const *
parts_list(int *n)
{
	*n = n_parts;
	return parts;
}

/* The shared memory that all parts need, each of which begins a cache line. */
Size
parts_size(void)
{
	Size		size = 0;

	for (int i = 0; i < n_parts; i++)
		size = add_size(size, CACHELINEALIGN(parts[i]->size()));
	return add_size(size, n_parts * PG_CACHE_LINE_SIZE);
}

int
parts_locks(void)
{
	int			n = 0;

	for (int i = 0; i < n_parts; i++)
		if (parts[i]->locks)
			n += parts[i]->locks();
	return n;
}

/*
 * Attach each part's memory, and make it when the server starts: was it there?  The
 * caller holds AddinShmemInitLock.
 */
bool
parts_startup(LWLockPadded *locks)
{
	bool		found = false;

	for (int i = 0; i < n_parts; i++)
	{
		void	   *memory = ShmemInitStruct(parts[i]->name, parts[i]->size(), &found);

		parts[i]->startup(memory, locks, found);
		if (parts[i]->locks)
			locks += parts[i]->locks();
	}
	return found;
}

/* The database's extension is gone, or, if it was dropped, the database itself. */
void
forget_database(Oid database, bool dropped)
{
	for (int i = 0; i < n_parts; i++)
		if (parts[i]->forget_database)
			parts[i]->forget_database(database, dropped);
}
