"""
bucket_test.py DRIVER [--sanitized DRIVER] [--seed N] [--calls N]
	Compares src/core/bucket.c with exact rational arithmetic.

Parameters are rationals, as the caller wrote them (1/3, 0.1); bucket.c gets the
nearest doubles.  After every call two models say what the bucket may lack to be
full, in tokens, given what was allowed so far:

	most	every allowed call took exactly its cost.  A call that this leaves
			room for must not be denied.
	least	every call was favoured by 1 ns of refill, and so was every change of
			parameters.  A call that even this has no room for, by 1 ns of refill
			or more, must not be allowed.

Both start from bucket.c's own decisions, so that one error is reported where it
happens.  The tokens it reports must lie between the two as well.

They are kept twice.  For the doubles as they are ("doubles"), there is no
tolerance for a bucket that refills, but that above 2^52 ns (52 days) bucket.c
may favour a call by 2^-52 of the time that its cost or the capacity takes.  For
what the caller wrote ("written") a double, off by up to 2^-53 of itself, and a
quotient of two, off by 2^-52, leave these:

	- The cost takes T ns.  A whole number of nanoseconds below 2^52 ns, above of
	  microseconds, and above 2^58 ns of as round a number as the doubles can
	  tell (grain()), may be taken to be less, never more.
	  Another T may be taken to be as much as the whole number of nanoseconds
	  that lies above it within T * 2^-52.  In general there is none: T would
	  have to end in .9999 or so; "most" is credited with what there is.  The
	  same holds for (capacity - cost) / refill, with 2^-52 of the whole
	  capacity's time.  So all that callers write, like 0.1, 1/3 or
	  1/31557600, is due at the exact instant, for ever.
	- "least" gets T * 2^-52 more, and T * 2^-51 above 2^52 ns.
	- Changing the parameters subtracts capacities from each other: 2^-51 of
	  both, either way.

With refill 0 nothing comes back, so the doubles leave 2^-53 of the capacity for
the sum of all costs.  Whatever is written, a call that fits is not denied; 2^-50
of the capacity is the most that may be had too much, and 10^-17 of it a call.

The driver holds the bucket.  Exit status 0: all passed; the last line counts.
"""
import argparse
import random
import subprocess
import sys
import time
import traceback
from fractions import Fraction as F
from math import ceil, floor

NS = 10**9
YEAR = 31557600
INT64_MAX = 2**63 - 1
OWED_MAX = 2**98
DEBT_MAX = 2**97
U52 = F(1, 2**52)
U51 = F(1, 2**51)
U50 = F(1, 2**50)


class Wrong(Exception):
	pass


def grain(noise):
	"""What a whole number of is told from noise of so many ns."""
	result = 1000
	while result // 16 < floor(noise):
		result *= 10
	return result


def wide(value):
	"""A rational that is short to read."""
	value = F(value)
	return str(value) if len(str(value)) < 40 else '%s (%.17g)' % (value, value)


class Driver:
	def __init__(self, path):
		self.process = subprocess.Popen([path], stdin=subprocess.PIPE,
										stdout=subprocess.PIPE,
										universal_newlines=True, bufsize=1 << 16)
		self.calls = 0

	def new(self, owed=0):
		self.process.stdin.write('new %d\n' % owed)

	def call(self, capacity, refill, cost, elapsed=0, word='call', timeout=0):
		"""allowed, owed, tokens, timed"""
		self.process.stdin.write('%s %s %s %s %d %d\n' % (
			word, float(capacity).hex(), float(refill).hex(), float(cost).hex(), elapsed,
			timeout))
		self.process.stdin.flush()
		answer = self.process.stdout.readline().split()
		if len(answer) != 5:
			raise Wrong('the driver ended: %s' % self.process.poll())
		self.window = int(answer[4])
		self.calls += 1
		return (answer[0] == '1', int(answer[1]), float.fromhex(answer[2]),
				answer[3] == '1')

	def close(self):
		self.process.stdin.close()
		return self.process.wait()


