"""What tests say of what they find."""

import psycopg


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def equal(found, expected, text=""):
    check(found == expected, f"{text}: {found!r}, not {expected!r}")


def sqlstate(server, statement, user="postgres", **options):
    try:
        server.query(statement, user=user, **options)
    except psycopg.Error as error:
        return error.sqlstate
    return None


def try_value(server, statement):
    try:
        return server.value(statement)
    except psycopg.Error:
        return None
