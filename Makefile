# make, make install: PG_CONFIG=... chooses the server; WERROR=1 makes warnings
# errors.
# make installcheck: pg_regress and isolation tests, on a running server.  Tests
# named preload_* need one that preloads the library, table_* one that does not:
# there, make installcheck SKIP=preload_%.
# make prove_installcheck: TAP tests, which start servers of their own.
# test/run does all of it, on any machine.
# make dist: the committed files as ratelimit-VERSION.zip, as PGXN takes it.

MODULE_big = ratelimit
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard src/*.c src/*/*.c)))

EXTENSION = ratelimit
DATA = $(sort $(wildcard sql/ratelimit--*.sql))

SKIP = table_%
names = $(filter-out $(SKIP),$(patsubst $1,%,$(sort $(wildcard $(subst %,*,$1)))))
REGRESS := $(filter-out ratelimit--%,$(call names,sql/%.sql))
ISOLATION := $(call names,test/specs/%.spec)
ISOLATION_OPTS = --inputdir=test
PROVE_TESTS = test/t/*.pl

PG_CPPFLAGS = -I$(CURDIR)/src
PG_CFLAGS = -fvisibility=hidden -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers $(if $(WERROR),-Werror)

# No bitcode, so no clang: there is nothing here that JIT would gain from.
override with_llvm = no

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# installcheck would run the TAP tests as well, were TAP_TESTS set
.PHONY: prove_installcheck
prove_installcheck:
	$(prove_installcheck)

# The version is that of META.json.  The same commit makes the same bytes: a zip has local times.
.PHONY: dist
dist:
	version=$$(sed -n 's/^  "version": "\(.*\)",$$/\1/p' META.json) && \
	TZ=UTC git archive --format=zip --prefix=ratelimit-$$version/ --output=ratelimit-$$version.zip HEAD && \
	echo ratelimit-$$version.zip

$(OBJS): $(wildcard src/*.h src/*/*.h)
