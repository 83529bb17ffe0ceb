<?php

/*
 * php limiter.php FOLDER: what Symfony's LimiterInterface promises, beside its own TokenBucketLimiter.
 */

use RateLimit\Database;
use RateLimit\PostgresLimiter;
use Symfony\Component\RateLimiter\CompoundLimiter;
use Symfony\Component\RateLimiter\Exception\MaxWaitDurationExceededException;
use Symfony\Component\RateLimiter\Exception\RateLimitExceededException;
use Symfony\Component\RateLimiter\LimiterInterface;
use Symfony\Component\RateLimiter\Policy\Rate;
use Symfony\Component\RateLimiter\Policy\TokenBucketLimiter;
use Symfony\Component\RateLimiter\Storage\InMemoryStorage;

require $argv[1].'/vendor/autoload.php';
require $argv[1].'/Database.php';
require $argv[1].'/PostgresLimiter.php';

set_error_handler(function (int $level, string $message, string $file, int $line) {
    if (error_reporting() & $level) {
        throw new ErrorException($message, 0, $level, $file, $line);
    }
});

function check(string $what, mixed $is, mixed $expected): void
{
    if ($is !== $expected) {
        fwrite(STDERR, "$what: ".var_export($is, true).', not '.var_export($expected, true)."\n");
        exit(1);
    }
}

function raised(callable $f): ?string
{
    try {
        $f();
    } catch (Throwable $e) {
        return $e::class;
    }

    return null;
}

$database = new Database();
$key = 'key '.getmypid();
$new = fn (string $name, int $capacity, float $refill) => new PostgresLimiter($database, $key, $capacity, $refill, "php $name");
$theirs = fn (int $capacity) => new TokenBucketLimiter($key, $capacity, Rate::fromString('PT10S-1'), new InMemoryStorage());

// the same decisions for the same calls; 10 s for a token, so none comes meanwhile
foreach ([$new('same', 10, 0.1), $theirs(10)] as $limiter) {
    $limiter instanceof LimiterInterface || exit(1);
    $seen = [];
    foreach ([1, 3, 0, 4, 5, 2, 1] as $tokens) {
        $limit = $limiter->consume($tokens);
        $seen[] = [$limit->isAccepted(), $limit->getLimit(), $limit->getRemainingTokens()];
    }
    $all[] = $seen;
}
check('decisions', $all[0], [[true, 10, 9], [true, 10, 6], [true, 10, 6], [true, 10, 2], [false, 10, 2], [true, 10, 0], [false, 10, 0]]);

$limiter = $new('same', 10, 0.1);
$seconds = (float) $limiter->consume()->getRetryAfter()->format('U.u') - microtime(true);
check('retry after', $seconds > 5 && $seconds <= 10, true);
check('too many', raised(fn () => $limiter->consume()->ensureAccepted()), RateLimitExceededException::class);
check('more than ever', raised(fn () => $limiter->consume(11)), InvalidArgumentException::class);
check('more than ever', raised(fn () => $limiter->reserve(11)), InvalidArgumentException::class);
$limiter->reset();
check('after reset', $limiter->consume(10)->isAccepted(), true);

// reservations wait for their turn
$limiter = $new('reserve', 2, 0.04);
check('at once', $limiter->reserve(2)->getWaitDuration(), 0.0);
$reservation = $limiter->reserve(1, 1000);
$wait = $reservation->getWaitDuration();
check('25 seconds', $wait > 10 && $wait <= 25, true);
check('the limit of a reservation', $reservation->getRateLimit()->isAccepted(), false);
check('no time', raised(fn () => $limiter->reserve(2, 1)), MaxWaitDurationExceededException::class);
$limiter = $new('wait', 2, 4);
$began = microtime(true);
$limiter->reserve(2);
$limiter->reserve(1, 10)->wait();
$waited = microtime(true) - $began;
check('a quarter of a second', $waited >= 0.24 && $waited <= 10, true);

// as one of several
$compound = new CompoundLimiter([$new('first', 5, 0), $new('second', 2, 0)]);
check('compound', [$compound->consume()->isAccepted(), $compound->consume()->isAccepted(), $compound->consume()->isAccepted()], [true, true, false]);
check('never', $new('second', 2, 0)->consume()->getRetryAfter()->format('Y'), '2100');

// errors of a query are errors, and the connection goes on
check('a bad key', raised(fn () => (new PostgresLimiter($database, '', 1, 1, 'php'))->consume()), LogicException::class);
check('the next call', $new('after', 1, 1)->consume()->isAccepted(), true);

// without the database
ini_set('error_log', '/dev/null');
$away = new PostgresLimiter(new Database('host=/nonexistent'), $key, 7, 1, 'php away');
check('away', [$away->consume(7)->isAccepted(), $away->consume(7)->getRemainingTokens(), $away->reserve()->getWaitDuration()], [true, 7, 0.0]);
