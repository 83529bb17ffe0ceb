/*
 * word_test.c [SEED]
 *		Drives src/memory/: buckets in slots, without a server.
 *
 * Slots are in memory that is shared with processes that this starts.  What the server
 * would do is replaced by the functions below: locks of partitions, waiting, clocks.
 *
 * - What is decided is compared with a model that keeps the same arithmetic
 *	 (src/core/bucket.c) with neither words nor slots, and what the rules in memory/slots.h say of the
 *	 words is looked at after each call.
 * - A call reads the clock in its middle.  There a test has another process do something.
 * - At last, processes call at the same time.
 */
#include "postgres.h"

#include <math.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/claim.h"
#include "memory/consume.h"
#include "memory/partitions.h"
#include "memory/place.h"
#include "memory/short_way.h"
#include "memory/spill.h"
#include "memory/wait.h"

/* postgres.h redirects them to the server's, which are not linked */
#undef printf
#undef snprintf

#define PARTITIONS	4
#define GROUPS		64
#define SLOTS		(PARTITIONS * GROUPS * GROUP_SLOTS)
#define SECOND		INT64CONST(1000000000)
#define DATABASE	5

static int	passed = 0;
static int	failed = 0;
static const char *testing;
static bool well;

#define check(condition) \
	do { if (!(condition)) fail(#condition, __LINE__); } while (0)

static void
fail(const char *what, int line)
{
	if (well)
		printf("# line %d: %s\n", line, what);
	well = false;
}

/*
 * In place of the server
 */

static int64 now_ns = 0;		/* 0: the machine's clock */
static int64 wall_us = INT64CONST(1700000000000000);
static void (*meanwhile) (void) = NULL; /* called when the clock is read */
static int	readings = 0;		/* of the clock */
static int	waits = 0;
static void (*released) (void) = NULL;	/* called while somebody waits */
static bool marked = false;
static pg_atomic_uint32 *partition_locks;

int
clock_gettime(clockid_t clock, struct timespec *ts)
{
	readings++;
	if (meanwhile)
	{
		void		(*once) (void) = meanwhile;

		meanwhile = NULL;
		once();
	}
	if (now_ns == 0)
		return (int) syscall(SYS_clock_gettime, clock, ts);
	ts->tv_sec = now_ns / SECOND;
	ts->tv_nsec = now_ns % SECOND;
	return 0;
}

int64
wall_clock_us(void)
{
	return wall_us;
}

bool
period_is_over(double refill, int64 grace)
{
	return wall_us >= period_end_of(refill) + grace;
}

bool
period_is_stale(double refill)
{
	return bucket_in_period(refill) && period_is_over(refill, PERIOD_GRACE);
}

int
memory_partition(uint64 hash)
{
	return hash & (store.partitions - 1);
}

bool
memory_try_lock_partition(int partition)
{
	uint32		free = 0;

	return pg_atomic_compare_exchange_u32(&partition_locks[partition], &free, 1);
}

void
memory_lock_partition(int partition)
{
	while (!memory_try_lock_partition(partition))
		sched_yield();
}

void
memory_unlock_partition(int partition)
{
	pg_memory_barrier();
	pg_atomic_write_u32(&partition_locks[partition], 0);
}

bool
spill_is_set(int partition)
{
	return false;
}

void
spill_mark(int partition)
{
	marked = true;
}

void
give_way(int round)
{
	if (released && ++waits == 5)
		released();
	if (round > 10000000)
	{
		printf("not ok - %s: it waits for ever\n", testing);
		exit(1);
	}
	sched_yield();
}

bool
give_way_for(int round, int64 *patience)
{
	if (patience && (*patience)-- <= 0)
		return false;
	give_way(round);
	return true;
}

/* These are linked, but never called. */
bool
errstart_cold(int level, const char *domain)
{
	abort();
}

bool
errstart(int level, const char *domain)
{
	abort();
}

void
errfinish(const char *file, int line, const char *function)
{
	abort();
}

int
errcode(int code)
{
	abort();
}

int
errmsg(const char *text,...)
{
	abort();
}

int
pg_mbcliplen(const char *text, int len, int limit)
{
	abort();
}

uint64
hash_bytes_uint32_extended(uint32 k, uint64 seed)
{
	return (seed ^ k) * UINT64CONST(0x9E3779B97F4A7C15);
}

void
ExceptionalCondition(const char *condition,
#if PG_VERSION_NUM < 160000
					 const char *type,
#endif
					 const char *file, int line)
{
	printf("not ok - %s: %s in %s, line %d\n", testing, condition, file, line);
	exit(1);
}

/*
 * Slots
 */

static void *
shared(Size size)
{
	return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

/* Begin a test: nothing is in memory. */
static void
begin(const char *name, uint32 shift)
{
	testing = name;
	well = true;
	now_ns = 1000 * SECOND;
	meanwhile = NULL;
	released = NULL;
	waits = 0;
	marked = false;
	memory_denied_last = false;
	memory_last_hash = 0;
	if (!store.header)
	{
		partition_locks = shared(PARTITIONS * sizeof(*partition_locks));
		store.header = shared(sizeof(Header));
		store.partitions = PARTITIONS;
		store.groups = GROUPS;
		store.tags = shared(SLOTS * sizeof(uint32));
		/* what is behind them must not be read */
		store.slots = shared(SLOTS * sizeof(Slot) + 4096);
		mprotect(store.slots + SLOTS, 4096, PROT_NONE);
		store.reach = shared(PARTITIONS * GROUPS);
		store.tails = shared(SLOTS * sizeof(Tail));
		hash_use_seed(42);
	}
	memset(store.tags, 0, SLOTS * sizeof(uint32));
	memset(store.slots, 0, SLOTS * sizeof(Slot));
	memset(store.reach, 0, PARTITIONS * GROUPS);
	memset(store.tails, 0, SLOTS * sizeof(Tail));
	for (int i = 0; i < PARTITIONS; i++)
	{
		pg_atomic_init_u32(&store.header->layout[i], shift);
		pg_atomic_init_u64(&store.header->evicted[i], 0);
	}
	for (int i = 0; i < SLOTS; i++)
		store.slots[i].link = NO_SLOT;
}

static void
end(void)
{
	printf("%s - %s\n", well ? "ok" : "not ok", testing);
	fflush(stdout);
	if (well)
		passed++;
	else
		failed++;
}

static void
name_bucket(BucketId *id, const char *limiter, const char *key)
{
	make_bucket_id(id, DATABASE, limiter, strlen(limiter), key, strlen(key));
}

/* A call, as decide/one.c decides it. */
static bool
call(const BucketId *id, const BucketRule *rule, Decision *decision)
{
	memset(decision, 0, sizeof(*decision));
	return memory_consume(id, rule, decision) ||
		memory_place(id, rule, 0, PLACE_OR_EVICT, decision);
}

static bool
allowed(const BucketId *id, double capacity, double refill, double cost)
{
	BucketRule	rule;
	Decision	decision;

	bucket_rule(&rule, capacity, refill, cost);
	check(call(id, &rule, &decision));
	return decision.allowed;
}

static Slot *
slot_of(const BucketId *id, uint64 *word)
{
	return find(id, word);
}

/*
 * The model
 */

typedef struct Model
{
	BucketId	id;
	char		limiter[MAX_LIMITER_LEN + 1];
	char		key[MAX_KEY_LEN + 1];
	double		capacity;
	double		refill;
	Owed		full_at;		/* or what it owes */
} Model;

static Owed
model_owes(const Model *model, const BucketRule *rule)
{
	Owed		owed = model->full_at;

	if (bucket_timed(model->capacity, model->refill))
		owed = Max(owed - now_ns, 0);
	if (owed > 0 && (model->capacity != rule->capacity || model->refill != rule->refill))
		owed = bucket_carry(model->capacity, model->refill, owed, rule);
	return owed;
}

static uint64
pick(uint64 n)
{
	static uint64 state = 0;

	if (state == 0)
		state = UINT64CONST(88172645463325252) ^ (uint64) now_ns;
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % n;
}

static const double rules[][2] = {
	{5, 1}, {5, 1000}, {1, 1e9}, {100, 1.0 / 3600}, {10, 0}, {0.5, 0}, {1e12, 1.0 / 31557600},
	{1e17, 0}, {3, 1e-9}, {10, 1e-9}, {1e12, 1e9}, {20, 0.1}
};
static const int64 steps[] = {
	0, 0, 0, 1, 1000, SECOND / 10, SECOND, 20 * SECOND, 100 * 3600 * SECOND, 3000000 * SECOND, 300000000 * SECOND
};

/* One bucket's call, compared with the model. */
static void
call_and_compare(Model *model, const double *parameters, double cost)
{
	BucketRule	rule;
	Decision	decision;
	Owed		owed;
	bool		take;
	bool		is_same = model->capacity == parameters[0] && model->refill == parameters[1];
	uint64		before;
	uint64		after;
	Slot	   *slot = slot_of(&model->id, &before);
	int64		base = slot ? slot->u.bucket.base : 0;
	Slot	   *then;

	bucket_rule(&rule, parameters[0], parameters[1], cost);
	owed = model_owes(model, &rule);

	memset(&decision, 0xFF, sizeof(decision));
	if (memory_peek(&model->id, &rule, &decision))
	{
		Owed		taken = owed;

		check(slot != NULL);
		check(decision.owed == owed);
		check(decision.allowed == bucket_take(&rule, &taken));
		check(decision.ends == 0);
		check(pg_atomic_read_u64(&slot->word) == before);
	}
	else
		check(owed == 0);

	take = bucket_take(&rule, &owed);
	check(call(&model->id, &rule, &decision));
	check(decision.allowed == take);
	check(decision.owed == owed);
	check(!slot || !rule.timed || decision.now == now_ns);
	model->capacity = parameters[0];
	model->refill = parameters[1];
	model->full_at = rule.timed ? now_ns + owed : owed;

	then = slot_of(&model->id, &after);
	check(then != NULL || owed == 0);
	if (!then)
		return;
	check((after & WORD_LOCKED) == 0);
	check(then->u.bucket.capacity == parameters[0] && then->u.bucket.refill == parameters[1]);
	check(owed_of(then, after, now_ns) == owed);
	check(full_at_of(then, after) >= 0);
	if (then == slot)
	{
		uint64		step = ((after >> 1) - (before >> 1)) & (WORD_VALUES - 1);

		/* a value does not come back */
		check(step < (uint64) MAX_ADVANCE);
		if (is_same && (!take || rule.take == 0) && llabs(base) < INT64CONST(1) << 26 &&
			before >> 1 < WORD_VALUES)
			check(step == 0);
		else if (!is_same || take)
			check(step > 0 || llabs(base) >= INT64CONST(1) << 26);
	}
}

/* Let the value of the bucket's word be just before its end. */
static void
near_the_end(const BucketId *id)
{
	uint64		word;
	Slot	   *slot = slot_of(id, &word);
	Owed		full_at;
	uint64		value;

	if (!slot || !lock_word(slot, word))
		return;
	full_at = full_at_of(slot, word);
	value = WORD_VALUES - (uint64) BASE_UNIT + ((uint64) full_at & (uint64) (BASE_UNIT - 1));
	slot->u.bucket.base = (int64) ((full_at - (Owed) value) / BASE_UNIT);
	pg_atomic_write_u64(&slot->word, value << 1);
	check(full_at_of(slot, value << 1) == full_at);
}

static void
test_model(void)
{
	static Model models[150];

	begin("random calls on 150 buckets: decisions, words and slots are as they should be", 4);
	for (int i = 0; i < lengthof(models); i++)
	{
		Model	   *model = &models[i];
		int			len = i % 7 == 0 ? 20 + pick(MAX_KEY_LEN - 20) : 3;

		memset(model, 0, sizeof(*model));
		memset(model->key, 'k', len);
		memset(model->limiter, 'l', 1 + pick(i % 5 == 0 ? MAX_LIMITER_LEN - 1 : 4));
		model->key[len - 1] = 'a' + i % 26;
		model->key[len - 2] = 'a' + i / 26;
		model->key[len] = '\0';
		name_bucket(&model->id, model->limiter, model->key);
	}
	for (int i = 0; i < 60000 && well; i++)
	{
		Model	   *model = &models[pick(lengthof(models))];
		const double *parameters = model->capacity == 0 || pick(10) == 0 ?
			rules[pick(lengthof(rules))] : NULL;
		double		own[2] = {model->capacity, model->refill};
		static const double costs[] = {1, 1, 1, 0, 2, 0.1, 5, 1000, 3e11, 1e16};

		now_ns += steps[pick(pick(100) == 0 ? lengthof(steps) : lengthof(steps) - 2)];
		/* the clock stays within what a machine can have */
		if (now_ns > INT64CONST(1) << 62)
		{
			now_ns = 1000 * SECOND;
			memset(store.slots, 0, SLOTS * sizeof(Slot));
			memset(store.tags, 0, SLOTS * sizeof(uint32));
			for (int j = 0; j < SLOTS; j++)
				store.slots[j].link = NO_SLOT;
			for (int j = 0; j < lengthof(models); j++)
				models[j].capacity = models[j].full_at = 0;
			continue;
		}
		if (pick(20) == 0)
			near_the_end(&model->id);
		call_and_compare(model, parameters ? parameters : own, costs[pick(lengthof(costs))]);
	}
	for (int i = 0; i < PARTITIONS; i++)
		check(pg_atomic_read_u64(&store.header->evicted[i]) == 0);
	end();
}

/*
 * The way to a slot
 */

static void
test_ways(void)
{
	bool		seen[SLOTS];

	begin("ways lead through all groups of the partition, and through all slots of a group", 0);
	memset(seen, 0, sizeof(seen));
	for (uint32 partition = 0; partition < PARTITIONS; partition++)
		for (uint32 i = 0; i < GROUPS * GROUP_SLOTS; i++)
		{
			uint32		n = partition_slot(partition, i);

			check(n < SLOTS && !seen[n]);
			seen[n % SLOTS] = true;
			check(n / GROUP_SLOTS % PARTITIONS == partition);
			check(n / GROUP_SLOTS / PARTITIONS == i / GROUP_SLOTS);
		}
	check(n_slots() == SLOTS);
	for (int i = 0; i < 2000 && well; i++)
	{
		uint64		hash = pick(PG_UINT64_MAX);
		uint32		shift = i % 5;
		Probe		probe = probe_in(hash, shift | (i % 2 ? LAYOUT_LEFT : 0));

		check(probe.used == GROUPS >> shift);
		check(probe.partition == memory_partition(hash));
		check(probe.home < probe.used);
		check(probe.tag >= TAG_FIRST);
		check(probe_length(&probe, 2) == 2 * GROUP_SLOTS);
		check(probe_length(&probe, 1000) == probe.used * GROUP_SLOTS);
		memset(seen, 0, sizeof(seen));
		for (uint32 j = 0; j < probe.used * GROUP_SLOTS; j++)
		{
			uint32		n = probe_slot(&probe, j);

			check(n < SLOTS && !seen[n]);
			seen[n % SLOTS] = true;
			check(n / GROUP_SLOTS % PARTITIONS == probe.partition);
			check(n / GROUP_SLOTS / PARTITIONS < probe.used);
			check(n / GROUP_SLOTS * GROUP_SLOTS == probe_group(&probe, j));
			if (j < GROUP_SLOTS)
				check(n / GROUP_SLOTS / PARTITIONS == probe.home);
		}
		check(reach_of(&probe) == &store.reach[probe.home * PARTITIONS + probe.partition]);
		pg_atomic_write_u32(&store.header->layout[probe.partition], shift);
		check(probe_of(hash).layout == shift);
		check(probe_of(hash).home == probe.home);
	}
	pg_atomic_write_u32(&store.header->layout[2], LAYOUT_MOVING);
	check(layout_for(6) == LAYOUT_MOVING);

	/* also where the number of groups is none that shifts would leave of this one */
	for (uint32 used = 1; used <= GROUPS; used++)
		for (uint32 tag = TAG_FIRST; tag < TAG_FIRST + 8; tag++)
		{
			Probe		probe = {tag, 0, used, 0, used / 2, 0};

			memset(seen, 0, sizeof(seen));
			for (uint32 j = 0; j < used; j++)
			{
				uint32		n = probe_group(&probe, j * GROUP_SLOTS);

				check(n < used * PARTITIONS * GROUP_SLOTS && !seen[n]);
				seen[n % SLOTS] = true;
			}
		}

	/* ways that begin in the same group go apart */
	{
		int			apart = 0;

		for (uint32 tag = TAG_FIRST; tag < TAG_FIRST + 8; tag++)
		{
			Probe		x = {tag, 0, GROUPS, 0, 3, 0};
			Probe		y = {tag + 1, 0, GROUPS, 0, 3, 0};

			apart += probe_group(&x, GROUP_SLOTS) != probe_group(&y, GROUP_SLOTS);
		}
		check(apart >= 7);
	}
	/* the bits of a hash each do one thing only */
	for (int i = 0; i < 64; i++)
	{
		uint64		hash = UINT64CONST(0x4000) << 7;
		Probe		x = probe_in(hash, 0);
		Probe		y = probe_in(hash ^ (UINT64CONST(1) << i), 0);

		check((x.partition != y.partition) == (i < 2));
		check((x.tag != y.tag) == (i >= 7 && i < 39));
		check((x.way != y.way) == (i >= 28 && i < 32));
		check((x.home != y.home) == (i >= 58));
	}
	end();
}

/*
 * Names
 */

static void
test_names(void)
{
	static char limiter[MAX_BUCKET_LIMITER_LEN + 1];
	static char key[MAX_KEY_LEN + 1];

	begin("names of all lengths: each byte, and the database, tell buckets apart", 0);
	for (int len = 2; len <= MAX_BUCKET_LIMITER_LEN + MAX_KEY_LEN && well; len++)
	{
		int			limiter_len = Min(1 + (len * 7) % MAX_BUCKET_LIMITER_LEN, len - 1);
		int			key_len = len - limiter_len;
		BucketId	id;
		BucketId	other;
		BucketRule	rule;
		Decision	decision;
		uint64		word;
		Slot	   *slot;
		char		names[MAX_NAMES];

		if (key_len > MAX_KEY_LEN)
		{
			limiter_len += key_len - MAX_KEY_LEN;
			key_len = MAX_KEY_LEN;
		}
		memset(limiter, 'l', limiter_len);
		memset(key, 'k', key_len);
		key[0] = 'a' + len % 26;
		make_bucket_id(&id, DATABASE, limiter, limiter_len, key, key_len);
		bucket_rule(&rule, 10, 0, 4);
		check(find(&id, &word) == NULL);
		check(find_once(&id, &slot, &word) == FIND_ABSENT);
		check(call(&id, &rule, &decision) && decision.allowed);
		slot = find(&id, &word);
		check(slot != NULL);
		if (!slot)
			break;
		slot_names(slot, names);
		check(memcmp(names, limiter, limiter_len) == 0 && memcmp(names + limiter_len, key, key_len) == 0);
		check(slot_is(slot, &id));
		check(find_once(&id, &slot, &word) == FIND_HERE);

		/* even if all of these had the same hash */
		other = id;
		other.database++;
		check(find(&other, &word) == NULL);
		for (int i = 0; i < len && well; i++)
		{
			char	   *at = i < limiter_len ? &limiter[i] : &key[i - limiter_len];

			(*at)++;
			make_bucket_id(&other, DATABASE, limiter, limiter_len, key, key_len);
			other.hash = id.hash;
			check(find(&other, &word) == NULL);
			check(!slot_is(slot, &other));
			(*at)--;
		}
		if (key_len > 1 && limiter_len < MAX_BUCKET_LIMITER_LEN)
		{
			char		from = key[0];

			limiter[limiter_len] = key[0];
			make_bucket_id(&other, DATABASE, limiter, limiter_len + 1, key + 1, key_len - 1);
			other.hash = id.hash;
			check(find(&other, &word) == NULL);
			key[0] = from;
		}

		/* a slot that changes meanwhile may have any link */
		if (len > INLINE_BYTES)
		{
			uint32		link = slot->link;

			slot->link = SLOTS;
			slot_names(slot, names);
			slot->link = NO_SLOT;
			slot_names(slot, names);
			slot->link = link;
		}
		/* and any length, and lead in a circle */
		if (len > INLINE_BYTES)
		{
			char		more[MAX_NAMES + FURTHER_BYTES];
			NameHead	head = slot->u.bucket.name;
			Slot	   *next = &store.slots[slot->link];
			uint32		after = next->u.continuation.next;

			slot->u.bucket.name.limiter_len = slot->u.bucket.name.key_len = 255;
			next->u.continuation.next = slot->link;
			memset(more, 'x', sizeof(more));
			slot_names(slot, more);
			check(more[MAX_NAMES] == 'x');
			next->u.continuation.next = after;
			slot->u.bucket.name = head;
		}
	}
	end();
}

/*
 * Words
 */

static Slot *the_slot;
static uint64 the_word;

static void
release_word(void)
{
	unlock_unchanged(the_slot, the_word);
}

static void
release_layout(void)
{
	for (int i = 0; i < PARTITIONS; i++)
		pg_atomic_fetch_and_u32(&store.header->layout[i], ~(uint32) LAYOUT_MOVING);
}

static void
test_locks(void)
{
	BucketId	id;
	BucketId	other;
	uint64		word;
	int64		patience;
	Slot	   *slot;

	begin("a locked word, and a partition that grows, are waited for, or not", 0);
	name_bucket(&id, "limiter", "key");
	name_bucket(&other, "limiter", "other");
	check(allowed(&id, 3, 0, 1));
	the_slot = find(&id, &the_word);
	check(!lock_word(the_slot, the_word + 2));
	check((pg_atomic_read_u64(&the_slot->word) & WORD_LOCKED) == 0);
	check(unchanged(the_slot, the_word) && !unchanged(the_slot, the_word + 2));
	check(lock_word(the_slot, the_word));
	check(pg_atomic_read_u64(&the_slot->word) == (the_word | WORD_LOCKED));
	check(!lock_word(the_slot, the_word));
	check(!unchanged(the_slot, the_word));
	check(find_once(&id, &slot, &word) == FIND_BUSY && slot == the_slot);
	check(find_once(&other, &slot, &word) == FIND_ABSENT && slot == NULL);
	/* the name does not tell whether a locked slot is the bucket's */
	other = id;
	other.database++;
	check(find_once(&other, &slot, &word) == FIND_BUSY);

	patience = 3;
	check(!read_word_for(the_slot, &word, &patience));
	released = release_word;
	patience = 10;
	check(read_word_for(the_slot, &word, &patience) && word == the_word);
	check(waits == 5 && patience == 5);
	check(lock_word(the_slot, the_word));
	waits = 0;
	check(read_word(the_slot) == the_word && waits == 5);
	check(lock_word(the_slot, the_word));
	waits = 0;
	check(wait_for_word(the_slot) == the_word && waits == 5);
	check(lock_word(the_slot, the_word));
	waits = 0;
	check(allowed(&id, 3, 0, 1) && waits == 5);
	check(allowed(&id, 3, 0, 1) && !allowed(&id, 3, 0, 1));

	released = release_layout;
	waits = 0;
	for (int i = 0; i < PARTITIONS; i++)
		pg_atomic_fetch_or_u32(&store.header->layout[i], LAYOUT_MOVING);
	patience = 3;
	check(wait_for_layout(1, &patience) == LAYOUT_MOVING);
	check(find(&id, &word) == the_slot && waits == 3);
	check(find_once(&other, &slot, &word) == FIND_BUSY);
	patience = 10;
	check(wait_for_layout(1, &patience) == 0 && waits == 5);
	check(find_once(&other, &slot, &word) == FIND_BUSY || waits == 5);
	end();

	begin("what is written to a word says when the bucket is full", 0);
	for (int i = 0; i < 20000 && well; i++)
	{
		Slot		mine = {0};
		Owed		full_at = (Owed) pick(PG_UINT64_MAX) << pick(35);
		BucketRule	rule;

		word = pick(WORD_VALUES) << 1;
		if (i % 4 == 0)
			word = (WORD_VALUES - 1 - pick((uint64) BASE_UNIT)) << 1;
		if (i % 2)
			full_at >>= pick(64);
		bucket_rule(&rule, 1 + pick(9), pick(2), 1);
		mine.database = i % 10 ? DATABASE : InvalidOid;
		pg_atomic_init_u64(&mine.word, word);
		check(lock_word(&mine, word));
		unlock_with_rule(&mine, word, &rule, full_at);
		check(mine.u.bucket.capacity == rule.capacity && mine.u.bucket.refill == rule.refill);
		{
			uint64		then = pg_atomic_read_u64(&mine.word);
			uint64		step = ((then >> 1) - (word >> 1)) & (WORD_VALUES - 1);

			check((then & WORD_LOCKED) == 0 && then >> 1 < WORD_VALUES);
			check(step >= 1 && step <= (uint64) BASE_UNIT);
			if (mine.database)
				check(full_at_of(&mine, then) == full_at);
			else
				check(step == 1 && mine.u.bucket.base == 0);
		}
		check(owed_by(5, 1, full_at, 7) == Max(full_at - 7, 0));
		check(owed_by(5, 0, full_at, 7) == full_at);
	}
	end();
}

/* A bucket of this partition, which nobody has named yet */
static void
name_another(BucketId *id, int partition)
{
	static char key[20];
	static int	n = 0;

	do
	{
		snprintf(key, sizeof(key), "another%d", n++);
		name_bucket(id, "limiter", key);
	} while (memory_partition(id->hash) != partition);
}

static void
test_left_behind(void)
{
	BucketId	id;
	BucketId	other;
	Slot	   *slot;
	uint64		word;
	int			partition;

	begin("a bucket whose word is locked is left behind when its partition grows, and is found there", 4);
	name_bucket(&id, "limiter", "key");
	partition = memory_partition(id.hash);
	check(allowed(&id, 3, 0, 1));
	for (int round = 0; round < 3 && well; round++)
	{
		uint32		before = pg_atomic_read_u32(&store.header->layout[partition]) & LAYOUT_SHIFT;

		the_slot = find(&id, &the_word);
		check(the_slot != NULL && lock_word(the_slot, the_word));
		while ((pg_atomic_read_u32(&store.header->layout[partition]) & LAYOUT_SHIFT) == before && well)
		{
			name_another(&other, partition);
			check(allowed(&other, 3, 0, 1));
		}
		check((pg_atomic_read_u32(&store.header->layout[partition]) & LAYOUT_MOVING) == 0);
		check(find_once(&id, &slot, &word) == FIND_BUSY || find_once(&id, &slot, &word) == FIND_ABSENT);
		unlock_unchanged(the_slot, the_word);
		check(find_once(&id, &slot, &word) == FIND_HERE && slot == the_slot);
		check(allowed(&id, 3, 0, 1) == (round < 2));
		name_another(&other, partition);
		check(find(&other, &word) == NULL && find_once(&other, &slot, &word) == FIND_ABSENT);
	}
	check(pg_atomic_read_u64(&store.header->evicted[partition]) == 0);
	end();
}

static void
test_full(void)
{
	static char keys[SLOTS][20];
	BucketId	id;
	BucketRule	rule;
	Decision	decision;
	int			n;

	begin("when there is no room, buckets are beyond their home groups, and found there", 4);
	bucket_rule(&rule, 2, 0, 1);
	for (n = 0; n < SLOTS && !marked; n++)
	{
		snprintf(keys[n], sizeof(keys[n]), "key%d", n);
		name_bucket(&id, "limiter", keys[n]);
		memset(&decision, 0, sizeof(decision));
		check(!memory_consume(&id, &rule, &decision));
		if (!memory_place(&id, &rule, 0, PLACE_OR_SPILL, &decision))
			break;
		check(decision.allowed);
	}
	check(marked && n > SLOTS / 2);
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < n; j++)
		{
			name_bucket(&id, "limiter", keys[j]);
			memset(&decision, 0, sizeof(decision));
			check(memory_consume(&id, &rule, &decision));
			check(decision.allowed == (i == 0));
			check(memory_peek(&id, &rule, &decision) && !decision.allowed);
		}
	end();
}

static int	visited[SLOTS];
static int	left_to_visit;
static uint32 grows;			/* this partition's layout changes while it is visited */

static bool
visit(uint32 n, void *arg)
{
	visited[n]++;
	if (grows != NO_SLOT && n == partition_slot(grows, 3))
	{
		pg_atomic_fetch_add_u32(&store.header->layout[grows], 1);
		grows = NO_SLOT;
	}
	return --left_to_visit != 0;
}

static void
test_visits(void)
{
	begin("all slots are visited, and those of a partition again that grows meanwhile", 2);
	memset(visited, 0, sizeof(visited));
	left_to_visit = 0;
	grows = 2;
	visit_slots(visit, NULL, NULL);
	for (uint32 i = 0; i < SLOTS; i++)
		check(visited[i] == (i / GROUP_SLOTS % PARTITIONS == 2 ? 2 : 1));
	memset(visited, 0, sizeof(visited));
	left_to_visit = 20;
	visit_slots(visit, NULL, NULL);
	check(left_to_visit == 0);
	end();
}

/*
 * Others in the middle of a call
 */

static BucketId the_id;
static int	left_to_meddle;
static bool only_inside;		/* only while its parameters are changed ... */
static bool before_lock;		/* ... or before the word is locked first */
static int	readings_before;
static int	meddled;
static bool was_locked;

/* Another process takes one token, as often as it gets to it. */
static void
meddle(void)
{
	BucketRule	rule;
	Decision	decision;
	bool		own_denied = memory_denied_last;
	int			before = readings;
	int			reading = readings - readings_before;

	was_locked |= (pg_atomic_read_u64(&the_slot->word) & WORD_LOCKED) != 0;
	if ((!only_inside || reading % 2 == 0 || (reading == 5 && before_lock)) && !was_locked && left_to_meddle-- > 0)
	{
		bucket_rule(&rule, the_slot->u.bucket.capacity, the_slot->u.bucket.refill, 1);
		check(call(&the_id, &rule, &decision));
		meddled += decision.allowed;
	}
	memory_denied_last = own_denied;
	readings_before += readings - before;
	meanwhile = meddle;
}

/* Another process makes the bucket full. */
static void
fill(void)
{
	uint64		word = pg_atomic_read_u64(&the_slot->word);

	if (lock_word(the_slot, word))
		unlock_changed(the_slot, word, 0);
}

static void
test_meanwhile(void)
{
	/* the same rule, and one that takes the lock */
	static const double other[][2] = {{10, 0.001}, {12, 0.001}, {10, 0.002}};

	begin("others call in the middle of a call: each token is taken once", 0);
	for (int i = 0; i < lengthof(other); i++)
		for (int times = 0; times < 18; times++)
		{
			BucketRule	rule;
			Decision	decision;
			char		key[20];
			int			mine = 0;

			snprintf(key, sizeof(key), "key%d.%d", i, times);
			name_bucket(&the_id, "limiter", key);
			meanwhile = NULL;
			check(allowed(&the_id, 10, 0.001, 1));
			mine++;
			the_slot = slot_of(&the_id, &the_word);
			memory_last_hash = times % 2 ? the_id.hash : 0;
			memory_denied_last = false;
			left_to_meddle = times % 6;
			only_inside = times >= 6;
			before_lock = times >= 12;
			readings_before = readings;
			meddled = 0;
			was_locked = false;
			meanwhile = meddle;
			bucket_rule(&rule, other[i][0], other[i][1], 1);
			check(call(&the_id, &rule, &decision) && decision.allowed);
			meanwhile = NULL;
			mine++;
			/* when others are always quicker, the word is locked first */
			if (i > 0 && only_inside && times % 6 >= 3)
				check(was_locked && meddled == (before_lock ? Min(times % 6, 4) : 2));
			bucket_rule(&rule, other[i][0], other[i][1], 0);
			check(memory_peek(&the_id, &rule, &decision));
			check((int) rint(bucket_tokens(&rule, decision.owed)) == 10 - mine - meddled);
		}
	end();

	begin("a denial holds at a moment after the call began", 0);
	name_bucket(&the_id, "limiter", "key");
	for (int i = 0; i < 2; i++)
	{
		double		refill = i ? 0.001 : 1e-9;

		while (allowed(&the_id, 4, refill, 1))
			continue;
		the_slot = slot_of(&the_id, &the_word);
		check(!allowed(&the_id, 4, refill, 1));
		/* it becomes full when the word has been read */
		meanwhile = fill;
		check(allowed(&the_id, 4, refill, 1));
		while (allowed(&the_id, 4, refill, 1))
			continue;
		/* the same if the parameters change */
		meanwhile = fill;
		check(allowed(&the_id, 5, refill, 1));
	}
	end();
}

static void
later(void)
{
	int64		then = now_ns;

	/* somebody else's call at a later time, and ours ends still later */
	now_ns = then + 10 * SECOND;
	check(allowed(&the_id, 1, 1, 1));
	memory_denied_last = false;
	now_ns = then;
}

/* as later(), and from now on the clock shows that time */
static void
much_later(void)
{
	later();
	now_ns += 12 * SECOND;
}

static int
clock_goes_on(void)
{
	return readings;
}

static void
test_early_clock(void)
{
	BucketRule	rule;
	Decision	decision;
	int			before;

	begin("a call that has read the clock early does not find others in the future", 0);
	name_bucket(&the_id, "limiter", "key");
	check(allowed(&the_id, 1, 1, 1));
	now_ns += 2 * SECOND;
	bucket_rule(&rule, 1, 1, 1);
	memory_last_hash = 0;
	memory_denied_last = false;
	meanwhile = much_later;
	check(call(&the_id, &rule, &decision) && decision.allowed);
	check(decision.now == now_ns);

	/* it reads the clock once if it is allowed, or if it is likely to be denied */
	now_ns += 2 * SECOND;
	memory_last_hash = 0;
	memory_denied_last = false;
	before = clock_goes_on();
	check(call(&the_id, &rule, &decision) && decision.allowed);
	check(clock_goes_on() == before + 1);
	before = clock_goes_on();
	check(call(&the_id, &rule, &decision) && !decision.allowed);
	check(clock_goes_on() == before + 1 && memory_denied_last);
	memory_last_hash = 0;
	before = clock_goes_on();
	check(call(&the_id, &rule, &decision) && !decision.allowed);
	check(clock_goes_on() == before + 1);
	/* twice if it is denied otherwise */
	memory_denied_last = false;
	memory_last_hash = 0;
	before = clock_goes_on();
	check(call(&the_id, &rule, &decision) && !decision.allowed);
	check(clock_goes_on() == before + 2);
	end();
}

/*
 * Periods, and a capacity of 0
 */

static void
test_periods(void)
{
	const double first = -(double) (INT64CONST(1700000000000000) + 60000000);
	const double next = first - 60000000;
	BucketId	id;
	BucketRule	rule;
	Decision	decision;
	uint64		word;
	Slot	   *slot;

	begin("a period's bucket begins anew with the next, and does not go back", 0);
	wall_us = INT64CONST(1700000000000000);
	name_bucket(&id, "limiter:period", "key");
	bucket_rule_in_period(&rule, 5, first, 3, 60e6);
	check(call(&id, &rule, &decision) && decision.allowed && decision.ends == 0);
	check(call(&id, &rule, &decision) && !decision.allowed);
	slot = slot_of(&id, &word);
	check(owed_of(slot, word, now_ns) == (Owed) (3 * PERIOD_SCALE));
	wall_us += 60000000 + PERIOD_GRACE - 1;
	check(owed_of(slot, word, now_ns) == (Owed) (3 * PERIOD_SCALE));
	wall_us++;
	check(owed_of(slot, word, now_ns) == 0);

	bucket_rule_in_period(&rule, 5, next, 4, 60e6);
	check(memory_peek(&id, &rule, &decision) && decision.allowed && decision.owed == 0 && decision.ends == 0);
	check(call(&id, &rule, &decision) && decision.allowed && decision.owed == (Owed) (4 * PERIOD_SCALE));
	check(decision.ends == 0);
	/* a call of the period before */
	bucket_rule_in_period(&rule, 5, first, 1, 60e6);
	check(memory_peek(&id, &rule, &decision) && decision.allowed && decision.ends == next);
	check(call(&id, &rule, &decision) && decision.allowed && decision.ends == next);
	check(call(&id, &rule, &decision) && !decision.allowed && decision.ends == next);
	slot = slot_of(&id, &word);
	check(slot && slot->u.bucket.refill == next);
	/* one so much earlier that the clock was wrong: what was used counts in it */
	bucket_rule_in_period(&rule, 5, next + 2 * 60e6 + PERIOD_AHEAD, 5, 60e6);
	check(memory_peek(&id, &rule, &decision) && !decision.allowed && decision.ends == next);
	bucket_rule_in_period(&rule, 5, next + 2 * 60e6 + PERIOD_AHEAD + 1, 5, 60e6);
	check(memory_peek(&id, &rule, &decision) && !decision.allowed && decision.ends == 0);
	/* counting down */
	bucket_rule_in_period(&rule, NAN, next, -2, 60e6);
	check(call(&id, &rule, &decision) && decision.owed == (Owed) (3 * PERIOD_SCALE));
	bucket_rule_in_period(&rule, NAN, next, -9, 60e6);
	check(call(&id, &rule, &decision) && decision.owed == 0);
	end();

	begin("a capacity of 0 denies, and leaves the bucket as it is", 0);
	name_bucket(&id, "limiter", "key");
	check(allowed(&id, 5, 0.1, 2));
	slot = slot_of(&id, &word);
	bucket_rule(&rule, 0, 0.1, 1);
	memset(&decision, 0xFF, sizeof(decision));
	check(memory_consume(&id, &rule, &decision));
	check(!decision.allowed && decision.owed == 0 && decision.now == now_ns);
	check(pg_atomic_read_u64(&slot->word) == word && slot->u.bucket.capacity == 5);
	end();
}

/*
 * Processes
 */

#define PROCESSES	4
#define CALLS		40000

static void
test_processes(void)
{
	static const char *const keys[] = {"same", "changing", "both", "a-key-that-is-too-long-for-the-slot-and-goes-on-elsewhere-as-most-do-not-and-in-another-slot"};
	int64	   *sums = shared(PROCESSES * 4 * sizeof(int64));
	pid_t		pids[PROCESSES];
	int64		sum[4] = {0};
	BucketRule	rule;
	Decision	decision;
	BucketId	id;
	uint64		word;

	begin("processes call at the same time: as many are allowed as there are tokens", 4);
	now_ns = 0;
	/* they begin with the smaller capacity, which growing adds nothing to */
	for (int j = 0; j < 4; j++)
	{
		name_bucket(&id, "limiter", keys[j]);
		sum[j] += allowed(&id, 10000, 0, 1);
	}
	fflush(stdout);
	for (int i = 0; i < PROCESSES; i++)
	{
		pids[i] = fork();
		if (pids[i] != 0)
			continue;
		for (int j = 0; j < CALLS && well; j++)
		{
			int			which = j % 4;
			char		key[20];

			/* the second and third change their parameters */
			name_bucket(&id, "limiter", keys[which]);
			bucket_rule(&rule, 10000 + (which % 3 && (j / 4 + i) % 2 ? 500 : 0), which == 2 ? 1e-9 * (1 + j / 4 % 2) : 0, 1);
			memset(&decision, 0, sizeof(decision));
			check(call(&id, &rule, &decision));
			sums[i * 4 + which] += decision.allowed;
			if (j % 7 == 0 && memory_peek(&id, &rule, &decision))
				check(decision.owed >= 0 && decision.owed <= rule.window);
			/* and others let the partition grow */
			if (j % 100 == 0)
			{
				snprintf(key, sizeof(key), "grow%d.%d", i, j);
				name_bucket(&id, "limiter", key);
				check(allowed(&id, 2, 0, 1));
			}
		}
		fflush(stdout);
		_exit(well ? 0 : 1);
	}
	for (int i = 0; i < PROCESSES; i++)
	{
		int			status = 1;

		waitpid(pids[i], &status, 0);
		check(status == 0);
		for (int j = 0; j < 4; j++)
			sum[j] += sums[i * 4 + j];
	}
	for (int j = 0; j < 4; j++)
		check(sum[j] == 10000);
	for (int i = 0; i < SLOTS; i++)
		check((pg_atomic_read_u64(&store.slots[i].word) & WORD_LOCKED) == 0);
	name_bucket(&id, "limiter", "same");
	check(slot_of(&id, &word) != NULL);
	if (!well)
		printf("# allowed " INT64_FORMAT " " INT64_FORMAT " " INT64_FORMAT " " INT64_FORMAT "\n", sum[0], sum[1], sum[2], sum[3]);
	end();
}

int
main(int argc, char **argv)
{
	for (int i = argc > 1 ? atoi(argv[1]) % 1000 : 1; i > 0; i--)
		(void) pick(2);
	test_ways();
	test_names();
	test_locks();
	test_left_behind();
	test_full();
	test_visits();
	test_model();
	test_meanwhile();
	test_early_clock();
	test_periods();
	test_processes();
	printf("%d passed, %d failed\n", passed, failed);
	return failed > 0;
}
