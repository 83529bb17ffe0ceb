/*
 * table/exceptions.h
 *		The rows of rate_limit_exceptions: see table/exceptions.c.
 */
#ifndef RATELIMIT_TABLE_EXCEPTIONS_H
#define RATELIMIT_TABLE_EXCEPTIONS_H

#include "core/address.h"
#include "core/names.h"
#include "datatype/timestamp.h"
#include "memory/exception_filter.h"

typedef enum ExceptionAction
{
	EXCEPTION_ALLOW,
	EXCEPTION_DENY,
	EXCEPTION_RULE,				/* another capacity and refill */
	EXCEPTION_FACTOR			/* a multiple of capacity and refill */
} ExceptionAction;

/* A row for a key. */
typedef struct ExceptionRow
{
	int64		id;
	int			rank;			/* the row with the highest rank wins */
	ExceptionAction action;
	double		capacity;
	double		refill;
	double		factor;
	TimestampTz expires_at;		/* DT_NOEND: never */
	int			tier_len;		/* 0: all tiers */
	char		tier[MAX_LIMITER_LEN];
} ExceptionRow;

extern bool exceptions_read_pages(ExceptionMark *known);
extern ExceptionRow *exceptions_read_rows(const char *policy, int policy_len,
										  const char *key, int key_len,
										  const ExceptionMark *known,
										  MemoryContext context, int *n);

#endif							/* RATELIMIT_TABLE_EXCEPTIONS_H */
