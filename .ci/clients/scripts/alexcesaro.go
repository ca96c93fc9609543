//go:build ignore

// Command alexcesaro uses the client alexcesaro/statsd.
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"time"

	"gopkg.in/alexcesaro/statsd.v1"
)

const n = 500

func main() {
	addr := net.JoinHostPort(os.Getenv("STATSD_HOST"), os.Getenv("STATSD_PORT"))
	client, err := statsd.New(addr, statsd.WithPrefix("alex."), statsd.WithFlushPeriod(50*time.Millisecond),
		statsd.WithDatadogTags("env:test"))
	if err != nil {
		log.Fatal(err)
	}
	requests, total, connections, samples := 0, 0, 0, 0
	for i := range n {
		client.Count("requests", i%5, 1)
		requests += i % 5
		client.Increment("hits")
		client.Gauge("queue", i-250)
		if i < 250 {
			samples++ // below zero it sends 0 first, then the value
		}
		client.ChangeGauge("connections", 3-i%6)
		connections += 3 - i%6
		if i%6 == 3 {
			samples-- // a change by nothing is not sent
		}
		client.Timing("time", i, 1)
		total += i
		client.Unique("users", fmt.Sprintf("user:%d", i%61))
		if i%50 == 49 {
			time.Sleep(2 * time.Millisecond)
		}
	}
	client.Close()

	fmt.Println("samples", 6*n+samples)
	fmt.Println("counter alex.requests env:test", requests)
	fmt.Println("counter alex.hits env:test", n)
	fmt.Println("gauge alex.queue env:test", n-1-250)
	fmt.Println("gauge alex.connections env:test", connections)
	fmt.Println("distribution alex.time env:test", n, total, 0, n-1)
	fmt.Print("set alex.users env:test")
	for i := range 61 {
		fmt.Printf(" user:%d", i)
	}
	fmt.Println()
}
