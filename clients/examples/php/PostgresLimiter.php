<?php

namespace RateLimit;

use Symfony\Component\RateLimiter\Exception\MaxWaitDurationExceededException;
use Symfony\Component\RateLimiter\LimiterInterface;
use Symfony\Component\RateLimiter\RateLimit;
use Symfony\Component\RateLimiter\Reservation;

/**
 * A limiter of symfony/rate-limiter whose buckets are in PostgreSQL, with the extension ratelimit.
 *
 *     $limiter = new PostgresLimiter($database, $address, capacity: 100, refill: 10, limiter: 'address');
 *     $limiter->consume()->ensureAccepted();
 *
 * A decision is one query, so there is no storage and no lock. While the database does not
 * answer, calls are accepted.
 */
final class PostgresLimiter implements LimiterInterface
{
    private const NEVER = 4_102_444_800.0; // the year 2100
    private const LONGEST_WAIT = 31_536_000.0; // seconds, of who does not say how long

    /**
     * @param string $key      who is limited
     * @param int    $capacity calls at once
     * @param float  $refill   calls per second after that
     * @param string $limiter  the name under which the rule's buckets are kept and shown
     */
    public function __construct(
        private Database $database,
        private string $key,
        private int $capacity,
        private float $refill,
        private string $limiter,
    ) {
    }

    public function consume(int $tokens = 1): RateLimit
    {
        return $this->decide('rl_throttle', $tokens);
    }

    public function reserve(int $tokens = 1, ?float $maxTime = null): Reservation
    {
        $this->check($tokens);
        try {
            [$wait] = $this->database->row(
                'SELECT extract(epoch FROM rl_book($1, $2::float8, $3::float8, $4::float8, make_interval(secs => $5::float8), $6))',
                [$this->key, $this->capacity, $this->refill, $tokens, $maxTime ?? self::LONGEST_WAIT, $this->limiter],
            );
        } catch (\RuntimeException $e) {
            return new Reservation(microtime(true), $this->accepted($e));
        }
        if (null === $wait) {
            throw new MaxWaitDurationExceededException('There are not enough tokens within the time that the caller waits.', $this->decide('rl_peek', $tokens));
        }
        $at = microtime(true) + (float) $wait;
        $bucket = $this->decide('rl_peek', 0);

        return new Reservation($at, new RateLimit($bucket->getRemainingTokens(), self::time($at), 0.0 === (float) $wait, $this->capacity));
    }

    /** The role needs GRANT EXECUTE ON FUNCTION rl_reset. */
    public function reset(): void
    {
        $this->database->row('SELECT rl_reset($1, $2)', [$this->key, $this->limiter]);
    }

    /** @param string $function rl_throttle, or rl_peek, which takes nothing */
    private function decide(string $function, int $tokens): RateLimit
    {
        $this->check($tokens);
        try {
            [$allowed, $remaining, $wait] = $this->database->row(
                "SELECT allowed, floor(greatest(remaining, 0)), extract(epoch FROM retry_after)
                    FROM $function(\$1, \$2::float8, \$3::float8, \$4::float8, \$5)",
                [$this->key, $this->capacity, $this->refill, $tokens, $this->limiter],
            );
        } catch (\RuntimeException $e) {
            return $this->accepted($e);
        }
        $at = null === $wait ? self::NEVER : microtime(true) + (float) $wait;

        return new RateLimit((int) $remaining, self::time($at), 't' === $allowed, $this->capacity);
    }

    /** What a call gets that the database cannot decide. */
    private function accepted(\RuntimeException $e): RateLimit
    {
        error_log('calls pass without a limit: '.$e->getMessage());

        return new RateLimit($this->capacity, self::time(microtime(true)), true, $this->capacity);
    }

    private function check(int $tokens): void
    {
        if ($tokens > $this->capacity) {
            throw new \InvalidArgumentException(sprintf('Cannot take more tokens (%d) than the bucket holds (%d).', $tokens, $this->capacity));
        }
    }

    private static function time(float $seconds): \DateTimeImmutable
    {
        return \DateTimeImmutable::createFromFormat('U.u', sprintf('%.6F', $seconds));
    }
}
