/*
 * violations/shares.c
 *		Fair shares of a room that every role may fill.
 *
 * Every role may choose the names of gateways and limiters, and there is room for a
 * limited number of them.  This keeps one role from using up what others need.
 *
 * As long as there is room, every role gets the places that it needs.  Once the room
 * is full, a role that has less than its fair share is entitled to a place of a role
 * that has more.  The fair share is an equal part for each role that has any place.
 * So a role that is alone has all of the room, and no role can push another one below
 * the fair share, whatever it does and in however many sessions.  This file only
 * counts places.  The caller decides what becomes of an entry that loses its place.
 *
 * A role counts separately in each database.  It is the role that the session has
 * logged in as or has SET ROLE to: inside a SECURITY DEFINER function, the caller
 * counts and not the owner.  Roles are told apart by a hash with a secret seed, which
 * gives each role a cell.  Two roles with the same cell have one share together.
 * Nobody can choose which roles these are.
 *
 * The numbers change by atomic operations, without a lock.  They may be off by the
 * processes that are just about to take or give a place, which makes a share a little
 * larger or smaller for a moment.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "core/role.h"
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

/*
 * The cell of the calling role.  While the postmaster or the saver loads what was saved,
 * there is no role, and each database counts as one.
 */
int
shares_my_cell(const Shares *shares, Oid database)
{
	Oid			role;
	int			context;

	/* calling_role() expects that there is one */
	GetUserIdAndSecContext(&role, &context);
	if (OidIsValid(role))
		role = calling_role();
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

/* Take a place for the cell.  Returns false if all places are taken. */
bool
shares_take(Shares *shares, int cell)
{
	/* in a full room every call comes here, so avoid writing to the cache line */
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

/* Give a place of the cell back. */
void
shares_give(Shares *shares, int cell)
{
	take_from_cell(shares, cell);
	pg_atomic_fetch_sub_u32(&shares->used, 1);
}

/* A place passes from one cell to another. */
void
shares_pass(Shares *shares, int from, int to)
{
	add_to_cell(shares, to);
	take_from_cell(shares, from);
}

/* The fair share, given that this cell has at least one place. */
static uint32
fair_share(Shares *shares, int cell)
{
	uint32		active = pg_atomic_read_u32(&shares->active);

	if (pg_atomic_read_u32(&shares->cells[cell]) == 0)
		active++;
	return shares->max / Max(active, 1);
}

/* Is the cell entitled to a place of another cell? */
bool
shares_is_below(Shares *shares, int cell)
{
	return pg_atomic_read_u32(&shares->cells[cell]) < fair_share(shares, cell);
}

/* Must the cell give a place to the newcomer, which is another cell? */
bool
shares_is_above(Shares *shares, int cell, int newcomer)
{
	return cell != newcomer &&
		pg_atomic_read_u32(&shares->cells[cell]) > fair_share(shares, newcomer);
}
