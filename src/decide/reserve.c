/*
 * decide/reserve.c
 *		Reservations: keeping them, settling them, and undoing them on rollback.
 *
 * A reservation is made of tokens that have been taken from its buckets.  It only
 * says that the caller will tell how many of them were used, and then the rest is
 * given back (or what was used beyond them is taken, too).  At every moment the tokens
 * taken are those used, those of outstanding reservations and those given back.  A
 * reservation that expires without being settled has used all its tokens.
 *
 * Reservations are in shared memory (memory/reservations.c), and in the table
 * rate_limit_reserved if memory has no room, or if there is none (table/reserved.c).
 *
 * Settling, like consuming, is not transactional, and a reservation must not be
 * settled twice, whatever is rolled back.  A row cannot ensure that.  So a reservation
 * in the table has a bucket of its own, like a block (decide/blocks.c): it owes the
 * time until the reservation expires, and settling makes it full.  Exactly one session
 * finds it not full and does so.  It is in whichever store buckets are in, and never
 * depends on a transaction.  The row only says what the tokens are of.  If the
 * transaction that made a reservation is rolled back, its row is gone and nobody can
 * settle it: then all its tokens are used, or, with ratelimit.refund_on_rollback,
 * given back.
 *
 * Refunds.  With ratelimit.refund_on_rollback on, a reservation that is rolled back
 * gives its tokens back, and is no longer outstanding.  If it was settled in the same
 * transaction, the tokens used are given back when the settling is rolled back.  If
 * another session has settled it meanwhile, nothing is.  So its tokens are not noted
 * as those of other calls are (decide/refunds.c), but with the reservation, in a list
 * of those that the transaction has made.  The list is in order of time, so those of
 * a subtransaction and of the ones inside it are at its end.
 *
 * In shared memory a reservation does not depend on the transaction that made it.
 * Its caller, or whoever has its number, can settle it before or after a rollback.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "core/clock.h"
#include "core/compat.h"
#include "core/role.h"
#include "core/settings.h"
#include "core/transaction.h"
#include "decide/errors.h"
#include "decide/one.h"
#include "decide/refunds.h"
#include "decide/reserve.h"
#include "decide/stores.h"
#include "memory/administration.h"
#include "memory/consume.h"
#include "memory/partitions.h"
#include "memory/spill.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "table/reserved.h"
#include "table/sql.h"
#include "table/store.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* The capacity of the bucket that stands for a reservation; it refills by 1 a second. */
#define OUTSTANDING_SECONDS	1e6

/*
 * Buckets
 */

/*
 * Give back the tokens of a bucket that were not used, or take those that were used
 * beyond; returns what the bucket then has.
 *
 * The bucket's own parameters count.  It may be in another store than it was, be full
 * again, or have been reset: no more is given back than it has room for.
 */
static double
settle_bucket(const Reservation *reservation, int i, double used)
{
	const ReservedRule *rule = &reservation->rules[i];
	double		left = rule->capacity;
	BucketId	id;
	BucketRule	reserved;
	BucketRule	beyond;
	Decision	decision;
	bool		in_table;

	reservation_bucket(reservation, i, &id);
	settle_place(&id);
	in_table = !RecoveryInProgress() &&
		(!memory_attached() || spill_is_set(memory_partition(id.hash)));

	/* the table first, as a bucket may move from the table to memory, but not back */
	if ((in_table && table_settle(&id, reservation->tokens, used, &left)) ||
		(memory_attached() && memory_settle(&id, reservation->tokens, used, &left)) ||
		used <= reservation->tokens)
		return left;

	/* the bucket is full, or was that of a period that is over */
	if (bucket_in_period(rule->refill) && period_is_over(rule->refill, 0))
		return left;
	bucket_rule(&reserved, rule->capacity, rule->refill, reservation->tokens);
	bucket_rule(&beyond, rule->capacity, rule->refill, used);
	beyond.take -= reserved.take;
	bucket_rule_for_debt(&beyond);
	take_tokens(&id, &beyond, &decision);
	return bucket_tokens(&beyond, decision.owed);
}

/*
 * Undoing
 */

/* A reservation that this transaction has made while refunds were on. */
typedef struct Made
{
	SubTransactionId subxact;
	Reservation *reservation;	/* allocated as large as it is; NULL: settled */
} Made;

/* In TopTransactionContext, in order of time. */
static Made *made = NULL;
static int	n_made = 0;
static int	max_made = 0;

/* Give back what a reservation has taken, as far as it is not settled. */
static void
give_back(const Reservation *reservation)
{
	for (int i = reservation->n_settled; i < reservation->n; i++)
	{
		BucketId	id;

		reservation_bucket(reservation, i, &id);
		refund_give(&id, reservation->tokens);
	}
}

