"""
mutants.py N|all SEED [unit] KIND...
	See the script "mutants" beside this, which builds everything and calls this in its copy.

A mutant that does not compile, or to the same machine code, is none.  Of the others, those that the
unit tests (test/unit) do not find are linked into the library, and tests are run on servers until one
fails.
"""
import collections
import concurrent.futures
import glob
import os
import random
import re
import shutil
import subprocess
import sys
import time

N, SEED, KINDS = sys.argv[1], sys.argv[2], [kind for kind in sys.argv[3:] if kind != 'unit']
ONLY_UNIT = 'unit' in sys.argv
HERE = os.path.dirname(os.path.realpath(__file__))
WORK = os.environ['RATELIMIT_WORK']
OBJECTS, MUTATED = os.path.join(WORK, 'objects'), os.path.join(WORK, 'mutated')
TEMPLATE, DATA = os.path.join(WORK, 'template'), os.path.join(WORK, 'mutants')


def pg_config(what):
	return subprocess.run([os.environ['PG_CONFIG'], what], capture_output=True, text=True, check=True).stdout.strip()


CC = ['gcc', '-O1', '-fPIC', '-g0', '-std=gnu99', '-fwrapv', '-fno-strict-aliasing', '-fvisibility=hidden', '-w', '-D_GNU_SOURCE', '-Isrc',
	  '-I' + pg_config('--includedir-server')]
LIBRARY = os.path.join(pg_config('--pkglibdir'), 'ratelimit.so')
PG_CTL = os.path.join(pg_config('--bindir'), 'pg_ctl')

# Unit tests: the program, and what it drives
UNIT_TESTS = {
	'bucket_test': ['test/unit/bucket_driver.c', 'src/core/bucket.c'],
	'word_test': ['test/unit/word_test.c', *(f'src/memory/{name}.c' for name in ('slots', 'search', 'consume', 'claim', 'grow', 'place')),
				  'src/core/bucket.c', 'src/core/names.c'],
}

# The files, and the tests that have to find their mutants: the quickest first.
SOURCES = {
	'arithmetic': (['src/core/bucket.c', 'src/core/bucket.h'],
				   ['bucket_test', 'word_test', 'sql consume many answers initial rates periods reserve simulate', 'tap 100_periods_exact',
					'tap 110_reservations_under_load', 'tap 003_exact_in_table', 'tap 051_wait']),
	'word': (['src/memory/slots.h', 'src/memory/slots.c', 'src/memory/short_way.h', 'src/memory/consume.c', 'src/memory/search.h'],
			 ['word_test', 'sql consume many answers initial rates periods reserve preload_memory blocks status hand_over new_keys_in_a_row',
			  'tap 017_names_of_all_lengths', 'tap 082_stopped_at_random', 'tap 080_stopped_process', 'tap 002_exact_in_memory',
			  'tap 020_exact_under_load', 'tap 015_growing', 'tap 005_full_partition', 'tap 050_all_or_nothing']),
}

# If these do not compile, nothing that includes a header does.
PROBES = ['src/core/bucket.c', 'src/memory/consume.c', 'src/memory/slots.c']

# a pattern of code, and what may stand in its place
CHANGES = [
	(r'(?<=[^<>=!+\-]) < (?=[^<=])', [' <= ', ' > ']), (r' <= ', [' < ']), (r'(?<=[^<>=!\-]) > (?=[^>=])', [' >= ', ' < ']), (r' >= ', [' > ']),
	(r' == ', [' != ']), (r' != ', [' == ']), (r' && ', [' || ']), (r' \|\| ', [' && ']),
	(r'(?<=[\w)]) \+ (?=[\w(])', [' - ']), (r'(?<=[\w)]) - (?=[\w(])', [' + ']), (r' << ', [' >> ']), (r' >> ', [' << ']),
	(r'(?<=[\w)]) \* (?=[\w(])', [' / ']), (r'(?<=[\w)]) / (?=[\w(])', [' * ']), (r' % ', [' / ']), (r' \+= ', [' -= ', ' = ']), (r' -= ', [' += ']), (r' \|= ', [' = ']),
	(r'\bMin\(', ['Max(']), (r'\bMax\(', ['Min(']), (r'\bceil\(', ['floor(']), (r'\bfloor\(', ['ceil(']), (r'\btrue\b', ['false']), (r'\bfalse\b', ['true']),
	(r'(?<=[(!&| ])!(?=[\w(])', ['']), (r'\b0\b(?!x)', ['1']), (r'\b1\b', ['0', '2']), (r'\b(?:2|3|4|16|26|36|48|52|53|62|64|126|192|1000)\b', ['+1']),
	(r'^(\t+)(?!return|if|while|for|else|case|break|continue|static|const)(?:[\w>\-.*\[\]&]+ (?:=|\+=|-=|\|=) [^;{]*|(?!Assert|pg_\w+_barrier|memset)\w+\([^;{]*\));$', [r'\1;']),
]


