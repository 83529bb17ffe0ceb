/*
 * core/saved_file.c
 *		State saved for the next start: what the file is for, and writing it.
 *
 * The file holds buckets, which partitions have spilled, episodes, what counts
 * towards flags, flags that are due, and figures.  A file of a clean stop also holds
 * the violations that are not yet written.  Each part of the extension makes and
 * takes its own records, as its Part says (core/parts.h); this file knows only the
 * file.  Reading it is in core/saved_load.c, its layout in core/saved_format.c.
 *
 * Who writes it, and when.  While the server runs, the saver (workers/saver.c) writes
 * it every ratelimit.save_interval.  At a clean stop the postmaster writes it after
 * all other processes have exited.  So it saves what the last backend did, and there
 * are never two writers.  After a crash or an immediate stop nobody writes it,
 * because shared memory may contain anything then.
 *
 * If the library is not preloaded (core/late.c), the postmaster cannot do that.  Then
 * the last process that uses the memory writes the file at a clean stop.  No flush is
 * going on then, and none can begin, so the file is right even if the server does not
 * get as far as its shutdown checkpoint.  The file is loaded by the first process that
 * uses the memory.  Whether the server has done something since the file was written
 * cannot be told then by the checkpoint, but by the mark that the file is used.
 *
 * Which file wins.  There is only one name, and each writer replaces the file, in
 * order of time: the saver has exited when the postmaster writes, and the server that
 * the saver was part of must be gone before another can start (an orphan of a killed
 * postmaster keeps the next one from starting).  So the file is always the newest
 * that was written completely, and every start loads it, whether a stop or a crash
 * came before.  A crash between a start and its first save finds the file of the stop
 * before that start again.  That file is then at most save_interval old, counting
 * only the time that the server ran; with save_interval 0, as old as that start.
 *
 * Pending violations are written once.  A flush commits in a table, and nothing could
 * make that commit and a later save atomic: if a file held violations and outlived
 * their flush, they would be written again.  So a file that is written while the
 * server runs does not hold them, and a crash loses what is pending, at most about
 * flush_interval of it.  A file of a clean stop holds them, because no flush is left
 * that could write them; the first start that takes them marks the file as used, and
 * makes the mark durable before it takes them.  From then on a start that finds the
 * file takes everything except them.  If the file cannot be marked, it is removed; if
 * it cannot be removed either, the violations are not taken.  They are also not taken
 * when recovery is about to continue from that stop, or has done so (will_replay() and
 * has_replayed() in core/node.c), because what it replays may contain them.
 *
 * Flags that are due are in every file, because writing a flag that exists already
 * does nothing.
 *
 * Whose file it is.  Buckets, and above all pending violations, belong to one node.
 * pg_basebackup leaves out files whose names begin with pgsql_tmp; so does pg_rewind,
 * which also removes the target's.  For other ways to copy a data directory, the file
 * says which node it belongs to (core/node.c), and no other node takes it.  A clone
 * of a whole volume cannot be told from the original: the file must be removed from
 * one of the two.
 *
 * Time.  Buckets refill by the monotonic clock, which begins anew when the machine
 * boots.  If the file was saved in the same boot (Linux tells which boot it is), the
 * time between saving and loading is taken from that clock; otherwise it is taken
 * from the wall clock, and is never negative.
 *
 * The file is written under another name, synced and renamed, and the directory is
 * synced.  The mark that it is used is one write of the header, which is one disk
 * sector, so the mark is either there or not.  If a crash tears even that write, the
 * header's checksum is wrong and the file is ignored.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/clock.h"
#include "core/compat.h"
#include "core/parts.h"
#include "core/saved_file.h"
#include "core/saved_format.h"
#include "core/settings.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#define SAVED_ASIDE	SAVED_FILE ".new"

/* Writeback begins whenever this much more has been written. */
#define WRITEBACK_SIZE	(1024 * 1024)

/* Records that are not written yet. */
static char buffer[BUFFER_SIZE];

/* Let the disk begin to write, so that syncing has less left to do. */
static void
begin_writeback(Saving *saving)
{
#ifdef HAVE_SYNC_FILE_RANGE
	/* pg_flush_data() would raise a PANIC when the disk is full */
	if (enableFsync && sync_file_range(saving->fd, 0, 0, SYNC_FILE_RANGE_WRITE) != 0 &&
		(errno == EIO || errno == ENOSPC || errno == EDQUOT))
		saving->error = errno;
#endif
}

/* Write the records in the buffer, unless there was an error or the order to stop. */
static void
write_buffer(Saving *saving)
{
	int64		before = saving->length;

	if (!saving->error && !saving->stopped)
	{
		COMP_CRC32C(saving->crc, buffer, saving->used);
		if (!saved_write_all(saving->fd, buffer, saving->used))
			saving->error = errno;
		saving->length += saving->used;
		if (saving->length / WRITEBACK_SIZE != before / WRITEBACK_SIZE)
			begin_writeback(saving);
	}
	saving->used = 0;
}

/*
 * Add a record.  This may write and wait, so the caller must not hold a lock.  After
 * an error it does nothing.
 */
