/*
 * ratelimit.h
 *		What the parts of the extension share.
 */
#ifndef RATELIMIT_H
#define RATELIMIT_H

#include "postgres.h"

#include <time.h>

#include "access/xact.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "utils/timestamp.h"

#include "bucket.h"
#include "compat.h"

/* own calls need not go through the linker's tables */
#pragma GCC visibility push(hidden)

/*
 * What every call needs of a backend's own data: side by side, as a call waits for
 * cache lines and pages longer than for anything else.
 */
#ifdef __ELF__
#define hot_data	__attribute__((section("ratelimit_hot")))
#else
#define hot_data
#endif

#define RATELIMIT_VERSION	"1.0"	/* as in ratelimit.control */

#define MAX_KEY_LEN			255 /* bytes */
#define MAX_LIMITER_LEN		63	/* bytes */
#define BLOCK_PREFIX		':' /* begins the limiter of a bucket that is a block */

/*
 * The name of a bucket as its slot has it: how long limiter and key are, and both
 * as far as they fit, then zeros.  It is all of a short name.
 */
#define SLOT_BYTES			22

typedef union SlotName
{
	struct
	{
		uint8		limiter_len;
		uint8		key_len;
		char		bytes[SLOT_BYTES];	/* limiter, then key */
	};
	uint64		words[3];
} SlotName;

StaticAssertDecl(sizeof(SlotName) == 24, "a name has other bytes than its words");

/*
 * Which bucket.  The texts need not end in a zero byte and belong to the
 * caller.  The hash is shmem_hash()'s, and 0 when not preloaded.
 */
typedef struct BucketId
{
	Oid			database;
	int			limiter_len;
	int			key_len;
	const char *limiter;
	const char *key;
	uint64		hash;
	SlotName	name;
} BucketId;

/* Are they the same bytes?  Both names are, if they are short. */
static inline bool
same_slot_name(const SlotName *a, const SlotName *b)
{
	return a->words[0] == b->words[0] && a->words[1] == b->words[1] &&
		a->words[2] == b->words[2];
}

static inline bool
name_is_short(const BucketId *id)
{
	return id->limiter_len + id->key_len <= SLOT_BYTES;
}

/* What became of a call. */
typedef struct Decision
{
	bool		allowed;
	bool		known;			/* false: ratelimit.on_error decided, not a bucket */
	Owed		owed;			/* by the bucket after the call */
	Owed		blocked;		/* for so many ns is the key blocked; 0: it is not */
	int64		now;			/* when, on the monotonic clock; 0: not known */
	bool		in_table;		/* the bucket is there */
} Decision;

/* What is so before it is known otherwise. */
static inline void
begin_decision(Decision *decision)
{
	decision->known = true;
	decision->in_table = false;
	decision->blocked = 0;
	decision->now = 0;
}

#define MAX_CALLS	64			/* that are decided together */

/* A call on its way to a decision, one of several. */
typedef struct BucketCall
{
	BucketId	id;
	BucketRule	rule;
	Owed		absent;			/* what the bucket owes if it is not in memory */
	Decision	decision;
} BucketCall;

/* A living bucket, as rate_limit_status shows it. */
typedef struct BucketView
{
	char		limiter[MAX_LIMITER_LEN + 1];	/* and a block's colon: block.c */
	char		key[MAX_KEY_LEN];
	int			limiter_len;
	int			key_len;
	double		capacity;
	double		refill;
	Owed		owed;
} BucketView;

/* ratelimit.c: settings */
typedef enum OverflowPolicy
{
	OVERFLOW_TABLE,
	OVERFLOW_EVICT
} OverflowPolicy;

typedef enum OnError
{
	ON_ERROR_ERROR,
	ON_ERROR_ALLOW,
	ON_ERROR_DENY
} OnError;

typedef enum ViolationSink
{
	SINK_TABLE,
	SINK_LOG,
	SINK_NONE
} ViolationSink;

/* The errors that say no: http.c. */
typedef enum HttpError
{
	HTTP_ERROR_PT429,			/* a status alone */
	HTTP_ERROR_PGRST,			/* with headers */
	HTTP_ERROR_PROBLEM			/* and with the problem's details */
} HttpError;