def candidates(path):
	"""(name, line number, mutated line) of a file."""
	with open(path, encoding='utf-8') as file:
		lines = file.read().split('\n')
	comment = False
	function = ''
	seen = collections.Counter()
	for i, line in enumerate(lines):
		if comment or re.match(r'\s*/\*', line):
			comment = '*/' not in line
			continue
		code = line.split('/*')[0]
		function = (re.match(r'(\w+)\(', line) or [None, function])[1]
		if not line.startswith('\t') or 'Assert' in line or 'barrier' in line or 'prefetch' in line or re.match(r'\t(?:const )?\w+\s+\*?\w+;', line):
			continue
		for pattern, others in CHANGES:
			for match in re.finditer(pattern, code):
				for other in others:
					text = str(int(match.group()) + 1) if other == '+1' else match.expand(other) if '\\1' in other else other
					text = code[:match.start()] + text + code[match.end():] + line[len(code):]
					name = f'{path} {function}: {code.strip()} => {text.split("/*")[0].strip()}'
					seen[name] += 1
					yield name + (f' ({seen[name]})' if seen[name] > 1 else ''), i, text


def object_of(folder, unit):
	return os.path.join(folder, unit.replace('/', '-') + '.o')


def compile_one(folder, unit):
	"""The machine code; None if it does not compile."""
	path = object_of(folder, unit)
	if subprocess.run([*CC, '-c', unit, '-o', path], capture_output=True, check=False).returncode != 0:
		return None
	with open(path, 'rb') as file:
		return file.read()


def compile_all(folder, units):
	"""{unit: machine code}, or None if one does not compile."""
	os.makedirs(folder, exist_ok=True)
	with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
		codes = dict(zip(units, pool.map(lambda unit: compile_one(folder, unit), units)))
	return None if None in codes.values() else codes


def unit_fails(test, path, includes):
	"""Does a unit test fail?  What includes the file that has changed is compiled for it."""
	program, *units = UNIT_TESTS[test]
	changed = [unit for unit in [program, *units] if path in includes[unit]]
	if compile_all(MUTATED, changed) is None:
		return True
	objects = [object_of(MUTATED if unit in changed else OBJECTS, unit) for unit in [program, *units]]
	binary = os.path.join(WORK, test)
	if subprocess.run(['gcc', '-o', binary, *objects, '-lm'], capture_output=True, check=False).returncode != 0:
		return True
	if test == 'word_test':
		return run(binary, 30) is not None
	return run(f'env PYTHONDONTWRITEBYTECODE=1 python3 test/unit/bucket_test.py {binary} --calls 10000', 90) is not None


def link(units, changed):
	"""The library, of which these units have changed.  A running server keeps the one that it has."""
	objects = [object_of(MUTATED if unit in changed else OBJECTS, unit) for unit in units]
	new = LIBRARY + '.new'
	if subprocess.run(['gcc', '-shared', '-o', new, *objects, '-lm'], capture_output=True, check=False).returncode != 0:
		return False
	os.rename(new, LIBRARY)
	return True


def stop_servers():
	"""As servers are sessions of their own"""
	for top in ('tmp_check', DATA):
		for folder, _, names in os.walk(top):
			if 'postmaster.pid' in names:
				subprocess.run([PG_CTL, '-D', folder, '-m', 'immediate', 'stop'], capture_output=True, check=False)


def run(command, seconds, failure='^not ok'):
	"""The first line that says what failed, or that it took too long; None if all is well."""
	with subprocess.Popen(f'timeout {seconds} {command}', shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
						  start_new_session=True, text=True, errors='replace') as process:
		try:
			for line in process.stdout:
				if re.search(failure, line):
					return line
			return None if process.wait() == 0 else 'it did not end well'
		finally:
			try:
				os.killpg(process.pid, 9)
			except ProcessLookupError:
				pass
			stop_servers()


