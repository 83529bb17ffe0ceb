/*
 * core/saved_file.c
 *		State saved for the next start: one file in the data directory.
 *
 * What is in it: buckets, which partitions have spilled, episodes, what counts
 * towards flags, flags that are due, figures; in a file of a clean stop also the
 * violations not yet written.  Each part of the extension makes and takes its
 * own records, as its Part says (core/parts.h); this file knows the file.
 *
 * Who writes it, and when.  While the server runs, the saver (workers/saver.c), every
 * ratelimit.save_interval.  At a clean stop the postmaster, when everybody else
 * has gone: so it sees what the last backend did, and there are never two who
 * write.  After a crash or an immediate stop nobody: shared memory may be
 * anything then.
 *
 * Which file wins.  There is only one name, and who writes replaces it, in order
 * of time: the saver is gone when the postmaster writes, and the server that the
 * saver was part of must be gone before another can start (an orphan of a killed
 * postmaster keeps the next from starting).  So the file is always the newest
 * that was written whole, and every start loads it, whether a stop or a crash
 * came before.  A crash between a start and its first save finds the file of the
 * stop before that start again, which is then at most save_interval old in time
 * that the server ran.
 *
 * Pending violations are written once.  A flush commits in a table, and nothing
 * could make that and a later save one: a file that holds violations and outlives
 * their flush would have them written again.  So a file written while the server
 * runs holds none; a crash loses what is pending (at most about flush_interval
 * of it), as it always has.  A file of a clean stop holds them, no flush being
 * left that could write them; the start that takes them first marks the file,
 * durably, as used.  From then on a start that finds it takes all but them.  If
 * it cannot be marked, it is removed; if it cannot be removed either, the
 * violations are not taken.  Nor are they when recovery is about to go on from
 * that stop: what it replays may hold them.
 *
 * Flags that are due are another matter: writing one that is there already does
 * nothing, so they are in every file.
 *
 * Whose file it is.  Buckets, and above all pending violations, are of one node.
 * Files whose names begin with pgsql_tmp are left out by pg_basebackup, and by
 * pg_rewind, which also removes the target's.  For other ways to copy a data
 * directory the file says which one it is of: by the system identifier, and by
 * when PG_VERSION was created there, which initdb writes and nobody ever again.
 * A copy of files has another time.  (Where the file system does not know it:
 * its inode's number: not when that changed, as a chown changes it.)  So what is moved, mounted
 * elsewhere, or restored from a snapshot of the volume, is still the same node,
 * as it should be.  A clone of a whole volume cannot be told apart: of those,
 * remove the file in one.
 *
 * Time.  Buckets refill by the monotonic clock, which begins anew when the
 * machine boots.  In the same boot (Linux says which it is) the time between
 * saving and loading is taken from it; else from the wall clock, and is never
 * negative.
 *
 * The file: a header, one disk sector long, with a checksum of its own; then
 * records, each with its kind and size, and a checksum over all of them in the
 * header.  It is written aside, synced, renamed, and the directory synced; the
 * mark is one write of the header, so it is there or not.  A crash that tears
 * even that leaves a file that is ignored.  Nothing is taken from a file before
 * all of it is found to be right, and it is read as if an enemy had written it.
 * What cannot be used is reported, one line, stays, and is replaced by the next
 * save; the server starts in any case.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "common/file_utils.h"
#include "core/clock.h"
#include "core/parts.h"
#include "core/saved_file.h"
#include "core/settings.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "utils/timestamp.h"

#define SAVED_FILE	PGSTAT_STAT_PERMANENT_DIRECTORY "/" PG_TEMP_FILE_PREFIX ".ratelimit"
#define SAVED_ASIDE	SAVED_FILE ".new"
#define SAVED_MAGIC	0x524C5332	/* "RLS2" */
#define SAVED_FORMAT 6			/* of header and records */

#define HEADER_SIZE		512
#define BUFFER_SIZE		65536
#define WRITEBACK_SIZE	(1024 * 1024)	/* it is begun whenever so much is written */

StaticAssertDecl(MAX_SAVED_SIZE < BUFFER_SIZE / 2, "a record exceeds the buffer");

/* Which data directory. */
typedef struct NodeId
{
	uint64		system_identifier;
	/* of PG_VERSION: */
	int64		born;			/* nanoseconds; 0: not known */
	uint64		inode;
} NodeId;

