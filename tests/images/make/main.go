// Command make makes the tests' container images in build/test-images of the
// module it is run in.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/kedge-k8s/kedge/tests/images"
	"github.com/kedge-k8s/kedge/tests/testbed"
)

func main() {
	root, err := testbed.ModuleRoot()
	if err == nil {
		var set images.Set
		if set, err = images.Build(context.Background(), root); err == nil {
			for _, image := range []images.Image{set.Busybox, set.Agnhost} {
				fmt.Println(image.Name, image.Archive)
			}
			return
		}
	}
	fmt.Fprintln(os.Stderr, "make the test images:", err)
	os.Exit(1)
}
