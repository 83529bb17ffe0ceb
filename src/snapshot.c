/*
 * snapshot.c
 *		State saved for the next start: the violations not yet written.
 *
 * The postmaster saves it when it stops cleanly, after everybody else has gone,
 * and loads it when it starts, before anybody else is there.  So no lock is
 * taken.
 *
 * Loading removes the file: its violations are in shared memory then and on their
 * way to being written; a file that stayed could bring them back after a crash,
 * to be written twice.  So a crash loses the violations that were pending, but
 * never repeats any.
 *
 * The file is written aside, synced, and renamed, so it is either whole or not
 * there; a checksum over everything guards against the rest.  What is not ours,
 * or damaged, is reported, left where it is, and otherwise ignored.
 */
#include "ratelimit.h"

#include <unistd.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "snapshot.h"
#include "storage/fd.h"
#include "violations.h"

#define SNAPSHOT_FILE	PGSTAT_STAT_PERMANENT_DIRECTORY "/ratelimit.state"
#define SNAPSHOT_ASIDE	SNAPSHOT_FILE ".tmp"
#define SNAPSHOT_MAGIC	0x524C5331	/* "RLS1" */
#define SNAPSHOT_FORMAT 1

typedef struct SnapshotHeader
{
	uint32		magic;
	uint32		format;
	uint32		pg_version;		/* major */
	uint32		violations;		/* records that follow; then the checksum */
} SnapshotHeader;

typedef struct SnapshotViolation
{
	Oid			database;
	ViolationView view;
} SnapshotViolation;

static bool
save_bytes(FILE *file, pg_crc32c *crc, const void *bytes, size_t n)
{
	COMP_CRC32C(*crc, bytes, n);
	return fwrite(bytes, n, 1, file) == 1;
}

static bool
load_bytes(FILE *file, pg_crc32c *crc, void *bytes, size_t n)
{
	if (fread(bytes, n, 1, file) != 1)
		return false;
	COMP_CRC32C(*crc, bytes, n);
	return true;
}

/* The entry's record, if it has violations. */
static bool
make_record(uint32 entry, SnapshotViolation *record)
{
	memset(record, 0, sizeof(*record));
	return violations_view(entry, InvalidOid, &record->view, &record->database);
}

static bool
save(FILE *file)
{
	SnapshotHeader header = {SNAPSHOT_MAGIC, SNAPSHOT_FORMAT, PG_VERSION_NUM / 100, 0};
	SnapshotViolation record;
	pg_crc32c	crc;

	for (uint32 i = 0; i < violations_entries(); i++)
		header.violations += make_record(i, &record);

	INIT_CRC32C(crc);
	if (!save_bytes(file, &crc, &header, sizeof(header)))
		return false;
	for (uint32 i = 0; i < violations_entries(); i++)
	{
		if (make_record(i, &record) &&
			!save_bytes(file, &crc, &record, sizeof(record)))
			return false;
	}
	FIN_CRC32C(crc);
	return fwrite(&crc, sizeof(crc), 1, file) == 1;
}

/* Has the server written its shutdown checkpoint? */
static bool
shut_down_cleanly(void)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	return crc_ok && (control->state == DB_SHUTDOWNED ||
					  control->state == DB_SHUTDOWNED_IN_RECOVERY);
}

/* on_shmem_exit callback of the postmaster */
void
snapshot_at_exit(int code, Datum arg)
{
	FILE	   *file;

	/*
	 * Not after a crash or an immediate shutdown, which cut flushes off in the
	 * middle: then recovery decides whether those are written.  But after a start
	 * that failed before recovery began, as loading has removed the file.
	 */
	if (!shut_down_cleanly())
		return;

	file = AllocateFile(SNAPSHOT_ASIDE, PG_BINARY_W);
	if (!file)
		goto failed;
	if (!save(file))
	{
		FreeFile(file);
		goto failed;
	}
	if (FreeFile(file) != 0)
		goto failed;
	/* syncs the file, renames it, and syncs the directory */
	(void) durable_rename(SNAPSHOT_ASIDE, SNAPSHOT_FILE, LOG);
	return;

failed:
	ereport(LOG,
			(errcode_for_file_access(),
			 errmsg("ratelimit: could not save pending violations to file \"%s\": %m",
					SNAPSHOT_ASIDE)));
	unlink(SNAPSHOT_ASIDE);
}

/* The checksum is no proof that we wrote it. */
static bool
valid_record(const SnapshotViolation *record)
{
	const ViolationView *view = &record->view;

	return OidIsValid(record->database) && view->count > 0 &&
		view->count <= MAX_VIOLATIONS_PENDING &&
		strnlen(view->gateway, sizeof(view->gateway)) < sizeof(view->gateway) &&
		strnlen(view->limiter, sizeof(view->limiter)) < sizeof(view->limiter) &&
		strnlen(view->key, sizeof(view->key)) < sizeof(view->key);
}

/* Read the file twice: to check it, and to take it. */
static const char *
load(FILE *file)
{
	SnapshotHeader header;
	SnapshotViolation record;

	for (int take = 0; take <= 1; take++)
	{
		pg_crc32c	crc;
		pg_crc32c	saved;

		rewind(file);
		INIT_CRC32C(crc);
		if (!load_bytes(file, &crc, &header, sizeof(header)) ||
			header.magic != SNAPSHOT_MAGIC)
			return "it is not a file of ratelimit";
		if (header.format != SNAPSHOT_FORMAT || header.pg_version != PG_VERSION_NUM / 100)
			return "it is of another version";
		for (uint32 i = 0; i < header.violations; i++)
		{
			if (!load_bytes(file, &crc, &record, sizeof(record)))
				return "it is truncated";
			if (!valid_record(&record))
				return "it has a record that makes no sense";
			if (take)
				violations_restore(&record.view, record.database);
		}
		FIN_CRC32C(crc);
		if (fread(&saved, sizeof(saved), 1, file) != 1 || fgetc(file) != EOF ||
			!EQ_CRC32C(crc, saved))
			return "its checksum is wrong";
	}
	violations_restored();
	return NULL;
}

/* At the start of the server, with shared memory still empty. */
void
snapshot_load(void)
{
	FILE	   *file = AllocateFile(SNAPSHOT_FILE, PG_BINARY_R);
	const char *problem;

	if (!file)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("ratelimit: could not open file \"%s\": %m",
							SNAPSHOT_FILE)));
		return;
	}
	problem = load(file);
	FreeFile(file);
	if (problem)
		ereport(LOG,
				(errmsg("ratelimit: ignoring file \"%s\": %s", SNAPSHOT_FILE, problem)));
	else if (durable_unlink(SNAPSHOT_FILE, LOG) != 0)
		ereport(FATAL,
				(errmsg("ratelimit: cannot go on with file \"%s\", whose violations would be written again after a crash",
						SNAPSHOT_FILE),
				 errhint("Remove the file.")));
}
