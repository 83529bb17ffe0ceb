/*
 * functions/postgrest.c
 *		Limits on the requests of PostgREST: rl_postgrest_check().
 *
 * Before each request, PostgREST calls a function that the operator chooses, its
 * db-pre-request, in the transaction of the request and with the role of the request.
 * Settings tell the function what the request is (PostgREST's documentation,
 * "Transactions").  The table rate_limit_postgrest_rules says which requests are
 * limited, by which policy, and by which key.  All rules that match the request are
 * obeyed, in order: the first one that denies it raises the error that PostgREST
 * answers with status 429, and a rule without a policy lets it pass.
 *
 * A client must not be able to choose its bucket.  So the path of a request is
 * compared as PostgREST reads it, with %XX decoded.  From a header with a list of
 * addresses, the key is the one that the outermost of the operator's own proxies has
 * added.  An IPv6 address counts as its /64 prefix, as one client has all addresses
 * of a prefix.  Requests without the header that keys come from share one bucket.
 *
 * The rules are kept in the session (decide/postgrest_rules.c), and read with the
 * rights of the extension's owner, so that callers need no rights on the table.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include "core/names.h"
#include "core/settings.h"
#include "decide/policies.h"
#include "decide/postgrest_rules.h"
#include "fmgr.h"
#include "functions/http_answer.h"
#include "functions/result.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

SQL_FUNCTION(rl_postgrest_check);

/* The key of requests that do not have the header, or no address in it. */
#define NO_KEY			"(none)"

#define DEFAULT_HEADER	"x-forwarded-for"

/* The length of the prefix of an IPv6 address that is a key, in bytes. */
#define PREFIX_BYTES	8

/* A request.  Its path, claims and headers are parsed when a rule needs them. */
typedef struct Request
{
	const char *method;			/* NULL: not known */
	const char *role;
	char	   *path;			/* decoded; NULL: not yet */
	bool		claims_read;
	Jsonb	   *claims;			/* NULL: it has none */
	bool		headers_read;
	Jsonb	   *headers;		/* NULL: it has none */
} Request;

/* The value of a setting of PostgREST, or NULL if it is not set. */
static const char *
get_setting(const char *name)
{
	const char *value = GetConfigOption(name, true, false);

	return value && *value ? value : NULL;
}

/* The value of a setting that is a JSON object, or NULL. */
static Jsonb *
get_object(const char *name)
{
	const char *value = get_setting(name);
	Jsonb	   *object;

	if (!value)
		return NULL;
	object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(value)));
	return JB_ROOT_IS_OBJECT(object) ? object : NULL;
}

/* The claims of the request's token, or NULL. */
static Jsonb *
get_claims(Request *request)
{
	if (!request->claims_read)
		request->claims = get_object("request.jwt.claims");
	request->claims_read = true;
	return request->claims;
}

/* The headers of the request, or NULL. */
static Jsonb *
get_headers(Request *request)
{
	if (!request->headers_read)
		request->headers = get_object("request.headers");
	request->headers_read = true;
	return request->headers;
}

/* A string, number or boolean as text; NULL for anything else. */
static char *
scalar_text(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			return NULL;
	}
}

/*
 * The claim of that name, or NULL.  If there is no such claim, and the name has dots,
 * it is the path to a claim inside another one, as app_metadata.plan is.
 */
static JsonbValue *
find_claim(Request *request, const char *name)
{
	Jsonb	   *claims = get_claims(request);
	JsonbContainer *container;

	if (!claims)
		return NULL;
	container = &claims->root;
	for (;;)
	{
		JsonbValue *value = getKeyJsonValueFromContainer(container, name, strlen(name), NULL);
		const char *dot;

		if (value)
			return value->type == jbvNull ? NULL : value;
		dot = strchr(name, '.');
		if (!dot)
			return NULL;
		value = getKeyJsonValueFromContainer(container, name, dot - name, NULL);
		if (!value || value->type != jbvBinary ||
			!JsonContainerIsObject(value->val.binary.data))
			return NULL;
		container = value->val.binary.data;
		name = dot + 1;
	}
}

/* Is the claim the value, or an array that contains it? */
static bool
claim_is(const JsonbValue *claim, const char *value)
{
	char	   *scalar;

	if (claim->type == jbvBinary && JsonContainerIsArray(claim->val.binary.data))
	{
		JsonbIterator *iterator = JsonbIteratorInit(claim->val.binary.data);
		JsonbValue	element;
		JsonbIteratorToken token;

		while ((token = JsonbIteratorNext(&iterator, &element, true)) != WJB_DONE)
		{
			if (token != WJB_ELEM)
				continue;
			scalar = scalar_text(&element);
			if (scalar && strcmp(scalar, value) == 0)
				return true;
		}
		return false;
	}
	scalar = scalar_text(claim);
	return scalar && strcmp(scalar, value) == 0;
}