/*
 * Give back what reservations took that the aborted subtransactions have made.  One that
 * has expired has used all its tokens, in either store.
 */
static void
undo_made(SubTransactionId aborted)
{
	for (; n_made > 0 && made[n_made - 1].subxact >= aborted; n_made--)
	{
		Reservation *reservation = made[n_made - 1].reservation;
		Reservation outstanding;

		if (!reservation)
			continue;
		if (reservation->number & NUMBER_IN_TABLE)
		{
			if (reservation->expires_at <= monotonic_ns())
				continue;
			memcpy(&outstanding, reservation, reservation_size(reservation));
		}
		else if (!reservations_begin(reservation->number, MyDatabaseId, &outstanding))
			continue;
		give_back(&outstanding);
		if (!(outstanding.number & NUMBER_IN_TABLE))
			reservations_end(&outstanding, true);
	}
}

static void
at_subxact_end(SubXactEvent event, SubTransactionId mine, SubTransactionId parent,
			   void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		for (int i = n_made - 1; i >= 0 && made[i].subxact >= mine; i--)
			made[i].subxact = parent;
}

static void
at_xact_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
	{
		made = NULL;
		n_made = max_made = 0;
	}
}

/* undo_made(), and forget the list at the end of the transaction. */
static void
before_undo(SubTransactionId aborted)
{
	undo_made(aborted);
	if (aborted == TopSubTransactionId)
	{
		made = NULL;
		n_made = max_made = 0;
	}
}

/*
 * Make ready for a reservation on n buckets, before anything is taken: make room to
 * note it, and see whether it can be kept at all.
 */
void
reserve_prepare(int n)
{
	static bool called = false;

	refund_reserve(2 * n);
	if (!refund_setting)
		return;
	call_at_ends(&called, at_xact_end, at_subxact_end);
	refund_before_undo = before_undo;
	if (n_made >= max_made)
	{
		int			wanted = Max(2 * max_made, 16);

		made = made ? repalloc_huge(made, wanted * sizeof(Made)) :
			MemoryContextAllocHuge(TopTransactionContext, wanted * sizeof(Made));
		max_made = wanted;
	}
}

/*
 * Note a reservation, to be undone on rollback.  "copy" is in TopTransactionContext;
 * reserve_prepare() has made room.
 */
static void
note_made(Reservation *copy)
{
	made[n_made].subxact = GetCurrentSubTransactionId();
	made[n_made].reservation = copy;
	n_made++;
}

/* What is noted of a reservation that this transaction has made, or NULL. */
static Reservation *
find_made(int64 number)
{
	for (int i = n_made - 1; i >= 0; i--)
		if (made[i].reservation && made[i].reservation->number == number)
			return made[i].reservation;
	return NULL;
}

/*
 * A bucket of a reservation that this transaction has made has been settled.  What was
 * used of it is noted as what other calls take; the caller has made room for that.
 */
static void
note_bucket_settled(Reservation *mine, int i, double used)
{
	BucketId	id;

	mine->n_settled = i + 1;
	if (used <= 0)
		return;
	reservation_bucket(mine, i, &id);
	refund_note(&id, used);
}

/* A reservation has been settled: nothing is left to be given back. */
static void
forget_made(int64 number)
{
	for (int i = n_made - 1; i >= 0; i--)
		if (made[i].reservation && made[i].reservation->number == number)
		{
			made[i].reservation = NULL;
			break;
		}
	while (n_made > 0 && !made[n_made - 1].reservation)
		n_made--;
}

/*
 * Keeping
 */

/* The bucket that stands for a reservation in the table while it is outstanding. */
typedef struct Outstanding
{
	BucketId	id;
	BucketRule	rule;
	char		key[24];
} Outstanding;

static void
make_outstanding(Outstanding *bucket, int64 number)
{
	int			len = snprintf(bucket->key, sizeof(bucket->key), INT64_FORMAT, number);

	make_bucket_id(&bucket->id, MyDatabaseId, RESERVED_LIMITER, strlen(RESERVED_LIMITER),
				   bucket->key, len);
	bucket_rule(&bucket->rule, OUTSTANDING_SECONDS, 1, 0);
}

/* What reserve_keep() gives to its helpers. */
typedef struct Keep
{
	Reservation reservation;
	int64		expires;		/* nanoseconds from now */
} Keep;

pg_noreturn static void
fail_to_keep(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
			 errmsg("cannot keep a reservation %s",
					RecoveryInProgress() ? "during recovery" :
					IsInParallelMode() ? "in a parallel query" :
					"in a read-only transaction"),
			 errdetail("%s, and the table of reservations cannot be written here.",
					   memory_attached() ?
					   "Shared memory has no room for another reservation of this role" :
					   "There is no shared memory"),
			 memory_attached() ? errhint("Increase ratelimit.max_reservations.") :
			 hint_shared_memory("reservations")));
}

