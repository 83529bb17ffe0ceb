package main

import (
	"context"
	"log"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	timeout = 500 * time.Millisecond // that a request waits for the database
	retry   = time.Second            // after which a lost database is asked again
)

// The header fields of a decision are worked out by the extension.
const throttle = `
	SELECT r.allowed, h ->> 'RateLimit', h ->> 'RateLimit-Policy', h ->> 'Retry-After'
	FROM rl_throttle($1, $2, $3, 1, $4) AS r, rl_headers(r, $4) AS h`

var fields = [3]string{"RateLimit", "RateLimit-Policy", "Retry-After"}

// A Limiter limits the requests of each key to Capacity at once and then Refill a second.
type Limiter struct {
	Pool     *pgxpool.Pool
	Name     string // under which its buckets are kept and shown
	Capacity float64
	Refill   float64

	retryAt atomic.Int64 // Unix nanoseconds
}

// Limit is middleware that limits requests by client address. All answers have the fields
// RateLimit and RateLimit-Policy. A request that is denied gets status 429 with Retry-After.
// While the database has no answer, requests pass.
func (l *Limiter) Limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.allows(r.Context(), key(r.RemoteAddr), w.Header()) {
			next.ServeHTTP(w, r)
		} else {
			http.Error(w, "Too many requests", http.StatusTooManyRequests)
		}
	})
}

func (l *Limiter) allows(ctx context.Context, key string, header http.Header) bool {
	if time.Now().UnixNano() < l.retryAt.Load() {
		return true
	}
	// not canceled with the request: that would close the connection
	ctx, cancel := context.WithTimeout(detached{ctx}, timeout)
	defer cancel()

	var allowed bool
	var values [len(fields)]*string
	err := l.Pool.QueryRow(ctx, throttle, key, l.Capacity, l.Refill, l.Name).
		Scan(&allowed, &values[0], &values[1], &values[2])
	if err != nil {
		l.retryAt.Store(time.Now().Add(retry).UnixNano())
		log.Printf("requests pass without a limit: %v", err)
		return true
	}
	for i, value := range values {
		if value != nil {
			header.Set(fields[i], *value)
		}
	}
	return allowed
}

// detached has the values of a context, for tracing, but does not end with it.
// Since Go 1.21, context.WithoutCancel makes one.
type detached struct{ context.Context }

func (detached) Deadline() (time.Time, bool) { return time.Time{}, false }
func (detached) Done() <-chan struct{}       { return nil }
func (detached) Err() error                  { return nil }

// key is the address of a client. Of IPv6 it is the /64 network, as whoever has one address of
// it has them all. Behind a proxy that you trust, take what it says in place of remote.
func key(remote string) string {
	parsed, err := netip.ParseAddrPort(remote)
	if err != nil {
		return "unknown"
	}
	address := parsed.Addr().Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	return netip.PrefixFrom(address, 64).Masked().String()
}