class Model:
	"""What a bucket may lack, in tokens, by one reading of its parameters."""

	def __init__(self, exact):
		self.exact = exact		# the doubles are what is meant
		self.most = self.least = F(0)
		self.capacity = None

	def read(self, value):
		return F(float(value)) if self.exact else F(value)

	def pass_time(self, elapsed):
		if self.capacity is not None and self.timed:
			self.most = max(F(0), self.most - self.refill * elapsed / NS)
			self.least = max(F(0), self.least - self.refill * elapsed / NS)

	def change(self, capacity, refill, timed):
		"""The next call has these parameters."""
		capacity, refill = self.read(capacity), self.read(refill)
		if self.capacity is None:
			pass
		elif (capacity, refill) != (self.capacity, self.refill):
			grown = capacity - self.capacity
			noise = F(0)
			if not self.exact or not timed or not self.timed:
				noise = (capacity + self.capacity) * U51
			off = noise
			if timed:
				off += refill / NS * (1 + F(1, 2**20))
			if not timed or not self.timed:
				off += noise * 4 + F(1, 2**56) + F(capacity, 10**16)
			if self.most > 0:
				self.most = max(F(0), self.most + grown + noise)
			if self.least > 0:
				self.least = max(F(0), self.least + grown - off)
		self.capacity, self.refill, self.timed = capacity, refill, timed

	def late(self, tokens):
		"""By how many ns may the time that these take be overestimated?"""
		span = tokens / self.refill * NS
		if self.exact:
			return F(0)
		if span < 2**52:
			return max(F(0), floor(span * (1 + U52)) - span)
		if span % grain(span * U52) == 0:
			return F(0)
		return span * U52

	def room(self, cost):
		"""most: a call must be allowed up to; least: and denied from."""
		room = self.capacity - cost
		if not self.timed:
			return room, room + self.capacity * U50
		window = self.capacity / self.refill * NS
		span = room / self.refill * NS
		late = F(0)
		if not self.exact and window >= 2**52:
			if span % grain(window * U52) != 0:
				late = window * U52
		early = F(1)
		if window >= 2**52:
			early += window * (U52 if self.exact else U51)
		elif not self.exact:
			early += window * U52
		return room - late * self.refill / NS, room + early * self.refill / NS

	def decided(self, cost, allowed, story):
		cost = self.read(cost)
		if cost == 0:
			if not allowed:
				raise Wrong('cost 0 was denied\n%s' % story())
			return
		if cost > self.capacity and float(cost) > float(self.capacity):
			if allowed:
				raise Wrong('cost above capacity was allowed\n%s' % story())
			return
		must, may_not = self.room(cost)
		if not allowed:
			if self.most <= must and cost <= self.capacity:
				raise Wrong('denied, but at most %s of %s tokens are lacking (%s)\n%s' %
							(wide(self.most), wide(self.capacity), self.name(), story()))
			return
		if self.least >= may_not:
			raise Wrong('allowed, but at least %s of %s tokens are lacking (%s)\n%s' %
						(wide(self.least), wide(self.capacity), self.name(), story()))
		self.take(cost)

	def take(self, cost):
		if not self.timed:
			self.most += cost
			self.least += max(F(0), cost * (1 - U52) - self.capacity / 10**17)
			return
		span = cost / self.refill * NS
		credit = F(1)
		if span >= 2**52:
			credit += span * (U52 if self.exact else U51)
		elif not self.exact:
			credit += span * U52
		self.most += cost + self.late(cost) * self.refill / NS
		self.least += max(F(0), cost - credit * self.refill / NS)

	def holds(self, tokens, story):
		"""Is this what the bucket holds?"""
		tokens = F(tokens)
		slack = self.capacity / 10**12
		if not (self.capacity - self.most - slack <= tokens <=
				self.capacity - self.least + slack):
			raise Wrong('%s tokens, not %s to %s (%s)\n%s' % (
				wide(tokens), wide(self.capacity - self.most),
				wide(self.capacity - self.least), self.name(), story()))

	def name(self):
		return 'doubles' if self.exact else 'written'


class Bucket:
	"""The driver's bucket and both models of it."""

	def __init__(self, driver):
		self.driver = driver
		self.models = [Model(True), Model(False)]
		self.history = []
		self.parameters = None
		driver.new()

	def story(self):
		return '\n'.join(self.history[-12:])

	def call(self, capacity, refill, cost, elapsed=0):
		allowed, owed, tokens, timed = self.driver.call(capacity, refill, cost, elapsed)
		self.history.append('  +%d ns: capacity %s refill %s cost %s: %s, owed %d, tokens %.17g' % (
			elapsed, wide(capacity), wide(refill), wide(cost),
			'allowed' if allowed else 'denied', owed, tokens))
		if timed != is_timed(capacity, refill):
			raise Wrong('timed is %s\n%s' % (timed, self.story()))
		for model in self.models:
			model.pass_time(elapsed)
			model.change(capacity, refill, timed)
			model.decided(cost, allowed, self.story)
			model.holds(tokens, self.story)
		if owed < 0 or owed > self.driver.window or tokens < 0:
			raise Wrong('owed out of range\n' + self.story())
		if timed:
			self.check_owed(capacity, refill, owed, tokens)
		self.parameters = capacity, refill
		return allowed

	def check_owed(self, capacity, refill, owed, tokens):
		"""owed is time by the doubles: exactly between the two models."""
		model = self.models[0]
		lacks = owed * model.refill / NS
		if not model.least <= lacks <= model.most:
			raise Wrong('owes %d ns = %s tokens, not %s to %s\n%s' % (
				owed, wide(lacks), wide(model.least), wide(model.most), self.story()))
		if abs(F(tokens) - (model.capacity - lacks)) > model.capacity / 10**12:
			raise Wrong('tokens is not what owed says\n' + self.story())

	def due(self, capacity, refill, cost):
		"""In how many ns is a call due, as the caller reads it?"""
		model = self.models[1]
		if model.capacity is None or refill == 0 or cost > capacity:
			return 0
		lacks = model.most
		if model.refill != refill or model.capacity != capacity:
			return 0
		return max(0, ceil((lacks - (F(capacity) - F(cost))) / F(refill) * NS))


