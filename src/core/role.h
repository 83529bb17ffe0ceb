/*
 * core/role.h
 *		Whose calls these are.
 */
#ifndef RATELIMIT_ROLE_H
#define RATELIMIT_ROLE_H

#include "miscadmin.h"

/*
 * The role that makes the call: that of the session, or of its SET ROLE, also inside a
 * SECURITY DEFINER function, which many roles may share.  But where PostgreSQL
 * executes code of a table's owner for others, as an index expression in ANALYZE or
 * in autovacuum, it is the owner.
 */
static inline Oid
calling_role(void)
{
	return InSecurityRestrictedOperation() ? GetUserId() : GetOuterUserId();
}

#endif							/* RATELIMIT_ROLE_H */
