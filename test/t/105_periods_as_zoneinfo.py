"""Periods and moments, and when the period around the moment begins and ends.

Prints so many lines (first argument) of period, moment, begin and end, separated by
tabs, in random order.  The calendars and clocks are those of Python's datetime and
zoneinfo.  What a period is comes from docs/reference.md alone, so nothing here is like
src/core/calendar.c on purpose: where a zone's clock changes is found by asking for its
offset every hour.
"""
import random
import sys
from calendar import monthrange
from datetime import datetime, timedelta, timezone
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

UTC = timezone.utc
ODD_ZONES = [
    "Africa/Cairo", "Africa/Casablanca", "America/Caracas", "America/Havana", "America/Juneau",
    "America/Los_Angeles", "America/Santiago", "America/Sao_Paulo", "America/Scoresbysund",
    "America/St_Johns", "Antarctica/Troll", "Asia/Amman", "Asia/Beirut", "Asia/Gaza",
    "Asia/Kathmandu", "Asia/Kolkata", "Asia/Manila", "Asia/Pyongyang", "Asia/Tehran",
    "Atlantic/Azores", "Australia/Lord_Howe", "Europe/Berlin", "Europe/Dublin",
    "Europe/London", "Europe/Moscow", "Europe/Volgograd", "Pacific/Apia", "Pacific/Chatham",
    "Pacific/Easter", "Pacific/Enderbury", "Pacific/Kiritimati", "Pacific/Kwajalein"]
SKIPPED = {"Factory", "localtime", "leapseconds"}
# Debian 13 has the old names in a package of its own
ODD_ZONES = [zone for zone in ODD_ZONES if zone in available_timezones()]
UNITS = {"second": timedelta(seconds=1), "minute": timedelta(minutes=1),
         "hour": timedelta(hours=1)}


