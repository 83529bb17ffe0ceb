# make, make install, make installcheck, make prove_installcheck
# PG_CONFIG=... chooses the server; WERROR=1 makes warnings errors.

MODULE_big = ratelimit
OBJS = \
	src/bucket.o \
	src/consume.o \
	src/ratelimit.o \
	src/report.o \
	src/shmem_store.o \
	src/simulate.o \
	src/spill.o \
	src/table_store.o \
	src/worker.o

EXTENSION = ratelimit
DATA = sql/ratelimit--1.0.sql

REGRESS = $(patsubst sql/%.sql,%,$(filter-out sql/ratelimit--%,$(sort $(wildcard sql/*.sql))))
ISOLATION = $(patsubst test/specs/%.spec,%,$(sort $(wildcard test/specs/*.spec)))
TAP_TESTS = 1

PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare $(if $(WERROR),-Werror)

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)