typedef struct SavedHeader
{
	uint32		magic;
	uint32		format;
	uint32		pg_version;		/* major */
	uint8		at_stop;		/* 1: saved at a clean stop ... */
	uint8		used;			/* ... and 1: its violations have been taken */
	char		version[16];	/* of the extension */
	NodeId		node;
	XLogRecPtr	checkpoint;		/* at a clean stop: the one it made */
	TimestampTz saved_at;
	int64		mono;			/* the monotonic clock at saved_at ... */
	char		boot[40];		/* ... in this boot */
	int64		length;			/* of the records */
	uint64		records[MAX_SAVED_KINDS];	/* by kind */
	pg_crc32c	records_crc;
	pg_crc32c	crc;			/* of all before it */
} SavedHeader;

StaticAssertDecl(sizeof(SavedHeader) <= HEADER_SIZE, "the header exceeds a sector");

/* Before each record. */
typedef struct RecordHead
{
	uint16		kind;
	uint16		size;
} RecordHead;

/* For writing or reading. */
static char buffer[BUFFER_SIZE];

static pg_crc32c
header_crc(const SavedHeader *header)
{
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	COMP_CRC32C(crc, header, offsetof(SavedHeader, crc));
	FIN_CRC32C(crc);
	return crc;
}

/*
 * Which node, which boot, which state of the server
 */

static NodeId
this_node(void)
{
	NodeId		node = {0};
	struct stat st;

	node.system_identifier = GetSystemIdentifier();
	if (stat("PG_VERSION", &st) == 0)
		node.inode = st.st_ino;
#ifdef STATX_BTIME
	{
		struct statx stx;

		if (statx(AT_FDCWD, "PG_VERSION", 0, STATX_BTIME, &stx) == 0 &&
			(stx.stx_mask & STATX_BTIME))
			node.born = stx.stx_btime.tv_sec * INT64CONST(1000000000) +
				stx.stx_btime.tv_nsec;
	}
#endif
	return node;
}

static bool
same_node(const NodeId *a, const NodeId *b)
{
	if (a->system_identifier != b->system_identifier)
		return false;
	if (a->born != 0 && b->born != 0)
		return a->born == b->born;
	return a->inode == b->inode;
}

/* A name of the running boot; empty if there is none to know. */
static void
this_boot(char *boot, Size size)
{
	int			fd = OpenTransientFile("/proc/sys/kernel/random/boot_id", O_RDONLY);
	ssize_t		n = 0;

	if (fd >= 0)
	{
		n = read(fd, boot, size - 1);
		CloseTransientFile(fd);
	}
	memset(boot + Max(n, 0), 0, size - Max(n, 0));
}

/* Nanoseconds since the file was saved, as of "now" on the monotonic clock. */
static Owed
time_since(const SavedHeader *header, int64 now)
{
	char		boot[sizeof(header->boot)];

	this_boot(boot, sizeof(boot));
	if (boot[0] && memcmp(boot, header->boot, sizeof(boot)) == 0 && now >= header->mono)
		return (Owed) now - header->mono;
	return Max((Owed) GetCurrentTimestamp() - header->saved_at, 0) * 1000;
}

/* Has the server written its shutdown checkpoint?  Which one? */
static bool
shut_down_cleanly(XLogRecPtr *checkpoint)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	*checkpoint = control->checkPoint;
	return crc_ok && (control->state == DB_SHUTDOWNED ||
					  control->state == DB_SHUTDOWNED_IN_RECOVERY);
}

/* Will the start empty unlogged tables, as recovery does? */
static bool
will_recover(void)
{
	struct stat st;

	return stat(STANDBY_SIGNAL_FILE, &st) == 0 ||
		stat(RECOVERY_SIGNAL_FILE, &st) == 0 || stat(BACKUP_LABEL_FILE, &st) == 0;
}

/*
 * May recovery replay what happened after the stop that the file is of, such as
 * the flush of its violations?  The data directory may have been put back to that
 * stop.
 */
static bool
will_replay(void)
{
	struct stat st;

	return stat(RECOVERY_SIGNAL_FILE, &st) == 0 ||
		stat(BACKUP_LABEL_FILE, &st) == 0;
}

/*
 * Writing
 */

/* Write all of it; false if that failed, with errno. */
static bool
write_all(int fd, const char *bytes, Size n)
{
	while (n > 0)
	{
		ssize_t		written;

		errno = 0;
		written = write(fd, bytes, n);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			/* if write didn't set errno, assume problem is no disk space */
			if (errno == 0)
				errno = ENOSPC;
			return false;
		}
		bytes += written;
		n -= written;
	}
	return true;
}

/* Let the disk begin: syncing should not find it all undone. */
static void
begin_writeback(Saving *saving)
{
#ifdef HAVE_SYNC_FILE_RANGE
	/* pg_flush_data() would make a full disk a panic */
	if (enableFsync && sync_file_range(saving->fd, 0, 0, SYNC_FILE_RANGE_WRITE) != 0 &&
		(errno == EIO || errno == ENOSPC || errno == EDQUOT))
		saving->error = errno;
#endif
}

