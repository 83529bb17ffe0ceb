/*
 * violations/shares.c
 *		Fair shares of a room that every role may fill.
 *
 * Any role may choose the names of gateways and limiters, and there is room for a
 * limited number of them.  This keeps one role from using up what others need.
 *
 * As long as there is room, anybody takes what he needs.  Once the room is full, a
 * role that has less than its fair share, that is, an equal part among the roles
 * that have anything, is entitled to a place of a role that has more.  So a role
 * that is alone has all of the room, and no role can push another below the fair
 * share, whatever it does and in however many sessions.  What becomes of whoever
 * loses a place is the caller's business.
 *
 * A role counts per database, and as the one that a session has logged in as or
 * has SET ROLE to: inside a SECURITY DEFINER function the caller still counts, not
 * the owner.  Roles are told apart by a hash with a secret seed.  Two that share a
 * cell share what is theirs; who that is, nobody can choose.
 *
 * Figures change by atomic operations and may be off by those who are just about to
 * take or give.  That makes a share a little larger or smaller for a moment.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "violations/shares.h"

void
shares_init(Shares *shares, uint64 seed, uint32 max)
{
	shares->seed = seed;
	shares->max = max;
	pg_atomic_init_u32(&shares->used, 0);
	pg_atomic_init_u32(&shares->active, 0);
	for (int i = 0; i < SHARE_CELLS; i++)
		pg_atomic_init_u32(&shares->cells[i], 0);
}

/* The cell of the calling role; of nobody while the postmaster loads what was saved. */
int
shares_my_cell(const Shares *shares, Oid database)
{
	Oid			role = IsUnderPostmaster ? GetOuterUserId() : InvalidOid;

	return hash_bytes_uint32_extended(role, shares->seed ^ database) % SHARE_CELLS;
}

static void
add_to_cell(Shares *shares, int cell)
{
	if (pg_atomic_fetch_add_u32(&shares->cells[cell], 1) == 0)
		pg_atomic_fetch_add_u32(&shares->active, 1);
}

static void
take_from_cell(Shares *shares, int cell)
{
	if (pg_atomic_fetch_sub_u32(&shares->cells[cell], 1) == 1)
		pg_atomic_fetch_sub_u32(&shares->active, 1);
}

/* Take a place; false if all are taken. */
bool
shares_take(Shares *shares, int cell)
{
	/* in a full room everybody comes here: do not fight for the line */
	if (pg_atomic_read_u32(&shares->used) >= shares->max)
		return false;
	if (pg_atomic_fetch_add_u32(&shares->used, 1) >= shares->max)
	{
		pg_atomic_fetch_sub_u32(&shares->used, 1);
		return false;
	}
	add_to_cell(shares, cell);
	return true;
}

/* Give a place back. */
void
shares_give(Shares *shares, int cell)
{
	take_from_cell(shares, cell);
	pg_atomic_fetch_sub_u32(&shares->used, 1);
}

/* A place goes from one to another. */
void
shares_pass(Shares *shares, int from, int to)
{
	add_to_cell(shares, to);
	take_from_cell(shares, from);
}

/* The fair share when this cell has something. */
static uint32
fair_share(Shares *shares, int cell)
{
	uint32		active = pg_atomic_read_u32(&shares->active);

	if (pg_atomic_read_u32(&shares->cells[cell]) == 0)
		active++;
	return shares->max / Max(active, 1);
}

/* Is the cell entitled to a place of another? */
bool
shares_is_below(Shares *shares, int cell)
{
	return pg_atomic_read_u32(&shares->cells[cell]) < fair_share(shares, cell);
}

/* Must the cell give a place to the newcomer? */
bool
shares_is_above(Shares *shares, int cell, int newcomer)
{
	return cell != newcomer &&
		pg_atomic_read_u32(&shares->cells[cell]) > fair_share(shares, newcomer);
}
