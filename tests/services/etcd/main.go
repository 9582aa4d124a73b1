// The etcd server that the tests start, for machines that have Go and no etcd: see tools/fetch-etcd.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