def server(*arguments):
	return subprocess.run([PG_CTL, '-D', DATA, '-w', '-l', os.path.join(WORK, 'mutants.log'), *arguments],
						  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def make_template():
	subprocess.run(['initdb', '-D', TEMPLATE, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--no-locale', '--no-sync'],
				   stdout=subprocess.DEVNULL, check=True)
	with open(os.path.join(TEMPLATE, 'postgresql.conf'), 'a', encoding='utf-8') as file:
		# a mutant that waits forever is found soon
		file.write(f"fsync = off\nlisten_addresses = ''\nunix_socket_directories = '{WORK}'\nmax_prepared_transactions = 10\n"
				   'shared_preload_libraries = ratelimit\nstatement_timeout = 20s\nrestart_after_crash = off\n')
	os.environ.update(PGHOST=WORK, PGUSER='postgres', PG_TEST_TIMEOUT_DEFAULT='60')


def failed_in(test):
	"""The name of the test that fails, or None."""
	kind, *names = test.split()
	if kind == 'tap':
		return names[0] if run(f'make -s prove_installcheck PROVE_FLAGS=--verbose PROVE_TESTS=test/t/{names[0]}.pl', 240) else None
	shutil.rmtree(DATA, ignore_errors=True)
	shutil.copytree(TEMPLATE, DATA, symlinks=True)
	if not server('start'):
		stop_servers()
		return 'the server does not start'
	line = run(f'make -s installcheck ISOLATION= REGRESS="{" ".join(names)}"', 180, r'FAILED|^not ok')
	return line and (re.search('|'.join(names), line) or ['sql'])[0]


def reasons():
	with open(os.path.join(HERE, 'no_mistakes'), encoding='utf-8') as file:
		return {line.rsplit(' # ', 1)[0].strip() for line in file if ' # ' in line and not line.startswith('#')}


def main():
	folder = os.environ.get('RATELIMIT_COVERAGE')
	kept = os.path.join(folder, 'mutants') if folder else os.path.join(WORK, 'mutants.kept')
	found_before = {}
	if os.path.exists(kept):
		with open(kept, encoding='utf-8') as file:
			found_before = dict(line.rstrip('\n').rsplit('\t', 1) for line in file)
	listed = reasons()
	units = sorted(glob.glob('src/*.c') + glob.glob('src/*/*.c'))
	includes = {}
	for unit in [*units, *(each[0] for each in UNIT_TESTS.values())]:
		text = subprocess.run([*CC, '-MM', unit], capture_output=True, text=True, check=True).stdout
		includes[unit] = set(text.replace('\\\n', ' ').split()[1:])
	original = compile_all(OBJECTS, list(includes))
	make_template()
	by_test = collections.Counter()
	survivors = []
	excused = same = 0
	for kind in KINDS:
		files, tests = SOURCES[kind]
		mutants = [(path, *each) for path in files for each in candidates(path)]
		random.Random(f'{SEED} {kind}').shuffle(mutants)
		print(f'{kind}: {len(mutants)} places', flush=True)
		left = len(mutants) if N == 'all' else int(N)
		for path, name, i, text in mutants:
			if left == 0:
				break
			if name in listed:
				excused += 1
				continue
			if name in found_before:
				if found_before[name] == 'same':
					same += 1
					continue
				left -= 1
				if found_before[name] == 'nobody':
					survivors.append(name)
					print(f'not ok {name}: survived', flush=True)
				else:
					by_test[found_before[name]] += 1
				continue
			with open(path, encoding='utf-8') as file:
				source = file.read()
			lines = source.split('\n')
			lines[i] = text
			began = time.monotonic()
			finder = None
			try:
				with open(path, 'w', encoding='utf-8') as file:
					file.write('\n'.join(lines))
				shutil.rmtree(MUTATED, ignore_errors=True)
				including = [unit for unit in units if path in includes[unit]]
				first = compile_all(MUTATED, [path] if path in units else [unit for unit in including if unit in PROBES])
				if first is None or (path in units and first[path] == original[path]):
					finder = 'same'
				for test in tests:
					if not finder and test in UNIT_TESTS and unit_fails(test, path, includes):
						finder = test
				if not finder:
					codes = compile_all(MUTATED, [unit for unit in including if not ONLY_UNIT or unit.startswith('src/memory/')])
					changed = codes and {unit for unit in codes if codes[unit] != original[unit]}
					if not changed:
						finder = 'same'
					elif not link(units, changed):
						finder = 'the linker'
				for test in tests:
					if not finder and not ONLY_UNIT and test not in UNIT_TESTS:
						finder = failed_in(test)
			finally:
				with open(path, 'w', encoding='utf-8') as file:
					file.write(source)
			if finder or not ONLY_UNIT:
				with open(kept, 'a', encoding='utf-8') as file:
					file.write(f'{name}\t{finder or "nobody"}\n')
			if finder == 'same':
				same += 1
				continue
			left -= 1
			if finder:
				by_test[finder] += 1
				print(f'ok {name}: {finder} ({time.monotonic() - began:.0f} s)', flush=True)
			else:
				survivors.append(name)
				print(f'not ok {name}: survives, in line {i + 1} ({time.monotonic() - began:.0f} s)', flush=True)
	killed = sum(by_test.values())
	print('killed by ' + ', '.join(f'{test} {n}' for test, n in by_test.most_common()))
	print(f'{killed + len(survivors)} mutants: {killed} killed, {len(survivors)} survived; besides, {excused} are no mistakes '
		  f'(no_mistakes) and {same} do not compile, or to the same machine code')
	print(f'{killed} passed, {len(survivors)} failed')
	return not survivors


sys.exit(0 if main() else 1)