void
saved_put(Saving *saving, int kind, const void *record, Size size)
{
	RecordHead	head = {saving->first_kind + kind, size};

	Assert(size <= MAX_SAVED_SIZE && head.kind < MAX_SAVED_KINDS);
	if (saving->used + sizeof(head) + size > BUFFER_SIZE)
		write_buffer(saving);
	memcpy(buffer + saving->used, &head, sizeof(head));
	memcpy(buffer + saving->used + sizeof(head), record, size);
	saving->used += sizeof(head) + size;
	saving->records[head.kind]++;
}

/*
 * Should the caller go on?  A part that looks through much and puts few records calls
 * this now and then, which also gives the processor to others.
 */
bool
saved_go_on(Saving *saving)
{
	if (!saving->stopped && saving->breathe && !saving->breathe())
		saving->stopped = true;
	return !saving->error && !saving->stopped;
}

/* Let each part put its records, in the order in which their kinds are numbered. */
static void
put_parts(Saving *saving)
{
	int			n;
	const Part *const *parts = parts_list(&n);

	for (int i = 0; i < n; i++)
	{
		if (parts[i]->save)
			parts[i]->save(saving);
		saving->first_kind += parts[i]->n_kinds;
	}
	Assert(saving->first_kind <= MAX_SAVED_KINDS);
}

/*
 * Write the complete file under another name, and sync it.  Returns false, with errno
 * set, if that failed.
 */
static bool
write_aside(Saving *saving, SavedHeader *header)
{
	char		sector[HEADER_SIZE] = {0};

	/* remove what somebody may have left there, such as a link to another place */
	(void) unlink(SAVED_ASIDE);
	saving->fd = OpenTransientFilePerm(SAVED_ASIDE,
									   O_WRONLY | O_CREAT | O_EXCL | PG_BINARY,
									   S_IRUSR | S_IWUSR);
	if (saving->fd < 0)
		return false;

	INIT_CRC32C(saving->crc);
	if (!saved_write_all(saving->fd, sector, HEADER_SIZE))
		saving->error = errno;
	put_parts(saving);
	write_buffer(saving);
	FIN_CRC32C(saving->crc);

	header->records_crc = saving->crc;
	header->length = saving->length;
	memcpy(header->records, saving->records, sizeof(header->records));
	header->crc = saved_header_crc(header);
	memcpy(sector, header, sizeof(*header));
	if (!saving->error && !saving->stopped &&
		(lseek(saving->fd, 0, SEEK_SET) != 0 ||
		 !saved_write_all(saving->fd, sector, HEADER_SIZE) ||
		 pg_fsync(saving->fd) != 0))
		saving->error = errno;
	if (CloseTransientFile(saving->fd) != 0 && !saving->error)
		saving->error = errno;
	errno = saving->error;
	return !saving->error && !saving->stopped;
}

/*
 * Replace the file by one with the present state.  If that fails, report it and
 * return false.
 */
static bool
save(SavedHeader *header, bool (*breathe) (void))
{
	Saving		saving = {0};
	bool		written;

	header->magic = SAVED_MAGIC;
	header->format = SAVED_FORMAT;
	header->pg_version = PG_VERSION_NUM / 100;
	strlcpy(header->version, RATELIMIT_VERSION, sizeof(header->version));
	header->node = this_node();
	this_boot(header->boot, sizeof(header->boot));
	header->saved_at = GetCurrentTimestamp();
	header->mono = monotonic_ns();
	saving.mono = header->mono;
	saving.at_stop = header->at_stop;
	saving.breathe = breathe;

	written = write_aside(&saving, header);
	if (written && breathe)
		injection_point("ratelimit-state-written");
	if (written && rename(SAVED_ASIDE, SAVED_FILE) == 0)
	{
		/* this reports its own errors */
		(void) fsync_fname_ext(PGSTAT_STAT_PERMANENT_DIRECTORY, true, true, LOG);
		ereport(DEBUG1,
				(errmsg_internal("ratelimit: saved " INT64_FORMAT " buckets and " UINT64_FORMAT " pending violations in %.3f s, " INT64_FORMAT " bytes",
								 saving.buckets, saved_pending_records(saving.records),
								 (monotonic_ns() - header->mono) / 1e9,
								 header->length + HEADER_SIZE)));
		return true;
	}
	if (!saving.stopped)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("ratelimit: could not save state to file \"%s\": %m", SAVED_FILE),
				 errdetail("What was saved before stays.")));
	(void) unlink(SAVED_ASIDE);
	return false;
}

/*
 * Save while the server runs.  breathe() is called now and then, and returns false to
 * stop the saving.
 */
bool
saved_save(bool (*breathe) (void))
{
	SavedHeader header = {0};

	return save(&header, breathe);
}

/*
 * Save at a clean stop in the last process that uses the memory, when it ends.
 */
void
saved_at_stop(void)
{
	SavedHeader header = {.at_stop = true};
	XLogRecPtr	last;

	(void) shut_down_cleanly(&last, &header.timeline);
	(void) save(&header, NULL);
}

/* on_shmem_exit callback of the postmaster: save at a clean stop. */
void
saved_at_exit(int code, Datum arg)
{
	SavedHeader header = {0};

	/*
	 * A crash or an immediate stop may interrupt a flush, and recovery then decides
	 * whether its violations are written.  So nothing is saved in that case.  A start
	 * that failed before recovery began does save, because it has marked the file as
	 * used.
	 */
	if (!shut_down_cleanly(&header.checkpoint, &header.timeline))
		return;
	header.at_stop = true;
	(void) save(&header, NULL);
}
