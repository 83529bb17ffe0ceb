/*
 * memory/ticket_heap.c
 *		The heap of a partition's tickets that expire, by the time when they do.
 *
 * It is a pairing heap, as in PostgreSQL's lib/pairingheap.c, whose links are
 * numbers of cells instead of addresses, because a segment of shared memory may be
 * mapped at different addresses.  The first ticket to expire is found at once;
 * adding one takes a few steps, and removing one takes O(log n) of them on average.
 *
 * A ticket's children are in a list.  "child" is the first of them, "sibling" the
 * next one in the list, and "before" the one before it there, or, of the first one,
 * the parent.  The caller holds the partition's lock.
 */
#include "postgres.h"

#include "memory/ticket_heap.h"

/*
 * Make the one that expires later the first child of the other, which is returned.
 */
static uint32
merge(Ticket *tickets, uint32 a, uint32 b)
{
	if (a == NO_CELL || b == NO_CELL)
		return a == NO_CELL ? b : a;
	if (tickets[b].until < tickets[a].until)
	{
		uint32		swap = a;

		a = b;
		b = swap;
	}
	if (tickets[a].child != NO_CELL)
		tickets[tickets[a].child].before = b;
	tickets[b].before = a;
	tickets[b].sibling = tickets[a].child;
	tickets[a].child = b;
	return a;
}

/*
 * Make one heap of the children in a list: first in pairs, then all pairs together.
 */
static uint32
merge_children(Ticket *tickets, uint32 child)
{
	uint32		pairs = NO_CELL;
	uint32		heap = NO_CELL;

	while (child != NO_CELL)
	{
		uint32		second = tickets[child].sibling;
		uint32		next = second == NO_CELL ? NO_CELL : tickets[second].sibling;
		uint32		pair = merge(tickets, child, second);

		tickets[pair].sibling = pairs;
		pairs = pair;
		child = next;
	}
	while (pairs != NO_CELL)
	{
		uint32		next = tickets[pairs].sibling;

		heap = merge(tickets, heap, pairs);
		pairs = next;
	}
	return heap;
}

/* Add a ticket; it knows when it expires. */
void
heap_add(Ticket *tickets, uint32 *heap, uint32 cell)
{
	Ticket	   *ticket = &tickets[cell];

	ticket->child = ticket->sibling = ticket->before = NO_CELL;
	*heap = merge(tickets, *heap, cell);
	tickets[*heap].before = tickets[*heap].sibling = NO_CELL;
}

/* Remove a ticket, wherever in the heap it is. */
void
heap_remove(Ticket *tickets, uint32 *heap, uint32 cell)
{
	Ticket	   *ticket = &tickets[cell];
	uint32		instead = merge_children(tickets, ticket->child);

	if (instead == NO_CELL)
		instead = ticket->sibling;
	else
	{
		tickets[instead].sibling = ticket->sibling;
		if (ticket->sibling != NO_CELL)
			tickets[ticket->sibling].before = instead;
	}
	if (instead != NO_CELL)
		tickets[instead].before = ticket->before;
	if (ticket->before == NO_CELL)
		*heap = instead;
	else if (tickets[ticket->before].child == cell)
		tickets[ticket->before].child = instead;
	else
		tickets[ticket->before].sibling = instead;
}
