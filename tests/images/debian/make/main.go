// Command make makes the labs' container images in build/lab-images of the
// module it is run in.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/kedge-k8s/kedge/tests/images/debian"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "make the labs' images:", err)
		os.Exit(1)
	}
}

func run() error {
	root, err := testbed.ModuleRoot()
	if err != nil {
		return err
	}
	layout, err := debian.Build(context.Background(), root)
	if err != nil {
		return err
	}
	images, err := layout.Images()
	if err != nil {
		return err
	}
	for name, image := range images {
		fmt.Println(name, image.Digest)
	}
	return nil
}
