/*
 * core/oids.h
 *		Short lists of OIDs in arrays of the caller, each OID once.
 *
 * A PostgreSQL List of OIDs would not do: these are also filled while an LWLock is held,
 * where nothing may be allocated.
 */
#ifndef RATELIMIT_OIDS_H
#define RATELIMIT_OIDS_H

/* Is the OID among the first n of the list? */
static inline bool
oids_have(const Oid *list, int n, Oid oid)
{
	for (int i = 0; i < n; i++)
		if (list[i] == oid)
			return true;
	return false;
}

/*
 * Add an OID to a list of n, unless the list has it, or has "max" already.  Return how
 * many the list then has.
 */
static inline int
oids_add(Oid *list, int n, int max, Oid oid)
{
	if (n < max && !oids_have(list, n, oid))
		list[n++] = oid;
	return n;
}

#endif							/* RATELIMIT_OIDS_H */