extern int	max_buckets_setting;
extern int	overflow_setting;
extern int	on_error_setting;
extern int	flush_interval_setting; /* seconds */
extern char *gateway_name_setting;
extern int	max_violations_setting;
extern int	violation_sink_setting;
extern int	violation_retention_setting;	/* seconds; 0: keep */
extern int	flag_threshold_setting;
extern int	flag_window_setting;	/* seconds */
extern char *flag_limiters_setting; /* separated by commas */
extern int	max_episodes_setting;
extern int	episode_retention_setting;	/* seconds */
extern int	save_interval_setting;	/* seconds; 0: only at a stop */
extern bool enabled_setting;
extern bool shadow_setting;
extern bool refund_setting;		/* on rollback */
extern int	postgrest_headers_setting;	/* an HttpError */

/* ratelimit.c: leaving nothing behind */
extern void forget_database(Oid database, bool dropped);
extern void call_at_ends(bool *called, XactCallback at_xact_end,
						 SubXactCallback at_subxact_end);

/* spill.c: which partitions of shared memory have buckets in the table */
#define MAX_PARTITIONS	128

typedef struct PartitionSet
{
	uint64		bits[MAX_PARTITIONS / 64];
} PartitionSet;

static inline void
partition_set_add(PartitionSet *set, int partition)
{
	set->bits[partition / 64] |= (uint64) 1 << (partition % 64);
}

static inline bool
partition_set_has(const PartitionSet *set, int partition)
{
	return set->bits[partition / 64] >> (partition % 64) & 1;
}

/* shmem_store.c: buckets in shared memory */
typedef enum PlaceMode
{
	PLACE_OR_SPILL,				/* when there is no room, or the partition has
								 * spilled: to the table */
	PLACE_OR_EVICT,				/* when there is no room, another gives way */
	PLACE_HERE,					/* the same, spilled or not: no table to go to */
	PLACE_IF_ROOM,				/* when there is no room: nothing */
	PLACE_NOTHING				/* only what is there already is decided on */
} PlaceMode;

/* What became of an attempt to decide several calls together. */
typedef enum AllResult
{
	ALL_DECIDED,
	ALL_BUSY,					/* start anew */
	ALL_MISSING,				/* start anew with more partitions locked */
	ALL_ELSEWHERE,				/* some belong into the table */
	ALL_NO_ROOM					/* and nothing more to evict */
} AllResult;

/* What became of an attempt to move a bucket here from the table. */
typedef enum MoveResult
{
	MOVED,						/* it is here, and has no business there */
	MOVE_NO_ROOM,
	MOVE_BUSY					/* that cannot be told without waiting */
} MoveResult;

extern Size shmem_store_size(void);
extern int	shmem_store_locks(void);
extern void shmem_store_startup(void *memory, LWLockPadded *locks, bool found);
extern pg_atomic_uint32 *shmem_store_block_cells(void);
extern bool shmem_attached(void);
extern int	shmem_partitions(void);
extern int	shmem_partition(uint64 hash);
extern uint64 shmem_hash_limiter(Oid database, const char *limiter, int len);
extern uint64 shmem_hash(uint64 limiter_hash, const char *key, int len);
extern bool shmem_denied_last;
extern bool shmem_consume(const BucketId *id, const BucketRule *rule,
						  Decision *decision);
extern bool shmem_place(const BucketId *id, const BucketRule *rule, Owed owed,
						PlaceMode mode, Decision *decision);
extern bool shmem_set(const BucketId *id, const BucketRule *rule, Owed owed,
					  PlaceMode mode);
extern bool shmem_consume_all(BucketCall *calls, int n, PlaceMode mode, bool apply);
extern AllResult shmem_try_all(BucketCall *calls, int n, PlaceMode mode, bool apply,
							   PartitionSet *locked);
