/*
 * core/saved_format.h
 *		The layout of the file of saved state: see core/saved_format.c.
 */
#ifndef RATELIMIT_SAVED_FORMAT_H
#define RATELIMIT_SAVED_FORMAT_H

#include "common/file_utils.h"
#include "core/node.h"
#include "core/parts.h"
#include "datatype/timestamp.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"

#define SAVED_FILE	PGSTAT_STAT_PERMANENT_DIRECTORY "/" PG_TEMP_FILE_PREFIX ".ratelimit"
#define SAVED_MAGIC	0x524C5332	/* "RLS2" */
#define SAVED_FORMAT 7			/* changes with the header or a record */

#define HEADER_SIZE		512
#define BUFFER_SIZE		65536

StaticAssertDecl(MAX_SAVED_SIZE < BUFFER_SIZE / 2, "a record exceeds the buffer");

/* The first sector of the file, which is filled up with zeros. */
typedef struct SavedHeader
{
	uint32		magic;
	uint32		format;
	uint32		pg_version;		/* major */
	uint8		at_stop;		/* 1: saved at a clean stop ... */
	uint8		used;			/* ... and 1: a start has taken it */
	char		version[16];	/* of the extension */
	NodeId		node;
	XLogRecPtr	checkpoint;		/* if at a clean stop: its shutdown checkpoint; 0:
								 * saved before it was written */
	TimestampTz saved_at;
	int64		mono;			/* the monotonic clock at saved_at ... */
	char		boot[BOOT_ID_SIZE]; /* ... in this boot */
	int64		length;			/* of all records, in bytes */
	uint64		records[MAX_SAVED_KINDS];	/* how many, by kind */
	TimeLineID	timeline;
	pg_crc32c	records_crc;
	pg_crc32c	crc;			/* of all fields before this one */
} SavedHeader;

StaticAssertDecl(sizeof(SavedHeader) <= HEADER_SIZE, "the header exceeds a sector");

/* Precedes each record. */
typedef struct RecordHead
{
	uint16		kind;
	uint16		size;
} RecordHead;

extern pg_crc32c saved_header_crc(const SavedHeader *header);
extern bool saved_kind_is_pending(int kind);
extern uint64 saved_pending_records(const uint64 *records);
extern bool saved_write_all(int fd, const char *bytes, Size n);

#endif							/* RATELIMIT_SAVED_FORMAT_H */
