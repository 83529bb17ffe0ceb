/*
 * table/exceptions.c
 *		The rows of rate_limit_exceptions: those of a key, and keeping the filter
 *		(memory/exception_filter.c) up to date with the table.
 *
 * A change of the table reaches every session as an invalidation (decide/exceptions.c),
 * which does not say what has changed.  To read 100,000 rows after each change would be
 * too much, so the filter's mark says up to which position in the WAL it knows the
 * table, and only the pages that were changed after that are read.  The others cost a
 * look at their header.  This relies on nothing that others may leave out: a page that
 * has changed says so on a standby, too, where no trigger fires, and when triggers were
 * disabled.
 *
 * All row versions of a page go into the filter, committed or not, except those that
 * are dead for certain.  So a row is there before its transaction can be committed, and
 * the mark needs no regard for transactions.  The position for the mark is taken before
 * the first page is read.  A page is locked when its header is looked at.  So a change
 * whose record is before that position is on the page by then, and one whose record
 * comes later gives the page a later position.
 *
 * If the table is not an ordinary, logged one, this does not work, and all keys have to
 * be looked for in the table.
 */
#include "postgres.h"

#include <sys/socket.h>

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "core/clock.h"
#include "core/compat.h"
#include "memory/databases.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "table/exceptions.h"
#include "table/sql.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* A table with fewer pages is read by any session, one with more by one at a time. */
#define FEW_PAGES	32

/* After that time another session need not be waited for; it has probably failed. */
#define READING_NS	INT64CONST(2000000000)

/* So many rows are expected on a page. */
#define ROWS_PER_PAGE	64

#define COLUMNS \
	"SELECT e.id, e.policy IS NOT NULL, e.tier, e.action, e.capacity, e.refill," \
	" e.factor, e.expires_at, pg_catalog.masklen(e.network)" \
	" FROM ONLY %1$s.rate_limit_exceptions e WHERE " \
	"(e.policy OPERATOR(pg_catalog.=) $1 OR e.policy IS NULL) AND "

static SqlStatement read_key = {
	COLUMNS "e.key OPERATOR(pg_catalog.=) $2",
	2, {TEXTOID, TEXTOID}
};

static SqlStatement read_key_and_networks = {
	COLUMNS "e.key OPERATOR(pg_catalog.=) $2 UNION ALL "
	COLUMNS "e.network OPERATOR(pg_catalog.=) ANY ($3)",
	3, {TEXTOID, TEXTOID, INETARRAYOID}
};

/* The mark of this session, if its database has none in shared memory. */
static ExceptionMark own_mark;

static ExceptionMark *
my_mark(void)
{
	SharedDatabase *mine = my_shared_database();

	return mine ? &mine->exceptions : &own_mark;
}

/* The columns that the filter needs. */
typedef struct Columns
{
	AttrNumber	key;
	AttrNumber	network;
} Columns;

/* Can changes of the table be told from its pages? */
static bool
can_be_followed(Relation rel, Columns *columns)
{
	Oid			relid = RelationGetRelid(rel);

	columns->key = get_attnum(relid, "key");
	columns->network = get_attnum(relid, "network");
	return rel->rd_rel->relkind == RELKIND_RELATION &&
		rel->rd_rel->relam == HEAP_TABLE_AM_OID && RelationNeedsWAL(rel) &&
		columns->key != InvalidAttrNumber && columns->network != InvalidAttrNumber &&
		get_atttype(relid, columns->key) == TEXTOID &&
		get_atttype(relid, columns->network) == CIDROID;
}

/* Is nobody's snapshot going to see this row version again, as its hints tell? */
static bool
is_dead(HeapTupleHeader tuple)
{
	if (HeapTupleHeaderXminInvalid(tuple))
		return true;
	return (tuple->t_infomask & HEAP_XMAX_COMMITTED) != 0 &&
		(tuple->t_infomask & (HEAP_XMAX_IS_MULTI | HEAP_XMAX_LOCK_ONLY)) == 0;
}