static void
write_buffer(Saving *saving)
{
	int64		before = saving->length;

	if (!saving->error && !saving->stopped)
	{
		COMP_CRC32C(saving->crc, buffer, saving->used);
		if (!write_all(saving->fd, buffer, saving->used))
			saving->error = errno;
		saving->length += saving->used;
		if (saving->length / WRITEBACK_SIZE != before / WRITEBACK_SIZE)
			begin_writeback(saving);
	}
	saving->used = 0;
}

/*
 * Add a record.  May write and wait: the caller holds no lock.  After an error
 * nothing happens any more.
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
 * Has the caller, who looks through much and puts little, to go on?  Lets others
 * have the processor.
 */
bool
saved_go_on(Saving *saving)
{
	if (!saving->stopped && saving->breathe && !saving->breathe())
		saving->stopped = true;
	return !saving->error && !saving->stopped;
}

/*
 * Kinds of records are numbered through in the file, part after part, and records come
 * in this order.
 */
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

/* The part whose records are of this kind, which becomes the part's; NULL: none. */
static const Part *
part_of_kind(int *kind)
{
	int			n;
	const Part *const *parts = parts_list(&n);

	for (int i = 0; i < n; i++)
	{
		if (*kind < parts[i]->n_kinds)
			return parts[i];
		*kind -= parts[i]->n_kinds;
	}
	return NULL;
}

/* Is this a kind of records that one start only takes? */
static bool
kind_is_pending(int kind)
{
	const Part *part = part_of_kind(&kind);

	return part && part->pending && kind == part->n_kinds - 1;
}

/* How many records of such kinds there are. */
static uint64
pending_records(const uint64 *records)
{
	uint64		n = 0;

	for (int kind = 0; kind < MAX_SAVED_KINDS; kind++)
		if (kind_is_pending(kind))
			n += records[kind];
	return n;
}

/* Write the file aside, whole and synced; false if that failed, with errno. */
static bool
write_aside(Saving *saving, SavedHeader *header)
{
	char		sector[HEADER_SIZE] = {0};

	/* not what somebody else left there, be it a link elsewhere */
	(void) unlink(SAVED_ASIDE);
	saving->fd = OpenTransientFilePerm(SAVED_ASIDE,
									   O_WRONLY | O_CREAT | O_EXCL | PG_BINARY,
									   S_IRUSR | S_IWUSR);
	if (saving->fd < 0)
		return false;

	INIT_CRC32C(saving->crc);
	if (!write_all(saving->fd, sector, HEADER_SIZE))
		saving->error = errno;
	put_parts(saving);
	write_buffer(saving);
	FIN_CRC32C(saving->crc);

	header->records_crc = saving->crc;
	header->length = saving->length;
	memcpy(header->records, saving->records, sizeof(header->records));
	header->crc = header_crc(header);
	memcpy(sector, header, sizeof(*header));
	if (!saving->error && !saving->stopped &&
		(lseek(saving->fd, 0, SEEK_SET) != 0 ||
		 !write_all(saving->fd, sector, HEADER_SIZE) ||
		 pg_fsync(saving->fd) != 0))
		saving->error = errno;
	if (CloseTransientFile(saving->fd) != 0 && !saving->error)
		saving->error = errno;
	errno = saving->error;
	return !saving->error && !saving->stopped;
}