pg_noreturn extern void shmem_fail_no_room(int n);
extern bool shmem_give(const BucketId *id, double tokens, double *given);
extern void shmem_give_back(const BucketId *id, double tokens);
extern bool shmem_peek(const BucketId *id, const BucketRule *rule,
					   Decision *decision);
extern bool shmem_restore(const BucketId *id, double capacity, double refill,
						  Owed owed, int64 now, const uint32 *places);
extern bool shmem_reset(const BucketId *id);
extern MoveResult shmem_move_in(const BucketId *id, const BucketRule *rule, Owed owed,
								bool raise, bool make);
extern int64 shmem_reset_all(Oid database, const char *limiter, int limiter_len);
extern void shmem_forget_database(Oid database);
extern int	shmem_databases(Oid *databases, int n, int max);
extern void shmem_lock_partition(int partition);
extern bool shmem_try_lock_partition(int partition);
extern void shmem_unlock_partition(int partition);
extern uint32 shmem_slots(void);
extern bool shmem_view(uint32 slot, Oid database, BucketView *view);
extern void shmem_partition_stats(int partition, Oid database, int64 *slots,
								  int64 *living, int64 *evicted);

/* spill.c */

/* What a look at the whole table goes by. */
typedef struct SpillLook
{
	uint64		rows[MAX_PARTITIONS];	/* announced when it began */
	PartitionSet with_rows;
} SpillLook;

extern bool spill_known(void);
extern bool spill_memory_newer(void);
extern void spill_set_known(void);
extern bool spill_is_set(int partition);
extern void spill_mark(int partition);
extern bool spill_any(void);
extern bool spill_begin_row(int partition);
extern void spill_end_row(int partition);
extern void spill_look(SpillLook *look);
extern void spill_clear(const SpillLook *look);

/* table_store.c: buckets in rate_limit_buckets */
extern bool table_consume(const BucketId *id, const BucketRule *rule,
						  Decision *decision);
extern bool table_set(const BucketId *id, const BucketRule *rule, Owed owed);
extern bool table_consume_all(BucketCall *calls, int n, PlaceMode mode);
extern bool table_peek(const BucketId *id, const BucketRule *rule, Owed *owed);
extern bool table_give(const BucketId *id, double tokens, double *given, bool wait);
extern bool table_reset(const BucketId *id);
extern int64 table_reset_all(const char *limiter, int limiter_len);
extern void table_merge(const BucketId *id);
extern void table_views(void (*show) (const BucketView *view, void *arg), void *arg);

/* table_clean.c: going through rate_limit_buckets */
extern bool table_find_empty(void);
extern void table_clean(void);
extern void table_clean_some(void);

/* consume.c: arguments of SQL functions, checked */
#define check_not_null(fcinfo, arg, name) \
	do { \
		if (unlikely((fcinfo)->args[arg].isnull)) \
			fail_null(name); \
	} while (0)

pg_noreturn extern void fail_null(const char *name);
pg_noreturn extern void fail_length(const char *name, const char *value, int len,
									int max);
/* A text argument must be neither empty nor longer than max bytes. */
static inline void
check_length(const char *name, const char *value, int len, int max)
{
	if (unlikely(len == 0 || len > max))
		fail_length(name, value, len, max);
}

extern void check_limiter(const char *limiter, int len);
extern bool names_valid(const char *limiter, int limiter_len, const char *key,
						int key_len);
extern void check_tokens(const char *name, double tokens);
extern const BucketRule *get_rule(double capacity, double refill, double cost);
extern void make_bucket_id(BucketId *id, Oid database, const char *limiter,
						   int limiter_len, const char *key, int key_len);
extern void use_limiter(const char *limiter, int len);
extern void use_bucket(BucketId *id, const char *key, int key_len,
					   const char *limiter, int limiter_len);
extern void get_bucket_id(BucketId *id, const text *key, const text *limiter);
extern const BucketRule *get_call(FunctionCallInfo fcinfo, BucketId *id);
extern Owed get_span(const char *name, const Interval *span, int least);
extern Owed decision_wait(const BucketRule *rule, const Decision *decision);
extern Datum make_result(FunctionCallInfo fcinfo, const BucketRule *rule,
						 const Decision *decision);