/* Is this a value that is in the row itself, as it is? */
static bool
is_plain(Datum value)
{
	struct varlena *bytes = (struct varlena *) DatumGetPointer(value);

	return !VARATT_IS_EXTERNAL(bytes) && !VARATT_IS_COMPRESSED(bytes);
}

static void
take_network(Address *network, const inet *value)
{
	const unsigned char *bytes = ip_addr(value);

	network->v6 = ip_family(value) != PGSQL_AF_INET;
	network->bits = ip_bits(value);
	network->high = network->low = 0;
	for (int i = 0; network->v6 && i < 8; i++)
		network->high = network->high << 8 | *bytes++;
	for (int i = 0; i < (network->v6 ? 8 : 4); i++)
		network->low = network->low << 8 | *bytes++;
	address_cut(network, network->bits);
}

/*
 * Put the rows of a page into the filter if it has changed after "from".  Adds to
 * *added how many were not there.  Returns false if a row cannot be read here.  The
 * page is locked meanwhile, so this must not throw, allocate or wait.
 */
static bool
read_page(Relation rel, Buffer buffer, const Columns *columns, XLogRecPtr from,
		  ExceptionMark *seen, uint32 *added)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Page		page = BufferGetPage(buffer);

	/* the first reading regards no position: not all pages have one */
	if (PageIsNew(page) || (from != InvalidXLogRecPtr && BufferGetLSNAtomic(buffer) <= from))
		return true;
	for (OffsetNumber offset = FirstOffsetNumber;
		 offset <= PageGetMaxOffsetNumber(page); offset++)
	{
		ItemId		item = PageGetItemId(page, offset);
		HeapTupleData row;
		Datum		value;
		bool		isnull;

		if (!ItemIdIsNormal(item))
			continue;
		row.t_tableOid = RelationGetRelid(rel);
		row.t_len = ItemIdGetLength(item);
		row.t_data = (HeapTupleHeader) PageGetItem(page, item);
		if (is_dead(row.t_data))
			continue;
		value = heap_getattr(&row, columns->key, desc, &isnull);
		if (!isnull)
		{
			text	   *key = (text *) DatumGetPointer(value);

			if (!is_plain(value))
				return false;
			seen->keys = true;
			*added += exception_filter_add_key(VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
		}
		value = heap_getattr(&row, columns->network, desc, &isnull);
		if (!isnull)
		{
			Address		network;

			if (!is_plain(value))
				return false;
			seen->networks = true;
			take_network(&network, (inet *) DatumGetPointer(value));
			*added += exception_filter_add_network(&network);
		}
	}
	return true;
}

/*
 * Begin reading.  *from is set to the mark.  Returns false if another session is
 * reading the whole table, and this one should not.
 */
static bool
begin_reading(const ExceptionMark *seen, BlockNumber pages, ExceptionMark *from)
{
	ExceptionMark *mark = my_mark();
	int64		now = monotonic_ns();
	bool		begun = true;

	/*
	 * The lock sees to it that the generation is not one that is still being made by
	 * emptying the filter: what is added meanwhile might be lost.
	 */
	exception_mark_lock();
	*from = *mark;
	if (mark->generation != pg_atomic_read_u32(&exception_filter.head->generation) ||
		mark->file != seen->file)
	{
		memset(from, 0, sizeof(*from));
		from->generation = pg_atomic_read_u32(&exception_filter.head->generation);
		if (pages > FEW_PAGES)
		{
			begun = mark->reading_until < now;
			if (begun)
				mark->reading_until = now + READING_NS;
		}
	}
	exception_mark_unlock();
	return begun;
}

/*
 * End reading: note what the filter knows now.  Returns false if the filter was emptied
 * meanwhile.
 */