def local_time(moment, zone):
    """What the zone's clock shows, without the zone."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def change_between(begin, end, zone):
    """The whole second at which the zone's offset is first another, if it is at the end."""
    offset = begin.astimezone(zone).utcoffset()
    begin = begin.replace(microsecond=0)
    end = end.replace(microsecond=0) + timedelta(seconds=1)
    while end - begin > timedelta(seconds=1):
        middle = (begin + (end - begin) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            begin = middle
        else:
            end = middle
    return end


def stretches(begin, end, zone):
    """[begin, end) cut where the zone's offset from UTC changes: (begin, end, offset)."""
    at = begin
    offset = at.astimezone(zone).utcoffset()
    while at < end:
        later = min(at + timedelta(hours=1), end)
        if later.astimezone(zone).utcoffset() != offset:
            later = change_between(at, later, zone)
            yield begin, later, offset
            begin = later
            offset = begin.astimezone(zone).utcoffset()
        at = later
    yield begin, end, offset


def first_moment(local, zone):
    """The first moment at which the zone's clock shows this local time or a later one."""
    utc = local.replace(tzinfo=UTC)
    for begin, end, offset in stretches(utc - timedelta(hours=30), utc + timedelta(hours=30), zone):
        moment = max(begin, utc - offset)
        if moment < end:
            return moment
    raise ValueError(local, zone)


def add_months(local, months):
    month = local.year * 12 + local.month - 1 + months
    year, month = month // 12, month % 12 + 1
    return local.replace(year=year, month=month, day=min(local.day, monthrange(year, month)[1]))


def by_calendar(step, guess, moment, zone):
    """The period whose k-th one begins at local time step(k); "guess" is about k."""
    k = guess - 1
    begin, end = (first_moment(step(j), zone) for j in (k, k + 1))
    assert begin <= moment, (begin, moment)
    while end <= moment:
        k += 1
        begin, end = end, first_moment(step(k + 1), zone)
    return begin, end


def of_months(months, anchor, moment, zone):
    local = local_time(moment, zone)
    passed = (local.year - anchor.year) * 12 + local.month - anchor.month
    return by_calendar(lambda k: add_months(anchor, k * months), passed // months, moment, zone)


def of_days(days, anchor, moment, zone):
    return by_calendar(lambda k: anchor + k * timedelta(days=days),
                       (local_time(moment, zone) - anchor) // timedelta(days=days), moment, zone)


def of_clock(length, moment, zone):
    """An hour or a part of one, between two changes of the clock that shift it."""
    midnight = datetime(1970, 1, 1)
    runs = []
    for begin, end, offset in stretches(moment - timedelta(hours=2), moment + timedelta(hours=2), zone):
        if runs and (offset - runs[-1][2]) % length == timedelta(0):
            runs[-1][1] = end
        else:
            runs.append([begin, end, offset])
    begin, end, offset = next(run for run in runs if run[0] <= moment < run[1])
    local = (moment + offset).replace(tzinfo=None)
    full = (moment - (local - midnight) % length)
    return max(full, begin), min(full + length, end)


def of_elapsed(length, anchor, moment):
    begin = moment - (moment - anchor) % length
    return begin, begin + length


def random_moment():
    kind = random.random()
    first, last = (1970, 2040) if kind < 0.7 else (1880, 1970) if kind < 0.85 else (2040, 9900)
    begin = datetime(first, 1, 1, tzinfo=UTC)
    return begin + (datetime(last, 1, 1, tzinfo=UTC) - begin) * random.random()


@cache
def random_changes(zone):
    """Moments at which the zone's clock changes."""
    changes = []
    for _ in range(6):
        at = random_moment()
        for _ in range(40):
            later = at + timedelta(days=30)
            if later.astimezone(zone).utcoffset() != at.astimezone(zone).utcoffset():
                changes.append(change_between(at, later, zone))
                break
            at = later
    return changes


def random_anchor(zone):
    """A local time: often the end of a month, or near a change of the clock."""
    kind = random.random()
    year = random.randint(1900, 2100)
    if kind < 0.3:
        month = random.randint(1, 12)
        anchor = datetime(year, month, monthrange(year, month)[1])
    elif kind < 0.4:
        anchor = datetime(random.choice([1904, 1996, 2000, 2024, 2096]), 2, 29)
    elif kind < 0.6 and random_changes(zone):
        anchor = local_time(random.choice(random_changes(zone)), zone)
    else:
        anchor = datetime(year, 1, 1) + timedelta(days=random.randrange(365))
    if random.random() < 0.6:
        anchor += timedelta(microseconds=random.randrange(86_400_000_000))
    if random.random() < 0.6:
        anchor = anchor.replace(second=0, microsecond=0)
    return anchor


def plural(number, unit):
    if number == 1 and random.random() < 0.5:
        return unit
    return f"{number} {unit}{'s' if number != 1 else ''}"


def random_period(zone_name, zone):
    """A text, and a function of a moment."""
    anchored = random.random() < 0.4
    anchor = random_anchor(zone) if anchored else datetime(1970, 1, 1)
    since = f" from {anchor.isoformat(random.choice(' T'))}" if anchored else ""
    suffix = f"{since} {zone_name}" if zone_name != "UTC" or random.random() < 0.5 else since
    if anchored and random.random() < 0.2:
        offset = random.choice([-720, -570, -210, -60, 0, 60, 330, 345, 525, 840])
        zone = timezone(timedelta(minutes=offset))
        suffix = f"{since}{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"

    kind = random.choice(["month", "year", "day", "day", "week", "time", "time"])
    if kind in ("month", "year"):
        number = random.choice([1, 1, 2, 3, 4, 6, 7, 18])
        months = number * (12 if kind == "year" else 1)
        return plural(number, kind) + suffix, lambda moment: of_months(months, anchor, moment, zone)
    if kind in ("day", "week"):
        number = random.choice([1, 1, 2, 3, 7, 14, 30, 1000])
        days = number * (7 if kind == "week" else 1)
        if not anchored and days % 7 == 0:
            anchor = datetime(1970, 1, 5)
        return plural(number, kind) + suffix, lambda moment: of_days(days, anchor, moment, zone)

    unit = random.choice(list(UNITS))
    if not anchored and zone_name != "UTC":
        number = 1 if unit == "hour" else random.choice([1, 5, 12, 15, 20, 30, 60])
        length = number * UNITS[unit]
        return plural(number, unit) + suffix, lambda moment: of_clock(length, moment, zone)
    number = random.choice([1, 2, 6, 7, 15, 36, 90, 1000])
    length = number * UNITS[unit]
    since_then = first_moment(anchor, zone)
    return plural(number, unit) + suffix, lambda moment: of_elapsed(length, since_then, moment)


def main():
    wanted = int(sys.argv[1])
    random.seed(int(sys.argv[2]))
    zones = sorted(available_timezones() - SKIPPED)
    lines = []
    while len(lines) < wanted:
        kind = random.random()
        name = ("UTC" if kind < 0.1 else random.choice(ODD_ZONES) if kind < 0.7
                else random.choice(zones))
        zone = ZoneInfo(name)
        period, around = random_period(name, zone)
        for _ in range(10):
            moment = random_moment()
            if random_changes(zone) and random.random() < 0.6:
                moment = random.choice(random_changes(zone)) + random.choice(
                    [timedelta(0), timedelta(microseconds=-1), timedelta(seconds=1),
                     timedelta(hours=random.uniform(-2, 2)),
                     timedelta(hours=random.uniform(-30, 30))])
            begin, end = around(moment)
            lines.append("\t".join([period] + [at.astimezone(UTC).isoformat()
                                               for at in (moment, begin, end)]))
    random.shuffle(lines)
    print("\n".join(lines[:wanted]))


main()
