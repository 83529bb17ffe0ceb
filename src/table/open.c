/*
 * table/open.c
 *		Opening rate_limit_buckets with its primary key's index, if it still has the
 *		form that the extension gave it.
 *
 * Rows are made and changed past the executor (table/insert.c, table/rows.c), so a
 * table on which the executor would have more to do must be refused: one with
 * triggers, constraints, other types, or indexes on other columns.  A session looks
 * at the form once, and again after each invalidation of the table.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "table/open.h"
#include "table/sql.h"
#include "table/tuple.h"
#include "utils/inval.h"
#include "utils/rel.h"

static const Oid column_types[N_COLUMNS] = {
	TEXTOID, TEXTOID, FLOAT8OID, FLOAT8OID, INT8OID, TIMESTAMPTZOID, INT8OID
};

/* The table whose form has been found right, and its primary key's index. */
static struct
{
	bool		valid;
	bool		changed;		/* it was invalidated while being checked */
	Oid			relid;
	Oid			index;
}			form;

static void
invalidate(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == form.relid)
	{
		form.valid = false;
		form.changed = true;
	}
}

void
rows_init(void)
{
	CacheRegisterRelcacheCallback(invalidate, (Datum) 0);
}

pg_noreturn static void
fail_form(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table rate_limit_buckets has been altered: %s", what),
			 errhint("Undo the change, or drop extension ratelimit and create it again.")));
}

/*
 * Find the primary key's index.  Raise an error if it is missing, or if the table has
 * an index on anything except the names.
 */
static Oid
find_primary_key(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *cell;
	Oid			primary = InvalidOid;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Form_pg_index def = index->rd_index;
		bool		names_only = RelationGetIndexExpressions(index) == NIL &&
			RelationGetIndexPredicate(index) == NIL;

		for (int i = 0; i < def->indnatts; i++)
			names_only &= def->indkey.values[i] == COLUMN_LIMITER ||
				def->indkey.values[i] == COLUMN_KEY;
		if (def->indisprimary && def->indnkeyatts == N_NAMES && def->indisvalid &&
			def->indkey.values[0] == COLUMN_LIMITER &&
			def->indkey.values[1] == COLUMN_KEY)
			primary = lfirst_oid(cell);
		index_close(index, AccessShareLock);
		if (!names_only)
			fail_form("it has an index on columns other than limiter and key");
	}
	list_free(indexes);
	if (!OidIsValid(primary))
		fail_form("its primary key is missing");
	return primary;
}

/* Raise an error if the table's form is not the one that the extension gave it. */
static void
check_form(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (form.valid && form.relid == RelationGetRelid(rel))
		return;
	/* stays false after an error, or after an invalidation during what follows */
	form.valid = false;
	form.changed = false;
	form.relid = RelationGetRelid(rel);

	if (rel->rd_rel->relkind != RELKIND_RELATION ||
		rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		fail_form("it is no ordinary table");
	if (desc->natts < N_COLUMNS)
		fail_form("columns are missing");
	for (int i = 0; i < N_COLUMNS; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		if (column->attisdropped || column->atttypid != column_types[i] ||
			!column->attnotnull)
			fail_form("columns have other types, or may be null");
		if (column->atttypid == TEXTOID && column->attcollation != C_COLLATION_OID)
			fail_form("its names have another collation");
	}
	for (int i = N_COLUMNS; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped && TupleDescAttr(desc, i)->attnotnull)
			fail_form("it has a further column that may not be null");
	if (rel->trigdesc != NULL)
		fail_form("it has triggers");
	if (desc->constr && desc->constr->num_check > 0)
		fail_form("it has CHECK constraints");

	form.index = find_primary_key(rel);
	form.valid = !form.changed;
}

static void
open_locked(Rows *rows, LOCKMODE mode)
{
	rows->mode = mode;
	rows->rel = table_open(sql_relid(SQL_BUCKETS), NoLock);
	check_form(rows->rel);
	rows->index = index_open(form.index, mode);
}

/* Open the table, and lock it in this mode until rows_close(). */
void
rows_open(Rows *rows, LOCKMODE mode)
{
	sql_require(SQL_BUCKETS);
	sql_lock(SQL_BUCKETS, mode);
	open_locked(rows, mode);
}

/* The same, but return false if the lock cannot be had without waiting. */
bool
rows_open_if_free(Rows *rows, LOCKMODE mode)
{
	sql_require(SQL_BUCKETS);
	if (!sql_lock_if_free(SQL_BUCKETS, mode))
		return false;
	open_locked(rows, mode);
	return true;
}

/* Close and unlock the table: what was written does not depend on the transaction. */
void
rows_close(Rows *rows)
{
	index_close(rows->index, rows->mode);
	table_close(rows->rel, rows->mode);
}