static bool
end_reading(const ExceptionMark *from, ExceptionMark *seen, uint32 added)
{
	ExceptionMark *mark = my_mark();
	bool		good;

	seen->generation = from->generation;
	exception_mark_lock();
	good = pg_atomic_read_u32(&exception_filter.head->generation) == from->generation;
	if (good)
	{
		pg_atomic_fetch_add_u32(&exception_filter.head->added, added);
		if (from->file != seen->file)
			pg_atomic_fetch_add_u32(&exception_filter.head->base, added);

		/* another session may have read more meanwhile */
		if (mark->generation == seen->generation && mark->file == seen->file)
		{
			seen->keys |= mark->keys;
			seen->networks |= mark->networks;
			mark->lsn = Max(mark->lsn, seen->lsn);
		}
		else
		{
			mark->generation = seen->generation;
			mark->file = seen->file;
			mark->lsn = seen->lsn;
		}
		mark->keys = seen->keys;
		mark->networks = seen->networks;
	}
	if (from->file != seen->file)
		mark->reading_until = 0;
	exception_mark_unlock();
	return good;
}

/* Read the pages that have changed. */
static bool
read_changed(Relation rel, const Columns *columns, ExceptionMark *seen)
{
	ExceptionMark from;
	BlockNumber pages;
	uint32		added = 0;

	memset(seen, 0, sizeof(*seen));
	seen->file = relation_file(rel);
	seen->lsn = RecoveryInProgress() ? GetXLogReplayRecPtr(NULL) : GetXLogInsertRecPtr();
	pages = RelationGetNumberOfBlocks(rel);

	exception_filter_attach(Min(pages, (BlockNumber) PG_INT32_MAX / ROWS_PER_PAGE) *
							ROWS_PER_PAGE);
	if (exception_filter_is_full())
		exception_filter_clear();
	if (!begin_reading(seen, pages, &from))
		return false;
	seen->keys = from.keys;
	seen->networks = from.networks;
	for (BlockNumber number = 0; number < pages; number++)
	{
		Buffer		buffer;
		bool		good;

		CHECK_FOR_INTERRUPTS();
		buffer = ReadBuffer(rel, number);
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		good = read_page(rel, buffer, columns, from.lsn, seen, &added);
		UnlockReleaseBuffer(buffer);
		if (!good)
			return false;
	}
	return end_reading(&from, seen, added);
}

/*
 * Bring the filter up to date with the table.  Returns false if that is not possible,
 * at present or at all: then any key may have an exception.  Otherwise *known says of
 * which generation the filter is complete, and whether there may be rows with keys and
 * with networks.
 */
bool
exceptions_read_pages(ExceptionMark *known)
{
	Relation	rel;
	Columns		columns;
	bool		good = false;

	sql_lock(SQL_EXCEPTIONS, AccessShareLock);
	if (!OidIsValid(sql_relid(SQL_EXCEPTIONS)))
		return false;
	rel = table_open(sql_relid(SQL_EXCEPTIONS), NoLock);
	if (can_be_followed(rel, &columns))
		good = read_changed(rel, &columns, known);
	table_close(rel, AccessShareLock);
	return good;
}

/* The networks that the key is in, as far as the filter does not rule them out. */
static Datum
networks_of(const Address *address, const ExceptionMark *known)
{
	Datum		networks[129];
	int			n = 0;
	bool		all = !known;

	for (;;)
	{
		for (int bits = 0; bits <= address->bits; bits++)
		{
			Address		network = *address;
			inet	   *value;
			int			bytes = address->v6 ? 16 : 4;

			if (!all && !exception_filter_has_network(address, bits))
				continue;
			address_cut(&network, bits);
			value = palloc0(sizeof(inet));
			ip_family(value) = address->v6 ? PGSQL_AF_INET6 : PGSQL_AF_INET;
			ip_bits(value) = bits;
			for (int i = 0; i < bytes; i++)
			{
				int			shift = 8 * (bytes - 1 - i);

				ip_addr(value)[i] = shift >= 64 ? network.high >> (shift - 64) :
					network.low >> shift;
			}
			SET_INET_VARSIZE(value);
			networks[n++] = InetPGetDatum(value);
		}
		pg_read_barrier();
		if (all ||
			pg_atomic_read_u32(&exception_filter.head->generation) == known->generation)
			break;
		all = true;
		n = 0;
	}
	return PointerGetDatum(construct_array(networks, n, INETOID, -1, false, TYPALIGN_INT));
}

