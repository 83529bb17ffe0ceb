/*
 * reports.c
 *		What the views show: leases, homes, servers that lease from this one.
 */
#include "postgres.h"

#include <math.h>

#include "fmgr.h"
#include "funcapi.h"
#include "leases.h"
#include "miscadmin.h"
#include "shared.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(rl_leases);
PG_FUNCTION_INFO_V1(rl_home_states);
PG_FUNCTION_INFO_V1(rl_lease_servers);

#define N_LEASE_COLUMNS 10
#define N_HOME_COLUMNS 16
#define N_SERVER_COLUMNS 4

static ReturnSetInfo *
begin(FunctionCallInfo fcinfo)
{
	InitMaterializedSRF(fcinfo, 0);
	return (ReturnSetInfo *) fcinfo->resultinfo;
}

Datum
rl_leases(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = begin(fcinfo);

	for (int i = 0; shared && i < leases_max(); i++)
	{
		Lease	   *lease = lease_lock_number(i);
		Lease		copy;
		Datum		values[N_LEASE_COLUMNS];
		bool		nulls[N_LEASE_COLUMNS] = {false};
		int64		now = now_us();
		Home	   *home;

		if (!lease)
			continue;
		memcpy(&copy, lease, sizeof(Lease));
		lease_unlock(lease);
		home = &shared->homes[copy.home];
		if (home->database != MyDatabaseId)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (now >= copy.until || copy.epoch != pg_atomic_read_u64(&home->epoch))
			copy.tokens = 0;
		values[0] = PointerGetDatum(cstring_to_text_with_len(lease_limiter(&copy), copy.limiter_len));
		values[1] = PointerGetDatum(cstring_to_text_with_len(lease_key(&copy), copy.key_len));
		values[2] = PointerGetDatum(cstring_to_text(NameStr(home->name)));
		values[3] = Float8GetDatum(copy.tokens);
		values[4] = Float8GetDatum(copy.capacity);
		values[5] = Float8GetDatum(copy.refill);
		values[6] = Float8GetDatum(copy.rate);
		values[7] = Float8GetDatum(copy.portion);
		values[8] = Int32GetDatum(copy.n_waiting);
		nulls[9] = copy.tokens <= 0;
		values[9] = TimestampTzGetDatum(GetCurrentTimestamp() + (copy.until - now));
		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* What the leases of a home add to its figures */
static void
add_leases(int home, int64 *n, double *tokens, uint64 *counts)
{
	*n = 0;
	*tokens = 0;
	for (int i = 0; i < leases_max(); i++)
	{
		Lease	   *lease = lease_lock_number(i);

		if (!lease)
			continue;
		if (lease->home == home)
		{
			(*n)++;
			*tokens += lease->tokens;
			counts[0] += lease->here;
			counts[1] += lease->waited;
			counts[2] += lease->denied;
			counts[3] += lease->undecided;
		}
		lease_unlock(lease);
	}
}

Datum
rl_home_states(PG_FUNCTION_ARGS)
{
	static const char *const states[] = {"new", "there", "away"};
	ReturnSetInfo *set = begin(fcinfo);

	for (int i = 0; shared && i < pg_atomic_read_u32(&shared->n_homes); i++)
	{
		Home	   *home = &shared->homes[i];
		Datum		values[N_HOME_COLUMNS];
		bool		nulls[N_HOME_COLUMNS] = {false};
		int64		n;
		double		tokens;
		uint64		counts[4];
		char		error[sizeof(home->error)];
		TimestampTz since;

		pg_read_barrier();
		if (home->database != MyDatabaseId)
			continue;
		counts[0] = pg_atomic_read_u64(&home->here);
		counts[1] = pg_atomic_read_u64(&home->waited);
		counts[2] = pg_atomic_read_u64(&home->denied);
		counts[3] = pg_atomic_read_u64(&home->undecided);
		add_leases(i, &n, &tokens, counts);
		LWLockAcquire(shared->lock, LW_SHARED);
		since = home->since;
		strlcpy(error, home->error, sizeof(error));
		LWLockRelease(shared->lock);
		values[0] = PointerGetDatum(cstring_to_text(NameStr(home->name)));
		values[1] = PointerGetDatum(cstring_to_text(states[pg_atomic_read_u32(&home->state)]));
		values[2] = TimestampTzGetDatum(since);
		nulls[3] = error[0] == '\0';
		values[3] = PointerGetDatum(cstring_to_text(error));
		values[4] = Float8GetDatum(pg_atomic_read_u64(&home->round_trip) / 1e3);
		values[5] = Int64GetDatum(n);
		values[6] = Float8GetDatum(tokens);
		values[7] = Int64GetDatum((int64) counts[0]);
		values[8] = Int64GetDatum((int64) counts[1]);
		values[9] = Int64GetDatum((int64) counts[2]);
		values[10] = Int64GetDatum((int64) counts[3]);
		values[11] = Int64GetDatum((int64) pg_atomic_read_u64(&home->asked));
		values[12] = Int64GetDatum((int64) pg_atomic_read_u64(&home->failed));
		values[13] = Float8GetDatum(sum_of_tokens(&home->taken));
		values[14] = Float8GetDatum(sum_of_tokens(&home->returned));
		values[15] = Float8GetDatum(sum_of_tokens(&home->lost));
		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
rl_lease_servers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *set = begin(fcinfo);

	for (int i = 0; shared; i++)
	{
		LeasingServer server;
		Datum		values[N_SERVER_COLUMNS];
		bool		nulls[N_SERVER_COLUMNS] = {false};
		bool		last;

		LWLockAcquire(shared->lock, LW_SHARED);
		last = i >= shared->n_servers;
		if (!last)
			server = shared->servers[i];
		LWLockRelease(shared->lock);
		if (last)
			break;
		if (server.database != MyDatabaseId)
			continue;
		values[0] = PointerGetDatum(cstring_to_text(server.name));
		values[1] = TimestampTzGetDatum(server.seen);
		values[2] = Float8GetDatum(server.taken);
		values[3] = Float8GetDatum(server.returned);
		tuplestore_putvalues(set->setResult, set->setDesc, values, nulls);
	}
	return (Datum) 0;
}
