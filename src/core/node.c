/*
 * core/node.c
 *		Which data directory this is, which boot of the machine, and in which state
 *		the server was stopped or is going to start.
 *
 * Saved state belongs to one node, that is, to one data directory.  A node is
 * recognized by the system identifier, and by the time when the file PG_VERSION was
 * created in its directory: initdb writes that file, and nobody writes it again.  In
 * a copy that was made file by file it has another time.  Where the file system does
 * not record that time, the inode's number of PG_VERSION takes its place.  (The time
 * when the inode was changed would not do, as a chown changes it.)
 *
 * So a data directory that is moved, mounted elsewhere, or restored from a snapshot
 * of its volume is still the same node, as it should be.  A clone of a whole volume
 * cannot be told from the original.
 *
 * This file only looks.  core/saved_load.c decides what follows from it.
 */
#include "postgres.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "access/xlog.h"
#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "core/node.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/pidfile.h"
#include "utils/timestamp.h"

/* The data directory of this server. */
NodeId
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

/* Are these the same data directory? */
bool
same_node(const NodeId *a, const NodeId *b)
{
	if (a->system_identifier != b->system_identifier)
		return false;
	if (a->born != 0 && b->born != 0)
		return a->born == b->born;
	return a->inode == b->inode;
}

/* The name of the running boot, filled up with zeros; empty if it is not known. */
void
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

/*
 * Has the server written its shutdown checkpoint?  *checkpoint is the latest
 * checkpoint, and *timeline the latest timeline, whatever the answer.
 */
bool
shut_down_cleanly(XLogRecPtr *checkpoint, TimeLineID *timeline)
{
	bool		crc_ok;
	ControlFileData *control = get_controlfile(DataDir, &crc_ok);

	*checkpoint = control->checkPoint;
	*timeline = Max(control->checkPointCopy.ThisTimeLineID, control->minRecoveryPointTLI);
	return crc_ok && (control->state == DB_SHUTDOWNED ||
					  control->state == DB_SHUTDOWNED_IN_RECOVERY);
}

/*
 * Will the start empty unlogged tables, as it does when it recovers from a backup, to
 * a point in time, or as a standby?
 */
bool
will_recover(void)
{
	struct stat st;

	return stat(STANDBY_SIGNAL_FILE, &st) == 0 ||
		stat(RECOVERY_SIGNAL_FILE, &st) == 0 || stat(BACKUP_LABEL_FILE, &st) == 0;
}

/*
 * May recovery replay what happened after the last stop, such as the flush of the
 * violations that were pending then?  It may if the data directory has been put back
 * to the state of that stop.
 */
bool
will_replay(void)
{
	struct stat st;

	return stat(RECOVERY_SIGNAL_FILE, &st) == 0 ||
		stat(BACKUP_LABEL_FILE, &st) == 0;
}

/*
 * The same question when the server runs: may recovery have replayed what happened
 * after a stop on this timeline, at this time?  Recovery that goes on beyond the end
 * of a stop begins with a backup_label, which it renames, or ends on a new timeline.
 */
bool
has_replayed(TimeLineID timeline, TimestampTz since)
{
	struct stat st;
	XLogRecPtr	checkpoint;
	TimeLineID	now;

	(void) shut_down_cleanly(&checkpoint, &now);
	return now != timeline ||
		(stat(BACKUP_LABEL_OLD, &st) == 0 && time_t_to_timestamptz(st.st_ctime) >= since);
}

/*
 * Has the postmaster been told to stop the server?  It writes that into its lock
 * file, for pg_ctl, before it tells other processes.
 */
bool
server_is_stopping(void)
{
	char		file[1024];
	char	   *line = file;
	int			fd = OpenTransientFile("postmaster.pid", O_RDONLY);
	ssize_t		n;

	if (fd < 0)
		return false;
	n = read(fd, file, sizeof(file) - 1);
	CloseTransientFile(fd);
	file[Max(n, 0)] = '\0';
	for (int i = 1; line && i < LOCK_FILE_LINE_PM_STATUS; i++)
	{
		line = strchr(line, '\n');
		if (line)
			line++;
	}
	return line && strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
}
