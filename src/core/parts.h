/*
 * core/parts.h
 *		The parts of the extension that keep something in shared memory.
 *
 * Each part says by a Part what it needs, beside what it does.  ratelimit.c lists all
 * of them; nothing else knows which there are.  See core/parts.c.
 */
#ifndef RATELIMIT_PARTS_H
#define RATELIMIT_PARTS_H

#include "storage/lwlock.h"

struct Saving;					/* core/saved_file.h */
struct Loading;

/* Pointers may be null where a part has nothing to do. */
typedef struct Part
{
	const char *name;			/* of its shared memory */
	Size		(*size) (void);
	int			(*locks) (void);	/* how many it needs */

	/* attach the memory, and make it if it was not found */
	void		(*startup) (void *memory, LWLockPadded *locks, bool found);

	/* the database's extension is gone, or the database itself; cannot fail */
	void		(*forget_database) (Oid database, bool dropped);

	/*
	 * What is saved for the next start (core/saved_file.c): records of so many kinds,
	 * numbered from 0.  Those of the last kind are taken by one start only, if the part
	 * has "pending" ones.
	 */
	int			n_kinds;
	bool		pending;
	void		(*save) (struct Saving *saving);
	/* false if the record makes no sense */
	bool		(*load) (int kind, const char *record, Size size, struct Loading *loading);
	void		(*loaded) (void);	/* all parts are */
} Part;

#define MAX_PARTS	16

extern void parts_use(const Part *const *list, int n);
extern const Part *const *parts_list(int *n);
extern Size parts_size(void);
extern int	parts_locks(void);
extern bool parts_startup(LWLockPadded *locks);
extern void forget_database(Oid database, bool dropped);

#endif							/* RATELIMIT_PARTS_H */
