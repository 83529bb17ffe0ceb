/*
 * test/model/slot_wrap.pml
 *		The word's value comes around (memory/slots.h, "Why a word's value does not
 *		come back"), with numbers that are small enough to try all of them.
 *
 * In src/memory/slots.h WORD_VALUES is 2^62, BASE_UNIT 2^36, and MAX_ADVANCE 2^48.  A
 * caller loads the word.  Then others change the bucket, with the lock or without.
 * The caller's swap must not succeed after less than WORD_VALUES / MAX_ADVANCE
 * changes without the lock and WORD_VALUES / BASE_UNIT with it.  Base and value
 * together always say when the bucket will be full.
 *
 * holds: FREE=3 LOCKED=1
 * holds: FREE=0 LOCKED=7
 * long: FREE=3 LOCKED=3
 * long: FREE=1 LOCKED=6
 * refuted: FREE=4 LOCKED=2: enough changes without the lock for the value to come around
 * refuted: FREE=0 LOCKED=8: the same with the lock
 * refuted: FREE=1 LOCKED=1 NO_MAX_ADVANCE: large steps without the lock
 * refuted: FREE=0 LOCKED=1 SAME_WORD: a lock that is released with the value it had
 * refuted: FREE=1 LOCKED=1 NO_BASE: base stays as it was when the value is set
 */
#define WORD_VALUES	16
#define BASE_UNIT	2
#ifdef NO_MAX_ADVANCE
#define MAX_ADVANCE	17
#else
#define MAX_ADVANCE	4
#endif
#define CENTER		64			/* keeps the remainders of what is below 0 right */

short word;						/* value * 2 + lock */
short base;
short full_at;					/* what base and value are to say */
byte changes;					/* since the caller's load */
bit started;

/* unlock_changed() in memory/slots.c: "value" becomes the word's new value. */
inline unlock_changed(value, new_full_at)
{
#ifndef SAME_WORD
	value++;
#endif
	value = value + (new_full_at + CENTER * BASE_UNIT - value) % BASE_UNIT;
	value = value % WORD_VALUES;
#ifndef NO_BASE
	base = (new_full_at + CENTER * BASE_UNIT - value) / BASE_UNIT - CENTER;
#endif
	full_at = new_full_at;
	word = value * 2;
	assert(base * BASE_UNIT + value == full_at)
}

/* The call that holds a word: consume_here() in memory/short_way.h. */
active proctype call()
{
	short w;

	d_step { started -> w = word; changes = 0 }
	d_step {
		/* swap_word(): succeeds only if nobody has changed the bucket */
		if
		:: word == w -> assert(changes == 0)
		:: else
		fi
	}
}

active proctype others()
{
	byte free = FREE;
	byte locked = LOCKED;
	short value, advance;

	/* any state to begin with */
	select(value : 0 .. WORD_VALUES + MAX_ADVANCE - 2);
	skip;
	d_step {
		word = value * 2;
		base = 1;
		full_at = base * BASE_UNIT + value;
		value = 0;
		started = 1
	}
	do
	:: free > 0 && word / 2 < WORD_VALUES ->
		/* swap_word(): without the lock, by less than MAX_ADVANCE */
		select(advance : 1 .. MAX_ADVANCE - 1);
		skip;
		d_step {
			word = word + advance * 2;
			full_at = full_at + advance;
			free--;
			changes++;
			assert(base * BASE_UNIT + word / 2 == full_at);
			advance = 0
		}
	:: locked > 0 ->
		/* consume_locked(), memory_set() and others: any state may follow */
		select(advance : 0 .. 3);
		skip;
		d_step {
			value = word / 2;
			unlock_changed(value, advance);
			locked--;
			changes++;
			advance = 0;
			value = 0
		}
	:: break
	od
}
