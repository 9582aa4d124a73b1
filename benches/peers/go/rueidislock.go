package main

import (
	"context"
	"errors"
	"time"

	"github.com/redis/rueidis"
	"github.com/redis/rueidis/rueidislock"
)

// rueidisLocks wait for what the server pushes, and for nothing else. In 1.0.79 a try that fails may drop what wakes its waiter
// (it counts the failure only after it has let others look at the count): such a waiter waits until it gives up.
type rueidisLocks struct {
	locker rueidislock.Locker
}

func openRueidislock(url string, ttl time.Duration) (locker, error) {
	options, err := rueidis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	locker, err := rueidislock.NewLocker(rueidislock.LockerOption{
		ClientOption: options,
		KeyValidity:  ttl,
		// As is documented for a single server, and for Redis 7.0.5 and newer.
		KeyMajority:    1,
		NoLoopTracking: true,
		// What a try may take before the next key is tried. There is no next key, and the 20 ms that are the default are
		// soon over on a busy machine.
		TryNextAfter: time.Second,
	})
	if err != nil {
		return nil, err
	}
	return &rueidisLocks{locker}, nil
}

func (l *rueidisLocks) lock(key string, _ int) (lock, error) {
	return &rueidisLock{locker: l.locker, key: key}, nil
}

type rueidisLock struct {
	locker rueidislock.Locker
	key    string
	cancel context.CancelFunc
}

func (l *rueidisLock) acquire(ctx context.Context) (err error) {
	_, l.cancel, err = l.locker.WithContext(ctx, l.key)
	return err
}

func (l *rueidisLock) try(ctx context.Context) (granted bool, err error) {
	_, l.cancel, err = l.locker.TryWithContext(ctx, l.key)
	if errors.Is(err, rueidislock.ErrNotLocked) {
		return false, nil
	}
	return err == nil, err
}

func (l *rueidisLock) release() error {
	l.cancel()
	return nil
}