extern void decide_uncounted(const BucketId *id, const BucketRule *rule,
							 Decision *decision);

/* decide.c: the way to a decision */
extern void decide_slowly(const BucketId *id, const BucketRule *rule,
						  Decision *decision) pg_attribute_cold;
extern void take_tokens(const BucketId *id, const BucketRule *rule,
						Decision *decision);
extern void decide_counted(const BucketId *id, const BucketRule *rule,
						   Decision *decision, bool shadow);
extern bool errors_are_decided(void);
extern bool decide_all(BucketCall *calls, int n);
extern void look(const BucketId *id, const BucketRule *rule, Decision *decision);
extern bool table_may_hold(const BucketId *id);
extern void set_bucket(const BucketId *id, const BucketRule *rule, Owed owed);
extern void give_tokens(const BucketId *id, double tokens, bool wait, double *given);

/* admin.c */
extern bool reset_bucket(const BucketId *id);

/* worker.c */
extern void worker_register(void);

#define MAX_DATABASES	512		/* that have buckets in shared memory */

/* clock_gettime(), but for the way to it: ratelimit.c */
extern int	(*read_clock) (clockid_t, struct timespec *);

/* The clock of shared memory: nanoseconds, never set, the same in every process. */
static inline int64
monotonic_ns(void)
{
	struct timespec now;

	(void) read_clock(CLOCK_MONOTONIC, &now);
	return now.tv_sec * INT64CONST(1000000000) + now.tv_nsec;
}

/* What hashes of names that callers choose start from: nobody else can know it. */
static inline uint64
secret_seed(void)
{
	uint64		seed;

	if (!pg_strong_random(&seed, sizeof(seed)))
		seed = (uint64) monotonic_ns();
	return seed;
}

/* The bytes of a text; without calling anything if it is not toasted. */
static inline const char *
text_bytes(Datum datum, int *len)
{
	const text *value = (text *) DatumGetPointer(datum);

	if (unlikely(VARATT_IS_COMPRESSED(value) || VARATT_IS_EXTERNAL(value)))
		value = DatumGetTextPP(datum);
	if (VARATT_IS_SHORT(value))
	{
		*len = VARSIZE_SHORT(value) - VARHDRSZ_SHORT;
		return VARDATA_SHORT(value);
	}
	*len = VARSIZE(value) - VARHDRSZ;
	return VARDATA(value);
}

static inline uint64
load_64(const char *bytes)
{
	uint64		result;

	memcpy(&result, bytes, sizeof(result));
	return result;
}

static inline uint32
load_32(const char *bytes)
{
	uint32		result;

	memcpy(&result, bytes, sizeof(result));
	return result;
}

/*
 * memcpy() and memcmp() == 0 for names: short, and where a call of libc is not cheap.
 * The last bytes taken together may overlap those before.
 */
static inline void
copy_bytes(char *to, const char *from, int n)
{
	if (likely(n >= 8))
	{
		for (int at = 0; at < n - 8; at += 8)
			memcpy(to + at, from + at, 8);
		memcpy(to + n - 8, from + n - 8, 8);
	}
	else if (n >= 4)
	{
		memcpy(to, from, 4);
		memcpy(to + n - 4, from + n - 4, 4);
	}
	else if (n > 0)
	{
		to[0] = from[0];
		to[n / 2] = from[n / 2];
		to[n - 1] = from[n - 1];
	}
}

static inline bool
same_bytes(const char *a, const char *b, int n)
{
	if (likely(n >= 4 && n <= 8))
		return load_32(a) == load_32(b) && load_32(a + n - 4) == load_32(b + n - 4);
	if (n > 8)
	{
		for (int at = 0; at < n - 8; at += 8)
			if (load_64(a + at) != load_64(b + at))
				return false;
		return load_64(a + n - 8) == load_64(b + n - 8);
	}
	return n == 0 || (a[0] == b[0] && a[n / 2] == b[n / 2] && a[n - 1] == b[n - 1]);
}

#pragma GCC visibility pop

#endif							/* RATELIMIT_H */