def is_timed(capacity, refill):
	capacity, refill = F(float(capacity)), F(float(refill))
	return refill > 0 and floor(capacity / refill * NS) < 2**96


def expect(what, got, wanted):
	if got != wanted:
		raise Wrong('%s: %s, not %s' % (what, got, wanted))


#
# Random calls
#

REFILLS = [F(1, YEAR), F(2, YEAR), F(10, YEAR), F(1, 86400), F(1, 3600), F(5, 3600),
		   F(1, 60), F(1, 7), F(1, 3), F(2, 3), F('0.1'), F('0.2'), F('0.3'), F('0.7'),
		   F('1e-3'), F('1e-6'), F(1), F('1.1'), F(3), F(7), F(10), F(60), F(100),
		   F('1000.5'), F(10**6), F(10**9), F('999999999.9')]
CAPACITIES = [F(1), F(2), F(3), F(5), F(10), F(20), F(100), F(1000), F(10**6), F(10**9),
			  F(10**12), F('0.1'), F('0.3'), F('0.7'), F('1e-3'), F('2.5'), F('5.1'),
			  F('99.9'), F('1000000.3'), F('1000000.1'), F('123456.789'),
			  F('999999999999.9'), F(1, 3), F(10, 3), F(2, 7)]


def random_decimal(rng, low, high):
	"""Few digits, as people write them, somewhere between 10^low and 10^high."""
	digits = rng.randint(1, 6)
	value = F(rng.randint(1, 10**digits), 10**digits) * F(10)**rng.randint(low + 1, high)
	return min(max(value, F(10)**low), F(10)**high)


def random_double(rng, low, high):
	return F(10.0 ** rng.uniform(low, high))


def random_refill(rng):
	kind = rng.random()
	if kind < 0.5:
		return rng.choice(REFILLS)
	if kind < 0.62:
		return F(0)
	if kind < 0.8:
		return max(random_decimal(rng, -7, 9), F(1, YEAR))
	if kind < 0.9:
		return max(F(rng.randint(1, 1000), rng.randint(1, 100000)), F(1, YEAR))
	return max(random_double(rng, -7.49, 9), F(1, YEAR))


def random_capacity(rng):
	kind = rng.random()
	if kind < 0.6:
		return rng.choice(CAPACITIES)
	if kind < 0.8:
		return random_decimal(rng, -3, 12)
	if kind < 0.9:
		return F(rng.randint(1, 10**6), rng.randint(1, 1000))
	return random_double(rng, -3, 12)


def random_cost(rng, capacity):
	kind = rng.random()
	if kind < 0.3:
		return F(1)
	if kind < 0.4:
		return capacity
	if kind < 0.5:
		return capacity * F(rng.randint(1, 9), 10)
	if kind < 0.55:
		return capacity * rng.choice([F(1, 3), F(2, 3), F(1, 7), F(1, 64)])
	if kind < 0.65:
		return capacity - min(capacity, random_decimal(rng, -3, 3))
	if kind < 0.70:
		return F(0)
	if kind < 0.74:
		return capacity * 2
	if kind < 0.77:
		return capacity + F(1, 10**rng.randint(1, 15))
	if kind < 0.9:
		return random_decimal(rng, -3, 3)
	if kind < 0.95:
		return random_double(rng, -3, 12)
	return F(rng.randint(1, 100), rng.randint(1, 100))


def random_step(rng, bucket, capacity, refill, cost):
	kind = rng.random()
	if kind < 0.3:
		return 0
	if kind < 0.65:
		return max(0, bucket.due(capacity, refill, cost) + rng.choice([0, 0, -1, 1]))
	if kind < 0.7:
		return rng.randint(1, 1000)
	if kind < 0.9:
		return int(rng.random() * 3 * float(bucket.due(capacity, refill, capacity) + 10))
	if kind < 0.97:
		return int(10 ** rng.uniform(0, 18))
	return rng.choice([INT64_MAX - 1, INT64_MAX, 2**63, 2**64 - 1, 2**64, 2**100,
					   2**126, 2**127 - 1])


