// An HTTP server whose requests are limited to 100 at once and then 10 a second from each
// address. PGHOST and so on say where the database is.
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"time"

	"github.com/jackc/pgx/v4/pgxpool"
)

func main() {
	config, err := pgxpool.ParseConfig("application_name=go connect_timeout=1")
	if err != nil {
		log.Fatal(err)
	}
	config.MaxConns = 10
	config.LazyConnect = true // start without the database
	pool, err := pgxpool.ConnectConfig(context.Background(), config)
	if err != nil {
		log.Fatal(err)
	}

	limiter := &Limiter{Pool: pool, Name: "go", Capacity: 100, Refill: 10}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "hello\n")
	})
	server := &http.Server{
		Addr:              ":" + os.Getenv("PORT"),
		Handler:           limiter.Limit(mux),
		ReadHeaderTimeout: 10 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
