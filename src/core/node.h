/*
 * core/node.h
 *		Which data directory, which boot and which state of the server this is: see
 *		core/node.c.
 */
#ifndef RATELIMIT_NODE_H
#define RATELIMIT_NODE_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"

/* What tells one data directory from another. */
typedef struct NodeId
{
	uint64		system_identifier;
	/* of the file PG_VERSION: */
	int64		born;			/* when it was created, in ns; 0: not known */
	uint64		inode;
} NodeId;

#define BOOT_ID_SIZE	40		/* bytes, with a zero byte at the end */

extern NodeId this_node(void);
extern bool same_node(const NodeId *a, const NodeId *b);
extern void this_boot(char *boot, Size size);
extern bool shut_down_cleanly(XLogRecPtr *checkpoint, TimeLineID *timeline);
extern bool will_recover(void);
extern bool will_replay(void);
extern bool has_replayed(TimeLineID timeline, TimestampTz since);
extern bool server_is_stopping(void);

#endif							/* RATELIMIT_NODE_H */