def random_sequence(rng, driver, changes):
	"""One bucket's life; changes: how likely a call brings new parameters."""
	bucket = Bucket(driver)
	capacity, refill = random_capacity(rng), random_refill(rng)
	costs = [random_cost(rng, capacity) for _ in range(rng.randint(1, 4))]
	for _ in range(rng.randint(5, 80)):
		if rng.random() < changes:
			kind = rng.random()
			if kind < 0.6:
				capacity = random_capacity(rng)
			if kind > 0.4:
				refill = random_refill(rng)
			costs = [random_cost(rng, capacity) for _ in range(rng.randint(1, 4))]
		cost = rng.choice(costs)
		bucket.call(capacity, refill, cost,
					random_step(rng, bucket, capacity, refill, cost))


def test_random(driver, rng, calls):
	"""random calls, the same parameters throughout"""
	end = driver.calls + calls
	while driver.calls < end:
		random_sequence(rng, driver, 0)


def test_random_changes(driver, rng, calls):
	"""random calls, parameters changing between them"""
	end = driver.calls + calls
	while driver.calls < end:
		random_sequence(rng, driver, rng.choice([0.03, 0.2, 0.6]))


#
# Instants
#

DUE = [F('0.1'), F(1, 3), F(2, 3), F(1, 7), F(1, YEAR), F(7, YEAR), F(10**9), F('1e-3'),
	   F('0.7'), F('0.3'), F(3), F(10), F(1, 3600), F(1, 86400), F('1e6'), F(1, 11)]


def test_due(driver, rng, calls):
	"""a token is there at the instant it is due, and 3 ns before it is not"""
	for refill in DUE:
		for capacity in (F(1), F(5), F('2.5'), F(1000)):
			for cost in (F(1), F('0.1'), F('0.3'), capacity):
				span = cost / refill * NS
				due = ceil(span)
				# above, only what the doubles can tell
				if span >= 2**52 and span % grain(span * U52) != 0:
					continue
				what = 'capacity %s refill %s cost %s' % (capacity, refill, cost)
				driver.new()
				driver.call(capacity, refill, capacity)
				expect(what, driver.call(capacity, refill, cost, due)[0], True)
				# the favour is 1 ns each of the two calls
				if due > 3 and capacity / refill * NS < 2**52:
					driver.new()
					driver.call(capacity, refill, capacity)
					expect(what + ' early', driver.call(capacity, refill, cost, due - 3)[0],
						   False)


def test_due_for_ever(driver, rng, calls):
	"""1,000 tokens taken one by one, each at the very instant it is due"""
	for refill, cost in ((F('0.1'), F(1)), (F(1, 3), F(1)), (F(1, YEAR), F(1)),
						 (F(2, YEAR), F(1)), (F(1, 7), F('0.1')), (F(1, 11), F(1)),
						 (F(1, YEAR), F('0.3')), (F(10**9), F(1)), (F('0.7'), F('0.7'))):
		bucket = Bucket(driver)
		now = 0
		expect('the first', bucket.call(cost, refill, cost), True)
		for n in range(1, 1001):
			due = ceil(n * cost / refill * NS)
			got = driver.call(cost, refill, cost, due - now)[0]
			now = due
			expect('refill %s, token %d' % (refill, n), got, True)
			# a clock that stands still
			if due > 2:
				expect('refill %s, token %d, again' % (refill, n),
					   driver.call(cost, refill, cost, 0)[0], False)


