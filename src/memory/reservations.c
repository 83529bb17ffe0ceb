/*
 * memory/reservations.c
 *		Reservations in shared memory: putting them there, and finding them by their
 *		numbers.
 *
 * A reservation's tokens are taken from its buckets before it is put here, and
 * whatever is to be given back is given back by whoever takes it out: this file knows
 * nothing of buckets (decide/reserve.c).  So when a reservation expires nothing has
 * to happen.  Its tokens stay taken, and its place may be used again.
 *
 * Places are in groups of 16.  A reservation's number gives the group, so finding it
 * and finding a place looks at 16 places, however many there are.  A number is random
 * and has 61 bits that nobody can know, because everybody who has it may settle the
 * reservation.  If the group has no room, another number is tried, a few times; after
 * that there is no room, and the caller keeps the reservation in the table.
 *
 * A role gets at most 12 of the 16 places of each group.  So a role that reserves and
 * never settles uses up its own share, and leaves the others theirs.  It is the role
 * that the session has logged in as or has SET ROLE to, as in violations/shares.c.
 *
 * A lock for each 16th of the groups protects the reservations in them.  It is held
 * while 16 places are looked at and one is copied.  No other lock is taken while
 * holding one, and nothing that can fail happens then.
 *
 * Who settles a reservation first marks it as busy, so that nobody else can, and
 * empties its place at the end, or takes the mark away if settling has failed.  If
 * the reservation expires meanwhile, its place may be used again: then the number
 * there is another.
 *
 * Saved for the next start are only the reservations of a clean stop, and only a
 * start that lost nothing takes them.  A file that is saved while calls are made has
 * buckets and reservations of different moments.  After a crash, giving back tokens
 * of a reservation that the file has might give back what was given back before, so
 * it is as if all reservations had expired.
 */
#include "postgres.h"

#include <math.h>

#include "core/bucket.h"
#include "core/clock.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "memory/reservations.h"
#include "miscadmin.h"
#include "port/atomics.h"

#define GROUP				16	/* places in a group */
#define SHARE				12	/* the most of them that a role gets */
#define TRIES				4	/* groups to look for room in */
#define LOCKS				16

StaticAssertDecl(sizeof(Reservation) <= MAX_SAVED_SIZE, "a record is too large");

static Reservation *places = NULL;	/* NULL: there is no shared memory */
static LWLockPadded *reservation_locks;

static int
n_groups(void)
{
	return (max_reservations_setting + GROUP - 1) / GROUP;
}

static Size
size(void)
{
	return mul_size((Size) n_groups() * GROUP, sizeof(Reservation));
}

static int
locks(void)
{
	return LOCKS;
}

static void
startup(void *memory, LWLockPadded *my_locks, bool found)
{
	places = memory;
	reservation_locks = my_locks;
	if (!found)
		memset(memory, 0, size());
}

/* A number that nobody can guess, without NUMBER_IN_TABLE. */
int64
reservation_number(void)
{
	static uint64 random[32];	/* asking for many at once is faster */
	static int	left = 0;
	uint64		number;

	do
	{
		if (left == 0)
		{
			if (!pg_strong_random(random, sizeof(random)))
				ereport(ERROR,
						(errcode(ERRCODE_INTERNAL_ERROR),
						 errmsg("could not generate random values")));
			left = lengthof(random);
		}
		number = random[--left] >> 2 & ~(uint64) NUMBER_IN_TABLE;
		random[left] = 0;
	} while (number == 0);
	return (int64) number;
}

static int
group_of(int64 number)
{
	return (int) (((uint64) number >> 1) % n_groups());
}

static LWLock *
lock_of(int group)
{
	return &reservation_locks[group % LOCKS].lock;
}

/* How many bytes of it are used. */
Size
reservation_size(const Reservation *reservation)
{
	Size		len = reservation->key_len;

	for (int i = 0; i < reservation->n; i++)
		len += reservation->limiter_lens[i];
	return offsetof(Reservation, names) + len;
}

/* The name of its i-th bucket, which points into it. */
void
reservation_bucket(const Reservation *reservation, int i, BucketId *id)
{
	const char *limiter = reservation->names + reservation->key_len;

	for (int before = 0; before < i; before++)
		limiter += reservation->limiter_lens[before];
	make_bucket_id(id, reservation->database, limiter, reservation->limiter_lens[i],
				   reservation->names, reservation->key_len);
	if (bucket_in_period(reservation->rules[i].refill))
		id->ends = reservation->rules[i].refill;
}

/* Can tokens of a bucket with this limiter be reserved by this rule? */
bool
reserved_rule_valid(const ReservedRule *rule, const char *limiter, int len)
{
	bool		has_period = plain_limiter_len(limiter, len) < len;

	return isfinite(rule->capacity) && rule->capacity > 0 &&
		isfinite(rule->refill) && rule->refill >= -PERIOD_END_MAX &&
		len > 0 && *limiter != BLOCK_PREFIX &&
		has_period == bucket_in_period(rule->refill);
}

/*
 * Put a reservation into its group, whose lock is held, if the role has not used up
 * its share and there is a place.
 */
static bool
put_in_group(int group, const Reservation *reservation, int64 now)
{
	Reservation *place = NULL;
	int			mine = 0;

	for (int i = 0; i < GROUP; i++)
	{
		Reservation *at = &places[group * GROUP + i];

		if (at->number == 0 || at->expires_at <= now)
			place = at;
		else
			mine += at->role == reservation->role;
	}
	if (!place || mine >= SHARE)
		return false;
	memcpy(place, reservation, reservation_size(reservation));
	return true;
}

