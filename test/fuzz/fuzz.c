/*
 * fuzz.c
 *		libFuzzer in a server process.
 *
 * What is fuzzed calls functions of the server all the time, and no library has these.
 * So the fuzzers are linked into the extension's library together with libFuzzer, and
 * the SQL function fuzz() hands a server process over to libFuzzer.  That calls
 * try_input() again and again, watches which branches of the extension an input takes,
 * and makes new inputs of those that took new ones.  In the end it exits, and with it the
 * process.
 *
 * Each input runs in a subtransaction.  An error is a finding unless its SQLSTATE is one
 * that the fuzzer names.  So are undefined behaviour, which the compiler makes a trap,
 * whatever a fuzzer itself finds wrong, and, if the server has assertions, one that fails,
 * and memory that is written to beyond its end.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "core/compat.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								int (*callback) (const uint8 *data, size_t size));

static const Fuzzer *const fuzzers[] = {
	&fuzz_bucket, &fuzz_headers, &fuzz_period, &fuzz_postgrest, &fuzz_reports, &fuzz_saved
};

static const Fuzzer *fuzzer;
static MemoryContext input_context;

/* Say what is wrong, and let libFuzzer keep the input. */
void
finding(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	fprintf(stderr, "FINDING: ");
	vfprintf(stderr, format, args);
	fprintf(stderr, "\n");
	va_end(args);
	abort();
}

uint8
take_byte(Bytes *input)
{
	return input->at < input->end ? *input->at++ : 0;
}

void
take_bytes(Bytes *input, void *to, Size n)
{
	for (Size i = 0; i < n; i++)
		((uint8 *) to)[i] = take_byte(input);
}

/* A number as people write it, or any double. */
double
take_double(Bytes *input)
{
	uint8		kind = take_byte(input);
	uint16		digits;
	double		value;

	if (kind >= 0xf0)
	{
		take_bytes(input, &value, sizeof(value));
		return value;
	}
	take_bytes(input, &digits, sizeof(digits));
	value = digits;
	for (int i = kind % 24; i < 9; i++)
		value /= 10;
	for (int i = kind % 24; i > 9; i--)
		value *= 10;
	return value;
}

/* A text without zeros, of at most so many bytes, which a zero ends. */
char *
take_text(Bytes *input, int most, int *len)
{
	char	   *text = palloc(most + 1);
	int			n = 0;

	while (n < most && input->at < input->end && *input->at != '\0')
		text[n++] = *input->at++;
	if (input->at < input->end && *input->at == '\0')
		input->at++;
	text[n] = '\0';
	*len = n;
	return text;
}

/*
 * What would go to the server's log.  With assertions, the server complains there about
 * what has been written beyond allocated memory.  All else would fill the log.
 */
static void
watch_log(ErrorData *message)
{
	message->output_to_server = false;
	if (message->message && (strstr(message->message, "past chunk") ||
							 strstr(message->message, "problem in alloc set")))
		finding("%s", message->message);
}

/* Is this one of the fuzzer's SQLSTATEs, or in one of its classes? */
static bool
may_be_raised(const char *sqlstate)
{
	char	   *list = pstrdup(fuzzer->errors);

	for (char *each = strtok(list, " "); each; each = strtok(NULL, " "))
		if (strncmp(each, sqlstate, strlen(each)) == 0)
			return true;
	return false;
}

static int
try_input(const uint8 *data, size_t size)
{
	Bytes		input = {data, data + size};
	MemoryContext outer = MemoryContextSwitchTo(input_context);
	ResourceOwner owner = CurrentResourceOwner;

	CHECK_FOR_INTERRUPTS();
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(input_context);
	PG_TRY();
	{
		fuzzer->try(&input);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(input_context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (!may_be_raised(unpack_sql_state(error->sqlerrcode)))
			finding("error %s: %s", unpack_sql_state(error->sqlerrcode), error->message);
	}
	PG_END_TRY();
	CurrentResourceOwner = owner;
	MemoryContextSwitchTo(outer);
	MemoryContextReset(input_context);
	return 0;
}

/* fuzz(name, log, arguments of libFuzzer): does not return */
SQL_FUNCTION(fuzz);

Datum
fuzz(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	int			log = open(text_to_cstring(PG_GETARG_TEXT_PP(1)),
						   O_WRONLY | O_CREAT | O_TRUNC, 0600);
	Datum	   *given;
	int			n;
	char	  **arguments;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), TEXTOID, -1, false, TYPALIGN_INT,
					  &given, NULL, &n);
	arguments = palloc0((n + 2) * sizeof(char *));
	arguments[0] = name;
	for (int i = 0; i < n; i++)
		arguments[i + 1] = TextDatumGetCString(given[i]);
	for (int i = 0; i < lengthof(fuzzers); i++)
		if (strcmp(name, fuzzers[i]->name) == 0)
			fuzzer = fuzzers[i];
	if (!fuzzer || log < 0 || dup2(log, STDERR_FILENO) < 0)
		elog(ERROR, "no fuzzer \"%s\", or no log", name);

	SetConfigOption("log_min_messages", "warning", PGC_SUSET, PGC_S_SESSION);
	emit_log_hook = watch_log;
	input_context = AllocSetContextCreate(TopMemoryContext, "fuzz", ALLOCSET_DEFAULT_SIZES);
	n++;
	LLVMFuzzerRunDriver(&n, &arguments, try_input);
	PG_RETURN_VOID();
}
