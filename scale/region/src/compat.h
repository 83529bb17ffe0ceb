/*
 * compat.h
 *		What differs between the versions of PostgreSQL.
 */
#ifndef REGION_COMPAT_H
#define REGION_COMPAT_H

#include "storage/latch.h"
#include "utils/acl.h"
#include "utils/resowner.h"

#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#define guc_variables(n) get_guc_variables(n)
#define may_execute(function) \
	(object_aclcheck(ProcedureRelationId, (function), GetUserId(), ACL_EXECUTE) == ACLCHECK_OK)
#else
#define guc_variables(n) (*(n) = GetNumConfigOptions(), get_guc_variables())
#define may_execute(function) \
	(pg_proc_aclcheck((function), GetUserId(), ACL_EXECUTE) == ACLCHECK_OK)
#endif

#if PG_VERSION_NUM >= 180000
#include "storage/waiteventset.h"
#endif

#if PG_VERSION_NUM >= 170000
#define create_wait_event_set(n) CreateWaitEventSet(NULL, (n))
#else
#define create_wait_event_set(n) CreateWaitEventSet(CurrentMemoryContext, (n))
#endif

#endif							/* REGION_COMPAT_H */
