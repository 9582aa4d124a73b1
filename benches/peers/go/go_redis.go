package main

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// connected gives the client that both redsync and bsm/redislock are documented with, as it is by default.
func connected(url string) (*redis.Client, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	client := redis.NewClient(options)
	return client, client.Ping(context.Background()).Err()
}