/* Keep a reservation in the table.  If this fails, it is not kept. */
static void
keep_in_table(void *arg)
{
	Keep	   *keep = arg;
	Outstanding bucket;

	if (!reserved_can_write())
		fail_to_keep();
	keep->reservation.number = reservation_number() | NUMBER_IN_TABLE;
	make_outstanding(&bucket, keep->reservation.number);
	reserved_insert(&keep->reservation,
					GetCurrentTimestamp() + (keep->expires + 999) / 1000);
	injection_point("ratelimit-reservation-inserted");
	set_bucket(&bucket.id, &bucket.rule, keep->expires);
}

/* keep_in_table(); an error that ratelimit.on_error decides is a warning. */
static ReserveResult
try_to_keep_in_table(Keep *keep, const BucketId *id)
{
	ErrorData  *error;
	Decision	decision;

	if (!errors_are_decided())
	{
		keep_in_table(keep);
		return RESERVED;
	}
	error = sql_try(keep_in_table, keep);
	if (!error)
		return RESERVED;
	decide_by_setting(&decision);
	warn_undecided(id, &decision, error->sqlerrcode, error->message);
	FreeErrorData(error);
	return decision.allowed ? RESERVE_ALLOWED : RESERVE_DENIED;
}

/*
 * Note that the transaction has taken so many tokens from each of the buckets, or, below
 * 0, that it has not.
 */
static void
note_taken(const Reservation *reservation, double tokens)
{
	for (int i = 0; i < reservation->n && tokens != 0; i++)
	{
		BucketId	id;

		reservation_bucket(reservation, i, &id);
		refund_note(&id, tokens);
	}
}

/*
 * Keep a reservation.
 *
 * Keeping it in a table may fail in any way, and tokens must not be given back while an
 * error is being handled, because a bucket may be in a table, too.  So they are noted as
 * those of calls are that a rollback undoes, until they are kept.  With
 * ratelimit.refund_on_rollback on, deciding has noted them.
 */
static ReserveResult
keep_somewhere(Keep *keep, const BucketId *id)
{
	double		tokens = refund_setting ? 0 : keep->reservation.tokens;
	ReserveResult result;

	if (reservations_put(&keep->reservation))
		return RESERVED;
	note_taken(&keep->reservation, tokens);
	result = try_to_keep_in_table(keep, id);
	note_taken(&keep->reservation, -tokens);
	return result;
}

static void
fill_in(Reservation *reservation, const BucketCall *calls, int n, double tokens)
{
	char	   *end = reservation->names + calls[0].id.key_len;

	memset(reservation, 0, sizeof(*reservation));
	reservation->tokens = tokens;
	reservation->database = MyDatabaseId;
	reservation->role = calling_role();
	reservation->n = n;
	reservation->key_len = calls[0].id.key_len;
	memcpy(reservation->names, calls[0].id.key, calls[0].id.key_len);
	for (int i = 0; i < n; i++)
	{
		reservation->limiter_lens[i] = calls[i].id.limiter_len;
		reservation->rules[i].capacity = calls[i].rule.capacity;
		reservation->rules[i].refill = bucket_in_period(calls[i].rule.refill) ?
			taken_in_period(&calls[i].rule, &calls[i].decision) : calls[i].rule.refill;
		memcpy(end, calls[i].id.limiter, calls[i].id.limiter_len);
		end += calls[i].id.limiter_len;
	}
}

/*
 * Keep the tokens that these calls, on buckets of the same key, have taken as a
 * reservation, which expires after so many nanoseconds.  reserve_prepare() has been
 * called before they were taken, and they have been counted.  If they cannot be kept,
 * they are given back.
 */
ReserveResult
reserve_keep(const BucketCall *calls, int n, double tokens, int64 expires,
			 int64 *number)
{
	Keep		keep = {.expires = expires};
	Reservation *copy = NULL;
	ReserveResult result;

	fill_in(&keep.reservation, calls, n, tokens);
	keep.reservation.expires_at = monotonic_ns() + expires;

	if (refund_setting)
		copy = MemoryContextAlloc(TopTransactionContext,
								  reservation_size(&keep.reservation));
	result = keep_somewhere(&keep, &calls[0].id);
	/* a rollback gives a reservation back, and not what it consists of */
	if (refund_setting)
		note_taken(&keep.reservation, -tokens);
	if (result != RESERVED)
	{
		give_back(&keep.reservation);
		return result;
	}
	if (copy)
	{
		memcpy(copy, &keep.reservation, reservation_size(&keep.reservation));
		note_made(copy);
	}
	*number = keep.reservation.number;
	return RESERVED;
}

/*
 * Settling
 */

/*
 * Settle the buckets that are not settled yet.  n_settled says how far that has got,
 * if it fails.  "mine" is what is noted of the reservation, or NULL.  Returns the tokens
 * that the emptiest bucket then has.
 */