def test_never_more(driver, rng, calls):
	"""hammered for a while, a bucket lets through capacity + refill * time"""
	for capacity, refill, cost, step in (
			(F(5), F('0.1'), F(1), 123456789), (F(20), F('0.2'), F(1), 10**9),
			(F(3), F(1, 3), F(1), 333333333), (F(1), F(1, YEAR), F(1), YEAR * NS // 7),
			(F('0.3'), F('0.7'), F('0.1'), 10**7), (F(10), F(10**9), F(1), 3)):
		driver.new()
		allowed = 0
		now = 0
		for n in range(2000):
			if n:
				now += step
			allowed += driver.call(capacity, refill, cost, step if n else 0)[0]
		most = floor((capacity + refill * now / NS) / cost)
		if capacity > 1 and refill < 10**6:
			# idle instants between two steps lose nothing of a bucket that is
			# never full: all that came may be had
			expect('capacity %s refill %s' % (capacity, refill), allowed,
				   min(most, 2000))
		elif allowed > most:
			raise Wrong('capacity %s refill %s: %d of %d' % (capacity, refill, allowed, most))


def test_clock_ends(driver, rng, calls):
	"""idle from one end of int64 to the other, and owed at its bound"""
	for capacity, refill in ((F(10**12), F(1, YEAR)), (F(1), F(1, YEAR)), (F(5), F('0.1')),
							 (F(10**12), F(10**9)), (F(1), F(10**9))):
		window = floor(capacity / refill * NS)
		for elapsed in (INT64_MAX, INT64_MAX - 1, 2**63, 2**64 - 1, 2**64, 2**96, 2**97,
						2**126, 2**127 - 1):
			bucket = Bucket(driver)
			expect('all', bucket.call(capacity, refill, capacity), True)
			bucket.call(capacity, refill, capacity, elapsed)
			if elapsed >= window:
				expect('full', driver.call(capacity, refill, 0, elapsed)[1], 0)

			# in debt as deep as a store may hold
			driver.new(OWED_MAX)
			allowed, owed, tokens, timed = driver.call(capacity, refill, 1, elapsed)
			expect('owed', owed - (min(NS / refill, window) if allowed else 0) <
				   max(OWED_MAX - elapsed, 0) + 1, True)
			expect('allowed', allowed, OWED_MAX - elapsed <= (capacity - 1) / refill * NS)
			driver.new(OWED_MAX)
			expect('cost 0', driver.call(capacity, refill, 0)[:2], (True, OWED_MAX))
			driver.new(OWED_MAX)
			driver.call(capacity, refill, 0)
			for other in (F(0), F(1, YEAR), F(10**9), F(1)):
				for size in (F(10**12), F(1), F('0.001')):
					allowed, owed, tokens, timed = driver.call(size, other, size)
					if owed < 0 or owed > OWED_MAX or tokens > size:
						raise Wrong('owed %d, tokens %g' % (owed, tokens))
					driver.new(OWED_MAX)
					driver.call(capacity, refill, 0)


#
# Refill 0
#

def admitted(driver, capacity, cost, limit):
	driver.new()
	for n in range(limit + 1):
		if not driver.call(capacity, 0, cost, rng_elapsed(n))[0]:
			return n
	return None


def rng_elapsed(n):
	return (0, 1, INT64_MAX, 2**100)[n % 4]


def test_quota(driver, rng, calls):
	"""refill 0: exactly floor(capacity / cost) calls, whatever time passes"""
	for capacity, cost in (('1', '0.1'), ('0.3', '0.1'), ('1e12', '1e12'), ('0.7', '0.1'),
						   ('1', '0.01'), ('10', '0.1'), ('100', '0.7'), ('2', '2/3'),
						   ('4', '2/3'), ('1', '1/3'), ('1', '1/7'), ('5', '5/7'),
						   ('1e12', '1e9'), ('1e12', '999999999.9'), ('0.9', '0.3'),
						   ('1e-3', '1e-4'), ('123.456', '0.123456'), ('1e-5', '1e-6'),
						   ('3e-300', '1e-300'), ('1e300', '1e299'), ('7e20', '7e18')):
		capacity, cost = F(capacity), F(cost)
		wanted = floor(capacity / cost)
		expect('capacity %s cost %s' % (capacity, cost),
			   admitted(driver, capacity, cost, wanted), wanted)
	for _ in range(300):
		capacity = rng.choice([random_decimal(rng, -3, 12), F(rng.randint(1, 1000))])
		cost = capacity / rng.randint(1, 40)
		if rng.random() < 0.5:
			cost = random_decimal(rng, -2, 1) * capacity
		if capacity / cost > 200 or cost > capacity:
			continue
		wanted = floor(capacity / cost)
		expect('capacity %s cost %s' % (wide(capacity), wide(cost)),
			   admitted(driver, capacity, cost, wanted), wanted)


def test_quota_mixes(driver, rng, calls):
	"""refill 0: decimal costs that add up to the capacity all fit, nothing more"""
	for _ in range(300):
		digits = rng.randint(1, 12)
		capacity = F(rng.randint(1, 10**digits), 10**rng.randint(0, digits))
		unit = 10**rng.randint(0, 3)
		bucket = Bucket(driver)
		left = capacity
		for _ in range(rng.randint(1, 30)):
			cost = F(int(left * rng.random() * unit), unit)
			if cost > 0:
				expect('%s of %s' % (cost, left), bucket.call(capacity, 0, cost), True)
				left -= cost
		if left > 0:
			expect('the rest, %s' % left, bucket.call(capacity, 0, left), True)
		expect('more', bucket.call(capacity, 0, capacity / 10**6), False)
		tokens = driver.call(capacity, 0, 0)[2]
		if not 0 <= tokens <= float(capacity) * 1e-14:
			raise Wrong('%.17g tokens are left of %s' % (tokens, capacity))


def test_quota_last_token(driver, rng, calls):
	"""refill 0: small costs are counted from what a large one left"""
	for capacity, first, cost, wanted in (
			('1e12', '999999999999', '0.001', 1000), ('1e12', '999999999999', '0.0125', 80),
			('1e9', '999999999', '0.001', 1000), ('1e6', '999999.5', '0.0005', 1000),
			('1e12', '999999999999', '0.3', 3), ('1e12', '999999999000', '1/3', 3000)):
		driver.new()
		driver.call(F(capacity), 0, F(first))
		n = 0
		while driver.call(F(capacity), 0, F(cost))[0] and n <= wanted + 1:
			n += 1
		expect('capacity %s cost %s' % (capacity, cost), n, wanted)

	# a thousand calls take a thousand times as much, to what a double shows
	for capacity, cost in (('1e12', '0.3'), ('1e12', '0.7'), ('1e12', '0.001'), ('1e9', '0.6'),
						   ('1e6', '0.003'), ('1000', '0.3'), ('1000', '0.7')):
		driver.new()
		for _ in range(1000):
			tokens = driver.call(F(capacity), 0, F(cost))[2]
		if abs(F(tokens) - (F(capacity) - 1000 * F(cost))) > F(capacity) * U52:
			raise Wrong('capacity %s cost %s: %.17g are left' % (capacity, cost, tokens))


#
# Changes of parameters
#

def test_carry(driver, rng, calls):
	"""what accrued at the old rate carries over, cut to the new capacity"""
	for old, new in ((F(10), F(100)), (F('0.1'), F(1, 3)), (F(1), F(1, YEAR)),
					 (F(1, YEAR), F(10**9)), (F(1), F(0)), (F(0), F(1)), (F(0), F('0.1')),
					 (F(0), F(0)), (F(1, YEAR), F(0)), (F(0), F(1, YEAR)), (F(1), F(1))):
		for size, size_new in ((F(10), F(20)), (F(10), F(4)), (F(10), F(10)), (F(10), F('2.5')),
							   (F('0.3'), F('0.2')), (F(10), F(10**12)), (F(10**12), F(1)),
							   (F(10**12), F('0.001')), (F('0.001'), F(10**12))):
			for taken in (size / 5, size / 2, size * F(7, 10), size):
				bucket = Bucket(driver)
				bucket.call(size, old, taken)
				left = min(size - taken, size_new)
				if left > 0:
					# what cannot be told apart at the old capacity
					if size * U51 < size_new / 10**6:
						expect('%s/%s to %s/%s: %s' % (size, old, size_new, new, left),
							   bucket.call(size_new, new, left), True)
				bucket.call(size_new, new, size_new / 100)
				bucket.call(size, old, size / 100)

	# the old capacity takes longer at the new refill than the arithmetic can hold
	bucket = Bucket(driver)
	bucket.call(F('6.5e12'), 10, F('6.5e12'))
	expect('refilled enough', bucket.call(F('4e-9'), F('1e-9'), F('4e-9'), 36 * YEAR * NS), True)

	# half an hour at the old rate, then at the new one
	bucket = Bucket(driver)
	bucket.call(10, F(1, 600), 10)
	expect('3 came at the old rate', bucket.call(10, 1, 3, 1800 * NS), True)
	expect('no more', bucket.call(10, 1, 1), False)
	expect('1 came at the new rate', bucket.call(10, 1, 1, NS), True)
	# growing grants nothing
	expect('growing', bucket.call(1000, 1, 1), False)
	expect('shrinking', bucket.call(1, 1, 1), False)
	# but a full bucket is as good as none
	bucket = Bucket(driver)
	bucket.call(1, 1, 1)
	bucket.call(1, 1, 0, NS)
	expect('full', bucket.call(100, 1, 100), True)


def test_carry_noise(driver, rng, calls):
	"""a bucket emptied to the last bit is empty at a small capacity, not in debt"""
	for capacity in (F(10**12), F('999999999999.9'), F(10**6)):
		for old in (F(1, YEAR), F(1), F(10**9), F(0)):
			driver.new()
			driver.call(capacity, old, 0)
			window = driver.window
			for new in (F(1, YEAR), F(1), F(10**9), F(0)):
				driver.new(window)
				driver.call(capacity, old, 0)
				_, owed, tokens, _ = driver.call(F('0.001'), new, 0)
				if owed > driver.window or tokens < 0:
					raise Wrong('%s at %s to %s: owed %d, tokens %g' % (
						capacity, old, new, owed, tokens))


def test_carry_keeps_quota(driver, rng, calls):
	"""refill 0 to other rates and capacities and back a hundred times: no free pass"""
	for others in ([(F(10), F(0)), (F(1000), F(0)), (F('12.5'), F(0))],
				   [(F(10), F(0)), (F(10), F(1, YEAR))],
				   [(F(10), F(0)), (F(100), F(1)), (F(20), F('0.3'))]):
		driver.new()
		driver.call(others[0][0], others[0][1], 5)
		sizes = min(size for size, _ in others)
		taken = 5
		for n in range(300):
			size, refill = others[n % len(others)]
			taken += driver.call(size, refill, 1)[0]
		if taken > sizes + 1:
			raise Wrong('%d of %s tokens' % (taken, sizes))


#
# Outside the stated range
#

EXTREMES = ['5e-324', '1e-300', '1e-100', '1e-22', '1e-7', '1', '6e12', '1e13', '1e17', '1e22',
			'1e100', '1e300', '1.7976931348623157e308']


def test_extremes(driver, rng, calls):
	"""any finite parameters: a sane answer, no free pass, nothing impossible"""
	sizes = [float(text) for text in EXTREMES]
	for capacity in sizes:
		for refill in [0.0] + sizes:
			for cost in [0.0] + sizes:
				driver.new()
				for elapsed in (0, 0, INT64_MAX):
					allowed, owed, tokens, timed = driver.call(capacity, refill, cost, elapsed)
					if owed < 0 or owed > OWED_MAX or not tokens <= capacity:
						raise Wrong('%g %g %g: owed %d, tokens %g' % (
							capacity, refill, cost, owed, tokens))
				expect('timed', timed, is_timed(capacity, refill))
				expect('%g %g %g' % (capacity, refill, cost), allowed and cost > capacity, False)
				# other parameters, and back
				for other in rng.sample(sizes, 1):
					for rate in (0.0, rng.choice(sizes)):
						_, owed, tokens, _ = driver.call(other, rate, cost, 1)
						if owed < 0 or owed > OWED_MAX or not tokens <= other:
							raise Wrong('%g %g to %g %g: owed %d, tokens %g' % (
								capacity, refill, other, rate, owed, tokens))
		if capacity > 1e-300:
			for parts in (1, 2, 3, 10):
				n = admitted(driver, F(capacity), F(capacity) / parts, parts + 2)
				if n is None or abs(n - parts) > (capacity < 1e-290):
					raise Wrong('capacity %g in %d parts: %s' % (capacity, parts, n))
		# however little a call costs, it takes something
		driver.new()
		driver.call(capacity, 0.0, capacity)
		if driver.call(capacity, 0.0, capacity * 1e-6)[0] and capacity * 1e-6 > 0:
			raise Wrong('capacity %g: an empty bucket allows' % capacity)
		driver.new()
		before = driver.call(capacity, 0.0, 5e-324)[1]
		if driver.call(capacity, 0.0, 5e-324)[1] <= before and capacity > 5e-324:
			raise Wrong('capacity %g: a call takes nothing' % capacity)


def test_debt(driver, rng, calls):
	"""debt and rewards: each undoes the other to the unit, and stays in bounds"""
	rules = [(F(10), F(1)), (F(5), F(0)), (F(1, 3), F(1, 7)), (F(10**9), F(1, YEAR)),
			 (F(1), F(10**9)), (F(100), F(10)), (F('0.3'), F(0)), (F(10**6), F(0))]
	while driver.calls < calls // 4:
		capacity, refill = rng.choice(rules)
		driver.new()
		taken = []
		for n in range(rng.randrange(1, 8)):
			cost = rng.choice((capacity / 10, capacity / 3, capacity, capacity * 2,
							   F(1), F(1, 3)))
			before = driver.call(capacity, refill, 0)
			allowed, owed, tokens, timed = driver.call(capacity, refill, cost, word='debt')
			expect('allowed', allowed, True)
			taken.append((cost, before[1], owed))
			# what the tokens say, within a ns of refill, or a unit of quota, a call
			slack = (len(taken) + 1) * refill / NS if timed else capacity / 10**16
			lacking = sum(c for c, b, o in taken)
			slack += (lacking + capacity) * F(1, 2**48)
			if abs(F(tokens) - (capacity - lacking)) > slack:
				raise Wrong('%s of %s are lacking, tokens %.17g: refill %s, %s' % (
					wide(lacking), capacity, tokens, refill, [wide(c) for c, b, o in taken]))
			if tokens < -float(slack):
				expect('denied in debt', driver.call(capacity, refill, capacity / 10)[0], False)
		for cost, before, after in reversed(taken):
			expect('given back', driver.call(capacity, refill, cost, word='give')[1], before)
		expect('never above capacity', driver.call(capacity, refill, capacity, word='give')[1], 0)

	# without end, and back to what can be
	for capacity, refill in rules + [(F(1), F(0)), (F(10)**15, F(0)), (F(10**12), F(1, YEAR))]:
		driver.new()
		for n in range(300):
			owed = driver.call(capacity, refill, F(10)**(n % 300 + 1), word='debt')[1]
			if not 0 < owed <= driver.window + DEBT_MAX <= OWED_MAX:
				raise Wrong('owed %d' % owed)
		for other in (F(0), F(1, YEAR), F(10**9), F(1)):
			owed = driver.call(capacity, other, 0)[1]
			if not 0 < owed <= driver.window + DEBT_MAX <= OWED_MAX:
				raise Wrong('owed %d after a change' % owed)


def test_wait(driver, rng, calls):
	"""a call that may wait is allowed if its tokens are due in time, to the ns"""
	while driver.calls < calls // 4:
		capacity, refill, cost = rng.choice((
			(F(1), F(10), F(1)), (F(5), F('0.1'), F(2)), (F(3), F(1, 3), F(1)),
			(F(100), F(10**6), F(7)), (F(1), F(1, YEAR), F(1))))
		driver.new()
		due = cost / refill * NS
		n = rng.randrange(0, 20)
		for i in range(floor(capacity / cost) + n):
			expect('reserved', driver.call(capacity, refill, cost, word='wait',
										   timeout=YEAR * NS * 1000)[0], True)
		held = capacity - cost * (floor(capacity / cost) + n)
		wait = (cost - held) / refill * NS
		late = rng.randrange(2, 10**6) * max(1, floor(due / 10**7))
		early = max(floor(wait) - late - (n + 2) - floor(wait * U50) - 1, 0)
		if wait > early + 1:
			expect('too early', driver.call(capacity, refill, cost, word='wait',
											timeout=early)[0], False)
		expect('in time', driver.call(capacity, refill, cost, word='wait',
									  timeout=ceil(wait))[0], True)
	# more than a bucket holds never comes, and without refill nothing does
	driver.new()
	expect('above capacity', driver.call(2, 1, 3, word='wait', timeout=2**90)[0], False)
	expect('quota', driver.call(2, 0, 2, word='wait', timeout=2**90)[0], True)
	expect('quota', driver.call(2, 0, 1, word='wait', timeout=2**90)[0], False)


TESTS = [test_debt, test_wait, test_due, test_due_for_ever, test_never_more, test_clock_ends, test_quota,
		 test_quota_mixes, test_quota_last_token, test_carry, test_carry_noise,
		 test_carry_keeps_quota, test_extremes, test_random, test_random_changes]


def main():
	parser = argparse.ArgumentParser()
	parser.add_argument('driver')
	parser.add_argument('--sanitized')
	parser.add_argument('--seed', type=int, default=20150517)
	parser.add_argument('--calls', type=int, default=120000)
	arguments = parser.parse_args()

	print('seed %d (--seed N for another)' % arguments.seed)
	drivers = [(arguments.driver, '', arguments.calls)]
	if arguments.sanitized:
		drivers.append((arguments.sanitized, ', undefined behaviour trapped',
						arguments.calls // 10))
	passed = failed = total = 0
	began = time.monotonic()
	for path, where, calls in drivers:
		for test in TESTS:
			driver = Driver(path)
			rng = random.Random('%d %s' % (arguments.seed, test.__name__))
			share = calls * 2 // 3 if test is test_random else calls // 3
			try:
				test(driver, rng, share)
				if driver.close() != 0:
					raise Wrong('the driver ended with %s' % driver.process.returncode)
			except (Wrong, BrokenPipeError) as error:
				failed += 1
				print('not ok - %s%s\n%s' % (test.__doc__, where, error))
				driver.process.kill()
			except Exception:
				failed += 1
				print('not ok - %s%s' % (test.__doc__, where))
				traceback.print_exc(file=sys.stdout)
				driver.process.kill()
			else:
				passed += 1
				print('ok - %s%s (%d calls)' % (test.__doc__, where, driver.calls))
			total += driver.calls
			sys.stdout.flush()
	print('%d calls in %.1f s' % (total, time.monotonic() - began))
	print('%d passed, %d failed' % (passed, failed))
	return failed > 0


if __name__ == '__main__':
	sys.exit(main())