/* Replace the file by one with the state of now; false, and reported, if not. */
static bool
save(SavedHeader *header, bool (*breathe) (void))
{
	Saving		saving = {0};

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

	if (write_aside(&saving, header) && rename(SAVED_ASIDE, SAVED_FILE) == 0)
	{
		/* reports by itself */
		(void) fsync_fname_ext(PGSTAT_STAT_PERMANENT_DIRECTORY, true, true, LOG);
		ereport(DEBUG1,
				(errmsg_internal("ratelimit: saved " INT64_FORMAT " buckets and " UINT64_FORMAT " pending violations in %.3f s, " INT64_FORMAT " bytes",
								 saving.buckets, pending_records(saving.records),
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

/* While the server runs; breathe() is called now and then and may say to stop. */
bool
saved_save(bool (*breathe) (void))
{
	SavedHeader header = {0};

	return save(&header, breathe);
}

/* on_shmem_exit callback of the postmaster */
void
saved_at_exit(int code, Datum arg)
{
	SavedHeader header = {0};

	/*
	 * Not after a crash or an immediate stop, which cut flushes off in the middle:
	 * then recovery decides whether those are written.  But after a start that
	 * failed before recovery began, as it has marked the file as used.
	 */
	if (!shut_down_cleanly(&header.checkpoint))
		return;
	header.at_stop = true;
	(void) save(&header, NULL);
}

/*
 * Reading
 */

/* The monotonic clock of now at what was so long before the file was saved. */
int64
saved_mono(const Loading *loading, int64 age)
{
	Owed		then = (Owed) loading->now - loading->elapsed - age;

	return (int64) Max(Min(then, PG_INT64_MAX), -PG_INT64_MAX);
}

/* Can it be the name of a key or limiter? */
bool
saved_name_valid(const char *name, int len, int max)
{
	return len > 0 && len <= max && memchr(name, '\0', len) == NULL;
}

/* Take a record, or look whether it makes sense. */
static bool
load_record(int kind, const char *record, Size size, bool pending, Loading *loading)
{
	const Part *part;

	if (kind_is_pending(kind) && !pending)
		return true;
	part = part_of_kind(&kind);
	return part && part->load(kind, record, size, loading);
}

/* Everything has been taken. */
static void
tell_loaded(void)
{
	int			n;
	const Part *const *parts = parts_list(&n);

	for (int i = 0; i < n; i++)
		if (parts[i]->loaded)
			parts[i]->loaded();
}

/* Read into the buffer until it is full or all of "left" is there. */
static bool
fill_buffer(int fd, Size *used, int64 *left)
{
	while (*used < BUFFER_SIZE && *left > 0)
	{
		ssize_t		n = read(fd, buffer + *used, Min((int64) (BUFFER_SIZE - *used), *left));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		*used += n;
		*left -= n;
	}
	return true;
}

/* Go through the records; what is wrong with them, or NULL. */
static const char *
load_records(int fd, const SavedHeader *header, bool pending, Loading *loading)
{
	uint64		records[MAX_SAVED_KINDS] = {0};
	int64		left = header->length;
	Size		used = 0;
	int			last_kind = 0;
	pg_crc32c	crc;

	INIT_CRC32C(crc);
	if (lseek(fd, HEADER_SIZE, SEEK_SET) != HEADER_SIZE)
		return "it cannot be read";
	for (;;)
	{
		Size		at = 0;
		Size		had = used;

		if (!fill_buffer(fd, &used, &left))
			return "it cannot be read";
		COMP_CRC32C(crc, buffer + had, used - had);
		if (used == 0)
			break;
		while (at < used)
		{
			RecordHead	head;
			const char *record = buffer + at + sizeof(head);

			if (used - at < sizeof(head))
				break;
			memcpy(&head, buffer + at, sizeof(head));
			if (head.kind >= MAX_SAVED_KINDS || head.kind < last_kind ||
				head.size > MAX_SAVED_SIZE)
				return "it has a record that makes no sense";
			if (used - at < sizeof(head) + head.size)
				break;
			if (!load_record(head.kind, record, head.size, pending, loading))
				return "it has a record that makes no sense";
			records[head.kind]++;
			last_kind = head.kind;
			at += sizeof(head) + head.size;
		}
		/* no whole record in a full buffer, or at the end of the file */
		if (at == 0)
			return "it has a record that makes no sense";
		memmove(buffer, buffer + at, used - at);
		used -= at;
	}
	FIN_CRC32C(crc);
	if (!EQ_CRC32C(crc, header->records_crc))
		return "its checksum is wrong";
	if (memcmp(records, header->records, sizeof(records)) != 0)
		return "it does not have the records that it should";
	return NULL;
}

/* Read the header, which begins the file; what is wrong with it, or NULL. */
static const char *
load_header(int fd, int64 size, SavedHeader *header)
{
	char		sector[HEADER_SIZE];
	NodeId		node = this_node();

	if (size == 0)
		return "it is empty";
	if (size < HEADER_SIZE)
		return "it is truncated";
	if (read(fd, sector, HEADER_SIZE) != HEADER_SIZE)
		return "it cannot be read";
	memcpy(header, sector, sizeof(*header));
	if (header->magic != SAVED_MAGIC)
		return "it is not a file of ratelimit";
	if (header->format != SAVED_FORMAT || header->pg_version != PG_VERSION_NUM / 100)
		return "it is of another version";
	for (Size i = sizeof(*header); i < HEADER_SIZE; i++)
		if (sector[i] != 0)
			return "its checksum is wrong";
	if (!EQ_CRC32C(header_crc(header), header->crc))
		return "its checksum is wrong";
	if (!IS_VALID_TIMESTAMP(header->saved_at))
		return "it says that it was saved at no time that there is";
	if (header->length < size - HEADER_SIZE)
		return "it is too long";
	if (header->length > size - HEADER_SIZE)
		return "it is truncated";
	if (!same_node(&node, &header->node))
		return "it was saved by another server, whose data directory this one was copied from";
	return NULL;
}

/*
 * See to it that the pending violations in the file are not taken again: mark it
 * as used, or remove it.  False, and reported, if neither is possible.
 */
static bool
use_pending(SavedHeader *header)
{
	char		sector[HEADER_SIZE] = {0};
	bool		done = false;
	int			fd = OpenTransientFile(SAVED_FILE, O_WRONLY | PG_BINARY);

	header->used = true;
	header->crc = header_crc(header);
	memcpy(sector, header, sizeof(*header));
	if (fd >= 0)
	{
		done = write_all(fd, sector, HEADER_SIZE) && pg_fsync(fd) == 0;
		if (CloseTransientFile(fd) != 0)
			done = false;
	}
	if (!done)
		done = unlink(SAVED_FILE) == 0 &&
			fsync_fname_ext(PGSTAT_STAT_PERMANENT_DIRECTORY, true, true, LOG) == 0;
	if (!done)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("ratelimit: leaving out the pending violations in file \"%s\", which can be neither written nor removed: %m",
						SAVED_FILE),
				 errdetail("They would be written again after a crash.")));
	return done;
}

/* Take what the open file holds; what is wrong with it, or NULL. */
static const char *
load(int fd, SavedHeader *header, Loading *loading)
{
	struct stat st;
	const char *problem;
	XLogRecPtr	checkpoint;
	bool		pending;

	if (fstat(fd, &st) != 0)
		return "it cannot be read";
	if (!S_ISREG(st.st_mode))
		return "it is not a regular file";
	problem = load_header(fd, st.st_size, header);
	if (problem)
		return problem;

	problem = load_records(fd, header, true, loading);
	if (problem)
		return problem;

	loading->clean = shut_down_cleanly(&checkpoint) && header->at_stop &&
		checkpoint == header->checkpoint;
	loading->rows_stay = loading->clean && !will_recover();
	pending = header->at_stop && !header->used &&
		(pending_records(header->records) == 0 || use_pending(header));
	if (pending && pending_records(header->records) > 0 && will_replay())
	{
		pending = false;
		ereport(LOG,
				(errmsg("ratelimit: leaving out the pending violations in file \"%s\"",
						SAVED_FILE),
				 errdetail("Recovery may replay that they were written.")));
	}

	loading->take = true;
	loading->now = monotonic_ns();
	loading->elapsed = time_since(header, loading->now);
	problem = load_records(fd, header, pending, loading);
	tell_loaded();
	return problem;
}

/* When what was loaded was saved, on the monotonic clock; 0: nothing was. */
static int64 loaded_mono = 0;

/*
 * For the saver, which the postmaster forks: what the file holds is to be no older
 * than save_interval, however often the server crashes.
 */
int64
saved_loaded_mono(void)
{
	return loaded_mono;
}

/* At the start of the server, with shared memory still empty. */
void
saved_load(void)
{
	SavedHeader header = {0};
	Loading		loading = {0};
	int64		began = monotonic_ns();
	const char *problem;
	int			fd;

	/* no waiting for whoever may open the other end of a pipe */
	fd = OpenTransientFile(SAVED_FILE, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd < 0)
	{
		if (errno != ENOENT)
			ereport(LOG,
					(errcode_for_file_access(),
					 errmsg("ratelimit: ignoring file \"%s\": %m", SAVED_FILE)));
		return;
	}
	loaded_mono = 0;
	problem = load(fd, &header, &loading);
	CloseTransientFile(fd);
	if (problem)
	{
		ereport(LOG,
				(errmsg("ratelimit: ignoring file \"%s\": %s", SAVED_FILE, problem)));
		return;
	}
	loaded_mono = saved_mono(&loading, 0);
	/* a stop and a start without a loss are nothing to tell */
	ereport(loading.clean && loading.given_way == 0 ? DEBUG1 : LOG,
			(errmsg("ratelimit: loaded %llu buckets, saved %s, in %.3f s",
					(unsigned long long) loading.buckets,
					timestamptz_to_str(header.saved_at),
					(monotonic_ns() - began) / 1e9),
			 loading.given_way == 0 ? 0 :
			 errdetail("%lld did not fit: those nearest to full gave way.",
					   (long long) loading.given_way),
			 loading.given_way == 0 ? 0 :
			 errhint("Increase ratelimit.max_buckets.")));
}
