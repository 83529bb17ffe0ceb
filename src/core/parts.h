/*
 * core/parts.h
 *		The parts of the extension that keep something in shared memory.
 *
 * Each part describes itself in a Part: what it needs, and which of its functions to
 * call when.  ratelimit.c has the list of all parts; nothing else knows which exist.
 * See core/parts.c.
 */
#ifndef RATELIMIT_PARTS_H
#define RATELIMIT_PARTS_H

#include "storage/lwlock.h"

struct Saving;					/* core/saved_file.h */
struct Loading;

/*
 * Functions other than size() and startup() may be null if the part has nothing to
 * do.
 */
typedef struct Part
{
	const char *name;			/* of the part's shared memory */
	Size		(*size) (void);
	int			(*locks) (void);	/* how many LWLocks it needs */

	/*
	 * Attach the memory, and initialize it if it was not found.  It must hold no
	 * pointers: it may be at another address in each process (core/late.c).
	 */
	void		(*startup) (void *memory, LWLockPadded *locks, bool found);

	/* the database has lost the extension, or has been dropped; cannot fail */
	void		(*forget_database) (Oid database, bool dropped);

	/*
	 * What the part saves for the next start (core/saved_file.c): records of n_kinds
	 * kinds, numbered from 0.  If "pending" is true, only one start takes the records
	 * of the last kind.
	 */
	int			n_kinds;
	bool		pending;
	void		(*save) (struct Saving *saving);
	/* check or take a record; false if it makes no sense */
	bool		(*load) (int kind, const char *record, Size size, struct Loading *loading);
} Part;

/* Limits on the records that parts save. */
#define MAX_SAVED_SIZE	2048	/* bytes in a record */
#define MAX_SAVED_KINDS 16		/* kinds of records, of all parts together */

extern void parts_use(const Part *const *list, int n);
extern const Part *const *parts_list(int *n);
extern Size parts_size(void);
extern int	parts_locks(void);
extern bool parts_startup(LWLockPadded *locks);
extern void parts_place(char *memory, LWLockPadded *locks, bool found);
extern const Part *part_of_kind(int *kind);
extern void forget_database(Oid database, bool dropped);

#endif							/* RATELIMIT_PARTS_H */
