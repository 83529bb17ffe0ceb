<?php

namespace RateLimit;

/**
 * A connection to PostgreSQL for queries of one row, on which a request does not wait long.
 *
 * PHP ends its connections with the request, so have a pooler as PgBouncer between: then a new
 * connection takes well below a millisecond, and the server has few.
 */
final class Database
{
    private const TIMEOUT = 0.5; // seconds that a query may take

    private ?\PgSql\Connection $connection = null;
    private bool $lost = false;

    /** @param string $conninfo as libpq takes it; PGHOST and so on say what it does not */
    public function __construct(private string $conninfo = '')
    {
    }

    /**
     * The row that a query returns, as strings and nulls.
     *
     * @throws \RuntimeException the database does not answer; it is then not asked again in this request
     * @throws \LogicException   it has an error of the query
     */
    public function row(string $sql, array $parameters): array
    {
        if ($this->lost) {
            throw new \RuntimeException('the database does not answer');
        }
        // libpq takes 2 seconds for less
        $this->connection ??= @pg_connect("connect_timeout=2 $this->conninfo", \PGSQL_CONNECT_FORCE_NEW) ?: $this->lost();
        if (!@pg_send_query_params($this->connection, $sql, $parameters)) {
            $this->lost();
        }

        $end = microtime(true) + self::TIMEOUT;
        while (pg_connection_busy($this->connection)) {
            $readable = [pg_socket($this->connection)];
            $none = null;
            $left = (int) (($end - microtime(true)) * 1e6);
            if ($left <= 0 || !stream_select($readable, $none, $none, 0, $left)) {
                $this->lost();
            }
        }
        $result = pg_get_result($this->connection);
        if ($result && \PGSQL_TUPLES_OK === pg_result_status($result)) {
            return pg_fetch_row($result);
        }
        if ($result && 'ERROR' === pg_result_error_field($result, \PGSQL_DIAG_SEVERITY_NONLOCALIZED)) {
            pg_get_result($this->connection); // the end of the answer
            throw new \LogicException(pg_result_error($result));
        }
        $this->lost();
    }

    private function lost(): never
    {
        $this->lost = true;
        if ($this->connection) {
            pg_close($this->connection);
            $this->connection = null;
        }
        throw new \RuntimeException('the database does not answer');
    }
}
