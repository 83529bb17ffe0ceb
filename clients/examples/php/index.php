<?php

/*
 * php -S localhost:8080 index.php: requests are limited to 100 at once and then 10 a second from
 * each address. In an application of Symfony's, these lines are a listener of kernel.request.
 */

use RateLimit\Database;
use RateLimit\PostgresLimiter;

require __DIR__.'/vendor/autoload.php';
require __DIR__.'/Database.php';
require __DIR__.'/PostgresLimiter.php';

/* An address. Of IPv6, the /64 network: whoever has one address of it has them all. */
function key_of(string $address): string
{
    $bytes = inet_pton($address);
    if (str_starts_with($bytes, "\0\0\0\0\0\0\0\0\0\0\xff\xff")) {
        return inet_ntop(substr($bytes, 12));
    }

    return 4 === strlen($bytes) ? $address : inet_ntop(substr($bytes, 0, 8).str_repeat("\0", 8)).'/64';
}

$limiter = new PostgresLimiter(new Database('application_name=php'), key_of($_SERVER['REMOTE_ADDR']), capacity: 100, refill: 10, limiter: 'php');
$limit = $limiter->consume();

header('Content-Type: text/plain');
header('X-RateLimit-Limit: '.$limit->getLimit());
header('X-RateLimit-Remaining: '.$limit->getRemainingTokens());
if (!$limit->isAccepted()) {
    http_response_code(429);
    header('Retry-After: '.max(1, (int) ceil((float) $limit->getRetryAfter()->format('U.u') - microtime(true))));
    echo "Too many requests\n";
    exit;
}
echo "hello\n";
