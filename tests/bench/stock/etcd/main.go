// Command etcd is upstream's etcd, whose own main package can't be built from
// another module.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
