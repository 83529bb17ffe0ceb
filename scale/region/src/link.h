/*
 * link.h
 *		The connection of the worker to one home.
 */
#ifndef REGION_LINK_H
#define REGION_LINK_H

#include "leases.h"
#include "libpq-fe.h"

typedef enum LinkState
{
	LINK_CLOSED,
	LINK_CONNECTING,
	LINK_GREETING,				/* it asks for schema and epoch */
	LINK_READY
} LinkState;

typedef enum BatchKind
{
	BATCH_SCHEMA,				/* in which schema the functions are */
	BATCH_EPOCH,
	BATCH_ASK,
	BATCH_RETURN
} BatchKind;

/* A query that is under way */
typedef struct Batch
{
	struct Batch *next;
	BatchKind	kind;
	bool		answered;
	bool		failed;			/* the home has raised an error */
	int64		sent;
	int			n;
	Portion		portions[FLEXIBLE_ARRAY_MEMBER];
} Batch;

typedef struct Link
{
	int			home;			/* in shared->homes */
	LinkState	state;
	PGconn	   *conn;
	bool		stale;			/* server or user mapping have changed */
	bool		write;			/* there is something to send */
	PostgresPollingStatusType poll;
	int64		opened;
	int64		retry;			/* not opened before */
	int64		backoff;		/* microseconds */
	int64		logged;			/* a refusal */
	char		schema[NAMEDATALEN * 2 + 3];
	Batch	   *first;			/* under way, in their order */
	Batch	   *last;
} Link;

extern void link_step(Link *link, bool wanted, int64 now);
extern void link_close(Link *link, const char *why);
extern int	link_events(const Link *link);
extern int64 link_deadline(const Link *link);
extern void link_failed(Link *link, const char *what);
extern void link_set_state(Link *link, HomeState state, const char *error);
extern void link_copy_message(char *to, const char *from, int len);

/* batches.c */
extern void link_ask(Link *link, const Portion *portions, int n);
extern void link_return(Link *link, const Portion *portions, int n);
extern void link_greet(Link *link);
extern void link_receive(Link *link);
extern void batches_lost(Link *link);

#endif							/* REGION_LINK_H */
