// One contender of the comparison: the Mutex that Go programs have from etcd's own client. Prints its figures as JSON.
// Usage: go_mutex URL SCENARIO...
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

const length = 2 * time.Second

// pairs tells how many pairs of Lock and Unlock a second are made by one task for each of the keys, all going at once.
func pairs(session *concurrency.Session, keys []string) float64 {
	var done atomic.Int64
	var tasks sync.WaitGroup
	started := time.Now()
	for _, key := range keys {
		tasks.Go(func() {
			mutex := concurrency.NewMutex(session, key)
			for time.Since(started) < length {
				if err := mutex.Lock(context.Background()); err != nil {
					log.Fatal(err)
				}
				if err := mutex.Unlock(context.Background()); err != nil {
					log.Fatal(err)
				}
				done.Add(1)
			}
		})
	}
	tasks.Wait()
	return float64(done.Load()) / time.Since(started).Seconds()
}

func keysOf(tasks int) []string {
	keys := make([]string, tasks)
	for number := range keys {
		keys[number] = fmt.Sprintf("key-%d", number)
	}
	return keys
}

func main() {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{strings.TrimPrefix(os.Args[1], "etcd://")}, DialTimeout: 5 * time.Second})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	session, err := concurrency.NewSession(client, concurrency.WithTTL(30))
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	pairs(session, []string{"warm"})
	figures := map[string]float64{}
	for _, scenario := range os.Args[2:] {
		kind, number, _ := strings.Cut(scenario, ":")
		switch kind {
		case "one":
			figures[scenario] = 1e6 / pairs(session, []string{"one"})
		case "keys":
			tasks, err := strconv.Atoi(number)
			if err != nil {
				log.Fatal(err)
			}
			figures[scenario] = pairs(session, keysOf(tasks))
		default:
			log.Fatalf("no scenario %s", scenario)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(figures); err != nil {
		log.Fatal(err)
	}
}