/* Read what a row says.  Returns false if it says nothing that makes sense. */
static bool
read_row(ExceptionRow *result, HeapTuple row, TupleDesc desc)
{
	static const char *const actions[] = {
		[EXCEPTION_ALLOW] = "allow",
		[EXCEPTION_DENY] = "deny",
		[EXCEPTION_RULE] = "rule",
		[EXCEPTION_FACTOR] = "factor"
	};
	char	   *tier = SPI_getvalue(row, desc, 3);
	char	   *action = SPI_getvalue(row, desc, 4);
	bool		null[4];
	Datum		masklen;
	bool		isnull;
	int			i;

	memset(result, 0, sizeof(*result));
	result->id = DatumGetInt64(SPI_getbinval(row, desc, 1, &isnull));
	masklen = SPI_getbinval(row, desc, 9, &isnull);

	/* the key is worth more than any network; a tier more than a policy alone */
	result->rank = (isnull ? 129 : DatumGetInt32(masklen)) * 4 + (tier ? 2 : 0);
	if (DatumGetBool(SPI_getbinval(row, desc, 2, &isnull)))
		result->rank++;
	if (tier)
	{
		result->tier_len = strlen(tier);
		if (result->tier_len == 0 || result->tier_len > MAX_LIMITER_LEN)
			return false;
		memcpy(result->tier, tier, result->tier_len);
	}
	result->capacity = DatumGetFloat8(SPI_getbinval(row, desc, 5, &null[0]));
	result->refill = DatumGetFloat8(SPI_getbinval(row, desc, 6, &null[1]));
	result->factor = DatumGetFloat8(SPI_getbinval(row, desc, 7, &null[2]));
	result->expires_at = DatumGetTimestampTz(SPI_getbinval(row, desc, 8, &null[3]));
	if (null[3])
		result->expires_at = DT_NOEND;

	/* nothing here relies on the table's constraints, which its owner may drop */
	for (i = 0; i < lengthof(actions); i++)
		if (action && strcmp(action, actions[i]) == 0)
			break;
	result->action = i;
	return i < lengthof(actions) &&
		(i != EXCEPTION_RULE || (!null[0] && !null[1])) &&
		(i != EXCEPTION_FACTOR || (!null[2] && result->factor > 0));
}

/* Sort by rank, the highest first. */
static int
compare_rows(const void *a, const void *b)
{
	const ExceptionRow *x = a;
	const ExceptionRow *y = b;

	if (x->rank != y->rank)
		return y->rank - x->rank;
	return x->id < y->id ? -1 : x->id > y->id;
}

/*
 * Read the rows for a key under a policy, the one that wins first, into memory of this
 * context.  If "known" is not NULL, the filter is complete in that generation.
 */
ExceptionRow *
exceptions_read_rows(const char *policy, int policy_len, const char *key, int key_len,
					 const ExceptionMark *known, MemoryContext context, int *n)
{
	SqlCaller	caller = sql_begin();
	SqlStatement *statement = &read_key;
	ExceptionRow *rows = NULL;
	Datum		values[3];
	Address		address;

	*n = 0;
	sql_lock(SQL_EXCEPTIONS, AccessShareLock);
	values[0] = PointerGetDatum(cstring_to_text_with_len(policy, policy_len));
	values[1] = PointerGetDatum(cstring_to_text_with_len(key, key_len));
	if ((!known || known->networks) && address_parse(key, key_len, &address))
	{
		values[2] = networks_of(&address, known);
		statement = &read_key_and_networks;
	}
	sql_push_latest_snapshot();
	sql_execute(statement, values, NULL, true);
	PopActiveSnapshot();

	if (SPI_processed > 0)
		rows = MemoryContextAllocHuge(context, SPI_processed * sizeof(ExceptionRow));
	for (uint64 i = 0; i < SPI_processed; i++)
		if (read_row(&rows[*n], SPI_tuptable->vals[i], SPI_tuptable->tupdesc))
			(*n)++;
	if (*n > 1)
		qsort(rows, *n, sizeof(ExceptionRow), compare_rows);
	sql_end(caller);
	return rows;
}
