"""
mutants.py N SEED KIND...
	See the script "mutants" beside this, which builds everything and calls this in its copy.
"""
import os
import random
import re
import subprocess
import sys
import time

N, SEED, KINDS = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
HERE = os.path.dirname(os.path.realpath(__file__))
CC = ['gcc', '-O2', '-fPIC', '-g0', '-std=gnu99', '-fwrapv', '-fno-strict-aliasing', '-w', '-D_GNU_SOURCE', '-Isrc',
	  '-I' + subprocess.run([os.environ['PG_CONFIG'], '--includedir-server'], capture_output=True, text=True, check=True).stdout.strip()]

# the files, what else has to be compiled to see whether a header's mutant is any different, and
# tests that have to find it: commands, the quickest first
SOURCES = {
	'arithmetic': (['src/core/bucket.c', 'src/core/bucket.h'], ['src/core/bucket.c', 'src/memory/consume.c'],
				   ['unit', 'tap 100_periods_exact', 'tap 110_reservations_under_load', 'tap 003_exact_in_table']),
	'word': (['src/memory/slots.h', 'src/memory/slots.c', 'src/memory/short_way.h', 'src/memory/consume.c', 'src/memory/search.h'],
			 ['src/memory/consume.c', 'src/memory/slots.c', 'src/memory/place.c', 'src/memory/claim.c', 'src/functions/consume.c'],
			 ['tap 002_exact_in_memory', 'tap 017_names_of_all_lengths', 'tap 082_stopped_at_random', 'tap 020_exact_under_load',
			  'tap 015_growing', 'tap 005_full_partition', 'tap 050_all_or_nothing', 'tap 080_stopped_process']),
}

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
	"""(line number, mutated line) of a file."""
	with open(path, encoding='utf-8') as file:
		lines = file.read().split('\n')
	comment = False
	for i, line in enumerate(lines):
		if comment or re.match(r'\s*/\*', line):
			comment = '*/' not in line
			continue
		code = line.split('/*')[0]
		if not line.startswith('\t') or 'Assert' in line or 'barrier' in line or 'prefetch' in line or re.match(r'\t(?:const )?\w+\s+\*?\w+;', line):
			continue
		for pattern, others in CHANGES:
			for match in re.finditer(pattern, code):
				for other in others:
					text = str(int(match.group()) + 1) if other == '+1' else match.expand(other) if '\\1' in other else other
					yield i, code[:match.start()] + text + code[match.end():] + line[len(code):]


def compiled(files):
	"""What the compiler makes of them; None if it does not compile."""
	result = b''
	for path in files:
		object_path = os.path.join(os.environ['RATELIMIT_WORK'], 'mutant.o')
		if subprocess.run([*CC, '-c', path, '-o', object_path], capture_output=True, check=False).returncode != 0:
			return None
		subprocess.run(['strip', '--strip-debug', object_path], check=True)
		with open(object_path, 'rb') as file:
			result += file.read()
	return result


def run(command, seconds):
	"""Does it succeed in time?"""
	process = subprocess.Popen(command, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
	try:
		return process.wait(seconds) == 0
	except subprocess.TimeoutExpired:
		return False
	finally:
		try:
			os.killpg(process.pid, 9)
		except ProcessLookupError:
			pass
		# servers are sessions of their own
		for folder, _, names in os.walk('tmp_check'):
			if 'postmaster.pid' in names:
				subprocess.run([os.path.join(os.path.dirname(os.environ['PG_CONFIG']), 'pg_ctl'), '-D', folder, '-m', 'immediate', 'stop'],
							   capture_output=True, check=False)


def passes(test):
	if test == 'unit':
		return run('test/unit/run --calls 30000', 120)
	return run(f'make -s prove_installcheck PROVE_TESTS=test/t/{test.split()[1]}.pl', 240)


def reasons():
	with open(os.path.join(HERE, 'no_mistakes'), encoding='utf-8') as file:
		return {line.rsplit(' # ', 1)[0].strip() for line in file if ' # ' in line and not line.startswith('#')}


def main():
	known = reasons()
	found = survived = 0
	for kind in KINDS:
		rng = random.Random(f'{SEED} {kind}')
		files, units, tests = SOURCES[kind]
		mutants = [(path, i, text) for path in files for i, text in candidates(path)]
		original = compiled(units)
		rng.shuffle(mutants)
		print(f'{kind}: {len(mutants)} mutants can be made', flush=True)
		left = N
		for path, i, text in mutants:
			if left == 0:
				break
			with open(path, encoding='utf-8') as file:
				source = file.read()
			lines = source.split('\n')
			name = f'{path}: {lines[i].strip()} => {text.strip()}'
			lines[i] = text
			try:
				with open(path, 'w', encoding='utf-8') as file:
					file.write('\n'.join(lines))
				machine_code = compiled(units if path.endswith('.h') else [path])
				if machine_code is None or machine_code == (original if path.endswith('.h') else None) or name in known:
					continue
				if not path.endswith('.h'):
					with open(path, 'w', encoding='utf-8') as file:
						file.write(source)
					if machine_code == compiled([path]):
						continue
					with open(path, 'w', encoding='utf-8') as file:
						file.write('\n'.join(lines))
				left -= 1
				began = time.monotonic()
				finder = None
				if not run('make -s -j2 all install', 300):
					finder = 'the compiler'
				for test in tests:
					if finder:
						break
					if not passes(test):
						finder = test
			finally:
				with open(path, 'w', encoding='utf-8') as file:
					file.write(source)
			if finder:
				found += 1
				print(f'ok {name}: {finder} ({time.monotonic() - began:.0f} s)', flush=True)
			else:
				survived += 1
				print(f'not ok {name}: survives, in line {i + 1}', flush=True)
	run('make -s -j2 all install', 300)
	print(f'{found} passed, {survived} failed')
	return survived == 0


sys.exit(0 if main() else 1)