/*
 * Keep a reservation here, and give it a number.  Returns false if there is no room
 * for it.
 */
bool
reservations_put(Reservation *reservation)
{
	bool		done = false;

	for (int try = 0; places && try < TRIES && !done; try++)
	{
		int64		now = monotonic_ns();
		int			group;

		reservation->number = reservation_number();
		group = group_of(reservation->number);
		LWLockAcquire(lock_of(group), LW_EXCLUSIVE);
		done = put_in_group(group, reservation, now);
		LWLockRelease(lock_of(group));
	}
	return done;
}

/* The place of a reservation that has not expired, or NULL.  Its lock is held. */
static Reservation *
find_place(int64 number, int64 now)
{
	Reservation *group = &places[group_of(number) * GROUP];

	for (int i = 0; i < GROUP; i++)
		if (group[i].number == number)
			return group[i].expires_at > now ? &group[i] : NULL;
	return NULL;
}

/*
 * Begin to settle a reservation: copy it, and keep others from settling it.  Returns
 * false if there is none of this number in the database, or a session is settling it.
 * The caller must call reservations_end(), whatever happens.
 */
bool
reservations_begin(int64 number, Oid database, Reservation *reservation)
{
	int64		now = monotonic_ns();
	Reservation *place;
	bool		found = false;

	if (!places || number <= 0)
		return false;
	LWLockAcquire(lock_of(group_of(number)), LW_EXCLUSIVE);
	place = find_place(number, now);
	if (place && place->database == database && !place->busy)
	{
		place->busy = 1;
		memcpy(reservation, place, reservation_size(place));
		found = true;
	}
	LWLockRelease(lock_of(group_of(number)));
	return found;
}

/*
 * End what reservations_begin() began.  If settling has failed, the reservation
 * stays, with as many buckets settled as the caller's copy says.
 */
void
reservations_end(const Reservation *reservation, bool settled)
{
	int			group = group_of(reservation->number);

	LWLockAcquire(lock_of(group), LW_EXCLUSIVE);
	for (int i = group * GROUP; i < (group + 1) * GROUP; i++)
	{
		if (places[i].number != reservation->number)
			continue;
		places[i].busy = 0;
		places[i].n_settled = reservation->n_settled;
		if (settled)
			places[i].number = 0;
	}
	LWLockRelease(lock_of(group));
}

/* How many places there are for reservations_view(). */
int
reservations_places(void)
{
	return places ? n_groups() * GROUP : 0;
}

/* Copy out the place's reservation, if it is one of the database and not expired. */
bool
reservations_view(int place, Oid database, Reservation *reservation)
{
	LWLock	   *lock = lock_of(place / GROUP);
	bool		found;

	LWLockAcquire(lock, LW_SHARED);
	found = places[place].number != 0 && places[place].database == database;
	if (found)
		memcpy(reservation, &places[place], reservation_size(&places[place]));
	LWLockRelease(lock);
	return found && reservation->expires_at > monotonic_ns();
}

static void
forget(Oid database, bool dropped)
{
	for (int group = 0; group < n_groups(); group++)
	{
		LWLockAcquire(lock_of(group), LW_EXCLUSIVE);
		for (int i = group * GROUP; i < (group + 1) * GROUP; i++)
			if (places[i].database == database)
				places[i].number = 0;
		LWLockRelease(lock_of(group));
	}
}

/*
 * Saving for the next start (core/saved_file.c).  A record is a reservation as it is
 * in memory, except that expires_at is how long it still lasts.
 */

static void
save(Saving *saving)
{
	if (!saving->at_stop)
		return;
	for (int i = 0; i < reservations_places() && saved_go_on(saving); i++)
	{
		Reservation record;

		/* no other process is left, so no lock is needed */
		if (places[i].number == 0 || places[i].expires_at <= saving->mono)
			continue;
		memcpy(&record, &places[i], sizeof(record));
		record.expires_at -= saving->mono;
		record.busy = 0;
		saved_put(saving, 0, &record, reservation_size(&record));
	}
}

/* Does a record make sense? */
static bool
record_valid(const Reservation *record, Size size)
{
	const char *limiter;

	if (record->number <= 0 || (record->number & NUMBER_IN_TABLE) ||
		record->expires_at <= 0 || !OidIsValid(record->database) || record->busy ||
		!isfinite(record->tokens) || record->tokens < 0 ||
		record->n == 0 || record->n > MAX_RESERVED ||
		record->n_settled >= record->n || size != reservation_size(record))
		return false;
	limiter = record->names + record->key_len;
	for (int i = 0; i < record->n; i++)
	{
		int			len = record->limiter_lens[i];

		if (!reserved_rule_valid(&record->rules[i], limiter, len) ||
			!names_valid(limiter, len, record->names, record->key_len))
			return false;
		limiter += len;
	}
	return true;
}

static bool
load(int kind, const char *bytes, Size size, Loading *loading)
{
	Reservation record = {0};

	if (size < offsetof(Reservation, names) || size > sizeof(record))
		return false;
	memcpy(&record, bytes, size);
	if (!record_valid(&record, size))
		return false;
	if (!loading->take || !loading->clean)
		return true;

	record.expires_at = saved_mono(loading, -record.expires_at);
	/* there may be room for fewer now, and the file may have this one twice */
	if (record.expires_at > loading->now && !find_place(record.number, loading->now))
		(void) put_in_group(group_of(record.number), &record, loading->now);
	return true;
}

const Part	reservations_part = {
	.name = "ratelimit reservations",
	.size = size,
	.locks = locks,
	.startup = startup,
	.forget_database = forget,
	.n_kinds = 1,
	.save = save,
	.load = load
};
