// The contenders in Go. What they do, and what they are asked, is in benches/README.md. Usage: peers LIBRARY URL
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"
	"time"
)

// libraries has what connects to a server, for locks of one TTL.
var libraries = map[string]func(url string, ttl time.Duration) (locker, error){
	"etcd-mutex":  openEtcdMutex,
	"redsync":     openRedsync,
	"bsm":         openBsm,
	"rueidislock": openRueidislock,
}

// A contender connects once for each TTL that it is asked for: some of the libraries have one for all of their locks.
type contender struct {
	url     string
	open    func(url string, ttl time.Duration) (locker, error)
	lockers map[time.Duration]locker
}

func (c *contender) locker(ttl time.Duration) (locker, error) {
	if found, ok := c.lockers[ttl]; ok {
		return found, nil
	}
	opened, err := c.open(c.url, ttl)
	if err == nil {
		c.lockers[ttl] = opened
	}
	return opened, err
}

func (c *contender) answer(line []byte) any {
	asked := work{TTL: defaultTTL.Seconds()}
	err := json.Unmarshal(line, &asked)
	if err != nil {
		return failed{err.Error()}
	}
	from, err := c.locker(duration(asked.TTL))
	if err != nil {
		return failed{err.Error()}
	}
	answer, err := asked.doneWith(from)
	if err != nil {
		return failed{err.Error()}
	}
	return answer
}

type ready struct {
	Ready bool `json:"ready"`
}

type failed struct {
	Error string `json:"error"`
}

func say(answer any) {
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
		log.Fatal(err)
	}
}

func main() {
	if len(os.Args) != 3 || libraries[os.Args[1]] == nil {
		log.Fatal("usage: peers etcd-mutex|redsync|bsm|rueidislock URL")
	}
	contender := &contender{url: os.Args[2], open: libraries[os.Args[1]], lockers: map[time.Duration]locker{}}
	if _, err := contender.locker(defaultTTL); err != nil {
		log.Fatal(err)
	}
	say(ready{true})

	lines := bufio.NewScanner(os.Stdin)
	// A line has a key for each task, and there may be thousands.
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		say(contender.answer(lines.Bytes()))
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}
