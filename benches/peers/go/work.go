package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"sync/atomic"
	"time"
)

const (
	defaultTTL = 30 * time.Second
	// patience is how long a task waits for its last grant, after its time is over.
	patience = 30 * time.Second
	// forever is long enough for a waiter who waits as long as it takes. Not each library waits without a deadline.
	forever = time.Hour
)

// A locker makes the locks of one library, all of one TTL.
type locker interface {
	// lock makes a lock for a key. Who wants the same key in this process has another `rival`, counted from 0: where locks
	// of one session are held together, each rival gets a session of its own.
	lock(key string, rival int) (lock, error)
}

// A lock can be acquired and released again and again.
type lock interface {
	// acquire waits until the lock is granted or the context is over.
	acquire(ctx context.Context) error
	// try does not wait, and tells whether the lock was granted.
	try(ctx context.Context) (bool, error)
	release() error
}

// renewable is a lock that its library renews only when it is told to.
type renewable interface {
	renew() error
}

// work is what the contender is asked to do. Times are in seconds.
type work struct {
	Do      string
	Key     string
	Keys    []string
	TTL     float64
	Seconds float64
	Hold    float64
	Waits   bool
}

func duration(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second))
}

func (w *work) doneWith(from locker) (any, error) {
	switch w.Do {
	case "pairs":
		return w.pairs(from)
	case "hold":
		return w.hold(from)
	case "take":
		return w.take(from)
	case "tries":
		return w.tries(from)
	}
	return nil, fmt.Errorf("no such work: %s", w.Do)
}

type pairsDone struct {
	Pairs     int       `json:"pairs"`
	Seconds   float64   `json:"seconds"`
	Handovers int       `json:"handovers"`
	ByTask    []int     `json:"by_task"`
	Waits     []float64 `json:"waits"`
}

// A task acquires and releases one lock again and again.
type task struct {
	number int64
	lock   lock
	// holder is the task that had the key last: all tasks of a key share it.
	holder    *atomic.Int64
	pairs     int
	handovers int
	waits     []float64
	err       error
}

func (w *work) tasks(from locker) ([]*task, error) {
	tasks := make([]*task, len(w.Keys))
	holders := map[string]*atomic.Int64{}
	rivals := map[string]int{}
	for number, key := range w.Keys {
		if holders[key] == nil {
			holders[key] = &atomic.Int64{}
			holders[key].Store(-1)
		}
		lock, err := from.lock(key, rivals[key])
		if err != nil {
			return nil, err
		}
		rivals[key]++
		tasks[number] = &task{number: int64(number), lock: lock, holder: holders[key]}
	}
	return tasks, nil
}

func (w *work) pairs(from locker) (any, error) {
	tasks, err := w.tasks(from)
	if err != nil {
		return nil, err
	}

	var going sync.WaitGroup
	started := time.Now()
	for _, task := range tasks {
		going.Go(func() { task.err = task.run(w, started.Add(duration(w.Seconds))) })
	}
	going.Wait()

	done := pairsDone{Seconds: time.Since(started).Seconds(), ByTask: make([]int, len(tasks)), Waits: []float64{}}
	for number, task := range tasks {
		if task.err != nil {
			return nil, task.err
		}
		done.Pairs += task.pairs
		done.Handovers += task.handovers
		done.ByTask[number] = task.pairs
		done.Waits = append(done.Waits, task.waits...)
	}
	return done, nil
}

func (t *task) run(w *work, end time.Time) error {
	ctx, cancel := context.WithDeadline(context.Background(), end.Add(patience))
	defer cancel()
	for {
		asked := time.Now()
		if !asked.Before(end) {
			return nil
		}
		err := t.lock.acquire(ctx)
		if w.Waits {
			t.waits = append(t.waits, time.Since(asked).Seconds())
		}
		if err != nil {
			// One that waits for longer than its patience has no grant to show, but nothing went wrong.
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if t.holder.Swap(t.number) != t.number {
			t.handovers++
		}
		if w.Hold > 0 {
			time.Sleep(duration(w.Hold))
		}
		if err := t.lock.release(); err != nil {
			return err
		}
		t.pairs++
	}
}

type held struct {
	Held bool `json:"held"`
}

func (w *work) hold(from locker) (any, error) {
	lock, err := from.lock(w.Key, 0)
	if err != nil {
		return nil, err
	}
	// Without an end: there are locks that are held for as long as the context is there.
	if err := lock.acquire(context.Background()); err != nil {
		return nil, err
	}
	if lock, ok := lock.(renewable); ok {
		go keep(lock, duration(w.TTL)/3)
	}
	return held{true}, nil
}

func keep(lock renewable, interval time.Duration) {
	for range time.Tick(interval) {
		if err := lock.renew(); err != nil {
			log.Fatal(err)
		}
	}
}

type taken struct {
	Waited float64 `json:"waited"`
}

func (w *work) take(from locker) (any, error) {
	lock, err := from.lock(w.Key, 0)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), forever)
	defer cancel()
	asked := time.Now()
	if err := lock.acquire(ctx); err != nil {
		return nil, err
	}
	waited := time.Since(asked).Seconds()
	return taken{waited}, lock.release()
}

type tried struct {
	Tries   int     `json:"tries"`
	Seconds float64 `json:"seconds"`
}

func (w *work) tries(from locker) (any, error) {
	lock, err := from.lock(w.Key, 0)
	if err != nil {
		return nil, err
	}
	done := tried{}
	started := time.Now()
	for time.Since(started) < duration(w.Seconds) {
		granted, err := lock.try(context.Background())
		if err != nil {
			return nil, err
		}
		if granted {
			return nil, errors.New("a held key was granted")
		}
		done.Tries++
	}
	done.Seconds = time.Since(started).Seconds()
	return done, nil
}