static double
settle_buckets(Reservation *reservation, double used, Reservation *mine)
{
	double		least = 0;

	for (int i = reservation->n_settled, first = i; i < reservation->n; i++)
	{
		double		left = settle_bucket(reservation, i, used);

		least = i == first ? left : Min(left, least);
		reservation->n_settled = i + 1;
		if (mine)
			note_bucket_settled(mine, i, used);
		injection_point("ratelimit-bucket-settled");
	}
	return least;
}

/* The same as reservations_begin(), for a reservation in the table. */
static bool
begin_in_table(int64 number, Reservation *reservation)
{
	Outstanding bucket;

	if (RecoveryInProgress() || !reserved_find(number, reservation))
		return false;
	make_outstanding(&bucket, number);
	return reset_bucket(&bucket.id);
}

/* What to settle, for sql_try_all(). */
typedef struct Settle
{
	Reservation reservation;
	Reservation *mine;			/* what find_made() says */
	double		used;
	double		left;
} Settle;

static void
settle(void *arg)
{
	Settle	   *what = arg;

	injection_point("ratelimit-reservation-begun");
	what->left = settle_buckets(&what->reservation, what->used, what->mine);
}

/* Settling one in memory has failed: what is not settled of it is outstanding again. */
static void
not_settled(int code, Datum arg)
{
	reservations_end((const Reservation *) DatumGetPointer(arg), false);
}

static bool
settle_in_memory(int64 number, Settle *what)
{
	if (!reservations_begin(number, MyDatabaseId, &what->reservation))
		return false;
	PG_ENSURE_ERROR_CLEANUP(not_settled, PointerGetDatum(&what->reservation));
	{
		settle(what);
	}
	PG_END_ENSURE_ERROR_CLEANUP(not_settled, PointerGetDatum(&what->reservation));
	reservations_end(&what->reservation, true);
	return true;
}

/*
 * One in the table is all or nothing.  If settling fails it is outstanding again, unless
 * a part of it is settled or the session ends here: then what is left has been used, and
 * only that is given back when the transaction that made it is rolled back.
 */
static bool
settle_in_table(int64 number, Settle *what)
{
	ErrorData  *error;
	Outstanding bucket;
	Owed		left;

	if (!begin_in_table(number, &what->reservation))
		return false;
	if (IsInParallelMode())
	{
		/* there are no subtransactions, so a failure is as if the session ended here */
		settle(what);
		return true;
	}
	error = sql_try_all(settle, what);
	if (!error)
		return true;
	left = (Owed) what->reservation.expires_at - monotonic_ns();
	if (what->reservation.n_settled == 0 && left > 0)
	{
		make_outstanding(&bucket, number);
		set_bucket(&bucket.id, &bucket.rule, Min(left, bucket.rule.window));
	}
	ReThrowError(error);
}

/*
 * Settle a reservation: so many of its tokens were used.  Returns false if there is
 * none of this number in this database that is outstanding.  *left is how many tokens
 * its bucket then has, or the emptiest of them.
 */
bool
reserve_settle(int64 number, double used, double *left)
{
	Settle		what = {.mine = find_made(number),.used = used};

	if (number <= 0)
		return false;
	if (refund_setting || n_made > 0)
		refund_reserve(MAX_RESERVED);
	if (!((number & NUMBER_IN_TABLE) ? settle_in_table(number, &what) :
		  settle_in_memory(number, &what)))
		return false;
	forget_made(number);
	*left = what.left;
	return true;
}

/*
 * Showing
 */

typedef struct Show
{
	ShowReservation show;
	void	   *arg;
} Show;

/* Show a row, if its reservation is outstanding. */
static void
show_row(const Reservation *reservation, TimestampTz expires_at, void *arg)
{
	Show	   *show = arg;
	Outstanding bucket;
	Decision	decision;

	make_outstanding(&bucket, reservation->number);
	begin_decision(&decision);
	look_at_bucket(&bucket.id, &bucket.rule, &decision);
	if (decision.owed > 0)
		show->show(reservation, expires_at, true, show->arg);
}

/* Call show() for each reservation of this database that is outstanding. */
void
reserve_show(ShowReservation show, void *arg)
{
	Show		shown = {show, arg};

	if (!RecoveryInProgress())
		reserved_show(show_row, &shown);
	for (int place = 0; place < reservations_places(); place++)
	{
		Reservation reservation;

		if (place % 1024 == 0)
			CHECK_FOR_INTERRUPTS();
		if (reservations_view(place, MyDatabaseId, &reservation))
		{
			Owed		left = (Owed) reservation.expires_at - monotonic_ns();

			show(&reservation, GetCurrentTimestamp() + Max(left, 0) / 1000, false, arg);
		}
	}
}
