package main

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
)

type redsyncMutexes struct {
	sync *redsync.Redsync
	ttl  time.Duration
}

func openRedsync(url string, ttl time.Duration) (locker, error) {
	client, err := connected(url)
	if err != nil {
		return nil, err
	}
	return &redsyncMutexes{redsync.New(goredis.NewPool(client)), ttl}, nil
}

func (m *redsyncMutexes) lock(key string, _ int) (lock, error) {
	// It waits a random time of 50 to 250 ms between tries, which is its default. But 32 of them are over after 5 s: here
	// the context says when to give up.
	return &redsyncMutex{m.sync.NewMutex(key, redsync.WithExpiry(m.ttl), redsync.WithTries(math.MaxInt))}, nil
}

type redsyncMutex struct {
	mutex *redsync.Mutex
}

func (m *redsyncMutex) acquire(ctx context.Context) error {
	return m.mutex.LockContext(ctx)
}

func (m *redsyncMutex) try(ctx context.Context) (bool, error) {
	err := m.mutex.TryLockContext(ctx)
	if _, isTaken := errors.AsType[*redsync.ErrTaken](err); isTaken {
		return false, nil
	}
	return err == nil, err
}

func (m *redsyncMutex) release() error {
	return done(m.mutex.Unlock())
}

func (m *redsyncMutex) renew() error {
	return done(m.mutex.Extend())
}

func done(ok bool, err error) error {
	if err == nil && !ok {
		return errors.New("redsync: the lock was lost")
	}
	return err
}
