package main

import (
	"context"
	"errors"
	"time"

	"github.com/bsm/redislock"
)

// pause is what the library's examples wait between tries. By default it does not try again at all.
const pause = 100 * time.Millisecond

type bsmLocks struct {
	client *redislock.Client
	ttl    time.Duration
}

func openBsm(url string, ttl time.Duration) (locker, error) {
	client, err := connected(url)
	if err != nil {
		return nil, err
	}
	return &bsmLocks{redislock.New(client), ttl}, nil
}

func (l *bsmLocks) lock(key string, _ int) (lock, error) {
	return &bsmLock{locks: l, key: key}, nil
}

type bsmLock struct {
	locks *bsmLocks
	key   string
	held  *redislock.Lock
}

func (l *bsmLock) acquire(ctx context.Context) error {
	return l.obtain(ctx, &redislock.Options{RetryStrategy: redislock.LinearBackoff(pause)})
}

func (l *bsmLock) try(ctx context.Context) (bool, error) {
	err := l.obtain(ctx, nil)
	if errors.Is(err, redislock.ErrNotObtained) {
		return false, nil
	}
	return err == nil, err
}

func (l *bsmLock) obtain(ctx context.Context, options *redislock.Options) (err error) {
	l.held, err = l.locks.client.Obtain(ctx, l.key, l.locks.ttl, options)
	return err
}

func (l *bsmLock) release() error {
	return l.held.Release(context.Background())
}

func (l *bsmLock) renew() error {
	return l.held.Refresh(context.Background(), l.locks.ttl, nil)
}
