package crictl

import (
	"fmt"

	"github.com/urfave/cli/v2"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (t *tool) version(c *cli.Context) error {
	answer, err := t.Version(c.Context, &runtime.VersionRequest{Version: "v1"})
	if err != nil {
		return err
	}
	// Two spaces, as upstream has them.
	fmt.Fprintln(t.out, "Version: ", answer.GetVersion())
	fmt.Fprintln(t.out, "RuntimeName: ", answer.GetRuntimeName())
	fmt.Fprintln(t.out, "RuntimeVersion: ", answer.GetRuntimeVersion())
	fmt.Fprintln(t.out, "RuntimeApiVersion: ", answer.GetRuntimeApiVersion())
	return nil
}

func (t *tool) info(c *cli.Context) error {
	answer, err := t.Status(c.Context, &runtime.StatusRequest{Verbose: !c.Bool("quiet")})
	if err != nil {
		return err
	}
	document, err := statusDocument(answer.GetStatus(), nil, answer.GetInfo())
	if err != nil {
		return err
	}
	if features := answer.GetFeatures(); features != nil {
		if document["features"], err = plainValue(features); err != nil {
			return err
		}
	}
	var handlers []any
	for _, handler := range answer.GetRuntimeHandlers() {
		value, err := plainValue(handler)
		if err != nil {
			return err
		}
		handlers = append(handlers, value)
	}
	if handlers != nil {
		document["runtimeHandlers"] = handlers
	}
	return t.document(c, []any{document})
}
