package main

import (
	"context"
	"errors"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// etcdMutexes are the mutexes of etcd's own client.
type etcdMutexes struct {
	client *clientv3.Client
	ttl    time.Duration
	// A session holds a key as a whole, whichever of its mutexes asks. So the first who wants a key uses the first session,
	// as all of a program would, and a rival the next.
	sessions []*concurrency.Session
}

func openEtcdMutex(url string, ttl time.Duration) (locker, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{strings.TrimPrefix(url, "etcd://")},
		DialTimeout: 5 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	mutexes := &etcdMutexes{client: client, ttl: ttl}
	_, err = mutexes.session(0)
	return mutexes, err
}

func (m *etcdMutexes) session(rival int) (*concurrency.Session, error) {
	for len(m.sessions) <= rival {
		session, err := concurrency.NewSession(m.client, concurrency.WithTTL(int(m.ttl.Seconds())))
		if err != nil {
			return nil, err
		}
		m.sessions = append(m.sessions, session)
	}
	return m.sessions[rival], nil
}

func (m *etcdMutexes) lock(key string, rival int) (lock, error) {
	session, err := m.session(rival)
	if err != nil {
		return nil, err
	}
	return &etcdMutex{concurrency.NewMutex(session, key)}, nil
}

type etcdMutex struct {
	mutex *concurrency.Mutex
}

func (m *etcdMutex) acquire(ctx context.Context) error {
	return m.mutex.Lock(ctx)
}

func (m *etcdMutex) try(ctx context.Context) (bool, error) {
	err := m.mutex.TryLock(ctx)
	if errors.Is(err, concurrency.ErrLocked) {
		return false, nil
	}
	return err == nil, err
}

func (m *etcdMutex) release() error {
	return m.mutex.Unlock(context.Background())
}
