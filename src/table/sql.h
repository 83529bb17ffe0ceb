/*
 * table/sql.h
 *		Statements on the extension's own tables: see table/sql.c.
 */
#ifndef RATELIMIT_SQL_H
#define RATELIMIT_SQL_H

#include "executor/spi.h"
#include "storage/lockdefs.h"

#define SQL_MAX_ARGS	8

/* A statement, which is prepared when it is first executed. */
typedef struct SqlStatement
{
	const char *sql;			/* %1$s is the extension's schema, quoted */
	int			nargs;
	Oid			types[SQL_MAX_ARGS];
	SPIPlanPtr	plan;			/* prepared for this generation ... */
	uint32		generation;		/* ... of the schema's name */
} SqlStatement;

/* The extension's tables. */
typedef enum SqlTable
{
	SQL_BUCKETS,
	SQL_VIOLATIONS,
	SQL_FLAGS,
	SQL_POLICIES,
	SQL_EXCEPTIONS,
	SQL_POSTGREST_RULES,
	SQL_TICKETS,
	SQL_RESERVED
} SqlTable;

#define SQL_TABLES	(SQL_RESERVED + 1)

/* The user and security context that sql_end() restores. */
typedef struct SqlCaller
{
	Oid			user;
	int			context;
} SqlCaller;

extern void sql_init(void);
extern bool sql_available(void);
extern void sql_require(SqlTable table);
extern Oid	sql_relid(SqlTable table);
extern SqlCaller sql_begin(void);
extern int	sql_restrict_names(Oid user);
extern void sql_lock(SqlTable table, LOCKMODE mode);
extern bool sql_lock_if_free(SqlTable table, LOCKMODE mode);
extern char *sql_lock_within(SqlTable table, LOCKMODE mode, int ms);
extern void sql_execute(SqlStatement *statement, Datum *values,
						const char *nulls, bool read_only);
extern void sql_push_latest_snapshot(void);
extern void sql_end(SqlCaller caller);
extern ErrorData *sql_try_all(void (*work) (void *arg), void *arg);
extern ErrorData *sql_try(void (*work) (void *arg), void *arg);

#endif							/* RATELIMIT_SQL_H */