/* The value of a hexadecimal digit; -1 if it is not one. */
static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * The request's path with each %XX decoded, except %00.  PostgREST takes a path without
 * the slash at its beginning for the same path.
 */
static const char *
get_path(Request *request)
{
	const char *from = get_setting("request.path");
	char	   *to;

	if (request->path)
		return request->path;
	if (!from)
		from = "";
	to = request->path = palloc(strlen(from) + 2);
	if (*from != '/')
		*to++ = '/';
	while (*from)
	{
		int			high = *from == '%' ? hex_digit(from[1]) : -1;
		int			low = high >= 0 ? hex_digit(from[2]) : -1;

		if (low < 0 || (high == 0 && low == 0))
			*to++ = *from++;
		else
		{
			*to++ = (char) (high << 4 | low);
			from += 3;
		}
	}
	*to = '\0';
	return request->path;
}

/* Does the path match the pattern, in which each * stands for any characters? */
static bool
path_matches(const char *pattern, const char *path)
{
	const char *star = NULL;
	const char *retry = NULL;

	while (*path)
	{
		if (*pattern == '*')
		{
			star = ++pattern;
			retry = path;
		}
		else if (*pattern == *path)
		{
			pattern++;
			path++;
		}
		else if (star)
		{
			/* let the last * stand for one more character */
			pattern = star;
			path = ++retry;
			CHECK_FOR_INTERRUPTS();
		}
		else
			return false;
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

static bool
method_matches(const PostgrestRule *rule, const Request *request)
{
	if (!rule->methods)
		return true;
	for (int i = 0; i < rule->n_methods; i++)
		if (request->method && strcmp(rule->methods[i], request->method) == 0)
			return true;
	return false;
}

static bool
rule_matches(const PostgrestRule *rule, Request *request)
{
	if (rule->role && (!request->role || strcmp(rule->role, request->role) != 0))
		return false;
	if (!method_matches(rule, request))
		return false;
	if (rule->path && !path_matches(rule->path, get_path(request)))
		return false;
	if (rule->claim)
	{
		JsonbValue *claim = find_claim(request, rule->claim);

		if (!claim || (rule->claim_value && !claim_is(claim, rule->claim_value)))
			return false;
	}
	return true;
}

/* Cut off white space at both ends.  Return where the rest begins. */
static char *
trim(char *s)
{
	char	   *end = s + strlen(s);

	while (*s == ' ' || *s == '\t')
		s++;
	while (end > s && (end[-1] == ' ' || end[-1] == '\t'))
		*--end = '\0';
	return s;
}

/*
 * The value of the header of that name, or NULL.  White space around it is no part of
 * it, but PostgREST's HTTP server leaves the white space at the end.
 */
static char *
find_header(Request *request, const char *name)
{
	Jsonb	   *headers = get_headers(request);
	JsonbValue *value;
	char	   *header;

	if (!headers)
		return NULL;
	value = getKeyJsonValueFromContainer(&headers->root, name, strlen(name), NULL);
	header = value ? scalar_text(value) : NULL;
	return header ? trim(header) : NULL;
}

/*
 * The key of an address, which may have a port or a zone: the IPv4 address, or the
 * /64 prefix of the IPv6 address, or NULL if it is not an address.  This changes the
 * argument.
 */
static char *
address_key(char *address)
{
	unsigned char bytes[16];
	char		shown[INET6_ADDRSTRLEN];
	char	   *end;

	address = trim(address);
	if (*address == '[')
	{
		/* [2001:db8::1]:443 */
		address++;
		end = strchr(address, ']');
		if (!end)
			return NULL;
		*end = '\0';
	}
	else if ((end = strchr(address, ':')) && !strchr(end + 1, ':'))
		*end = '\0';			/* 192.0.2.1:443 */
	if ((end = strchr(address, '%')))
		*end = '\0';			/* fe80::1%eth0 */

	if (inet_pton(AF_INET, address, bytes) == 1)
		return pstrdup(inet_ntop(AF_INET, bytes, shown, sizeof(shown)));
	if (inet_pton(AF_INET6, address, bytes) != 1)
		return NULL;
	/* an IPv4 address as IPv6: ::ffff:192.0.2.1 */
	if (memcmp(bytes, "\0\0\0\0\0\0\0\0\0\0\377\377", 12) == 0)
		return pstrdup(inet_ntop(AF_INET, bytes + 12, shown, sizeof(shown)));
	memset(bytes + PREFIX_BYTES, 0, sizeof(bytes) - PREFIX_BYTES);
	return psprintf("%s/%d", inet_ntop(AF_INET6, bytes, shown, sizeof(shown)),
					PREFIX_BYTES * 8);
}

/* The last entry of a list that commas separate. */
static char *
last_entry(char *list)
{
	char	   *comma = strrchr(list, ',');

	return comma ? comma + 1 : list;
}

/*
 * The key of the address that called the outermost of the operator's own proxies, or
 * NULL.  Each proxy has added the address that called it at the end of a list.
 */
static char *
find_address(const PostgrestRule *rule, Request *request)
{
	char	   *list = find_header(request, rule->key_name ? rule->key_name : DEFAULT_HEADER);
	char	   *entry;

	if (!list)
		return NULL;
	entry = last_entry(list);
	for (int i = 1; i < rule->proxies; i++)
	{
		if (entry == list)
			return NULL;		/* the request did not come through all proxies */
		entry[-1] = '\0';
		entry = last_entry(list);
	}
	return address_key(entry);
}

/*
 * The key by which a rule limits the request.  NULL if the request does not have the
 * claim from which the key comes: the rule does not apply to it then.
 */
static text *
find_key(const PostgrestRule *rule, Request *request)
{
	char	   *key = NULL;

	switch (rule->key_from)
	{
		case KEY_CLAIM:
			{
				JsonbValue *claim = find_claim(request, rule->key_name);

				key = claim ? scalar_text(claim) : NULL;
				if (!key || !*key)
					return NULL;
			}
			break;
		case KEY_HEADER:
			key = find_header(request, rule->key_name);
			break;
		case KEY_ADDRESS:
			key = find_address(rule, request);
			break;
	}
	if (!key || !*key)
		key = NO_KEY;
	else if (strlen(key) > MAX_KEY_LEN)
	{
		/* the hash of a key that is too long takes its place */
		Datum		hash = DirectFunctionCall1(sha256_bytea,
											   PointerGetDatum(cstring_to_text(key)));

		key = psprintf("sha256:%s",
					   TextDatumGetCString(DirectFunctionCall2(binary_encode, hash,
															   CStringGetTextDatum("hex"))));
	}
	return cstring_to_text(key);
}

/* A policy that limits a request, and the key. */
typedef struct Limited
{
	text	   *policy;
	text	   *key;
} Limited;

/*
 * The policies that limit the request, in order.  They are copies, as the rules may
 * be gone after the first policy has decided.
 */
static List *
find_limits(const PostgrestRule *rules, int n, Request *request)
{
	List	   *limits = NIL;

	for (int i = 0; i < n; i++)
	{
		const PostgrestRule *rule = &rules[i];
		text	   *key;
		Limited    *limited;

		CHECK_FOR_INTERRUPTS();
		if (!rule_matches(rule, request))
			continue;
		if (!rule->policy)
			break;
		key = find_key(rule, request);
		if (!key)
			continue;
		limited = palloc(sizeof(Limited));
		limited->policy = DatumGetTextPCopy(PointerGetDatum(rule->policy));
		limited->key = key;
		limits = lappend(limits, limited);
	}
	return limits;
}

/*
 * Take a token from the buckets of a policy, and add the limit that binds most to the
 * fields.  If the policy denies the request, raise the error.
 */
static void
take_token(const Limited *limited, HttpFields *fields, HttpError form)
{
	BucketCall	calls[MAX_CALLS];
	TierName	names[MAX_CALLS];
	int			n;
	int			most;
	bool		shadowed;
	bool		allowed = decide_by_policy(limited->policy, limited->key, 1, calls, names,
										   &n, &shadowed);

	most = most_binding(calls, n);
	if (!allowed)
		http_deny(calls, n, most, form);
	if (n > 0)
		http_fields_add(fields, &calls[most]);
}

/* Let PostgREST send the fields with its answer, unless headers are set already. */
static void
set_response_headers(const HttpFields *fields)
{
	if (fields->policies.len == 0 || get_setting("response.headers"))
		return;
	(void) set_config_option("response.headers", http_fields_json(fields, true),
							 superuser() ? PGC_SUSET : PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/* rl_postgrest_check() returns void */
Datum
rl_postgrest_check(PG_FUNCTION_ARGS)
{
	HttpError	form = Max(postgrest_headers_setting, HTTP_ERROR_PGRST);
	Request		request = {0};
	const PostgrestRule *rules;
	int			n;
	HttpFields	fields;
	ListCell   *cell;

	if (!enabled_setting)
		PG_RETURN_VOID();
	if (!postgrest_rules(&rules, &n))
	{
		if (on_error_setting == ON_ERROR_DENY)
			http_deny(NULL, 0, 0, form);
		PG_RETURN_VOID();
	}

	request.method = get_setting("request.method");
	/* the role that PostgREST has set, even inside a SECURITY DEFINER function */
	request.role = GetUserNameFromId(GetOuterUserId(), true);

	http_fields_begin(&fields);
	foreach(cell, find_limits(rules, n, &request))
		take_token(lfirst(cell), &fields, form);
	set_response_headers(&fields);
	PG_RETURN_VOID();
}
