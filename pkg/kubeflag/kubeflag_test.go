package kubeflag

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/kedge-k8s/kedge/pkg/config"
)

func TestSet(t *testing.T) {
	type result struct {
		name  string
		list  []string
		count int
	}
	own := map[string]string{"name": "own", "list": "a,b"}
	for title, tc := range map[string]struct {
		user []config.Arg
		want result
		err  string
	}{
		"own":            {nil, result{"own", []string{"a", "b"}, 1}, ""},
		"user wins":      {[]config.Arg{{Name: "name", Value: "user"}}, result{"user", []string{"a", "b"}, 1}, ""},
		"list replaced":  {[]config.Arg{{Name: "list", Value: "c"}, {Name: "list", Value: "d"}}, result{"own", []string{"c", "d"}, 1}, ""},
		"unknown":        {[]config.Arg{{Name: "conut", Value: "2"}}, result{}, `--x-arg: the component has no flag "conut"; did you mean "count"?`},
		"bad value":      {[]config.Arg{{Name: "count", Value: "two"}}, result{}, "--x-arg count=two: "},
		"quite unknown":  {[]config.Arg{{Name: "zzzzzzzzzzz", Value: "2"}}, result{}, `--x-arg: the component has no flag "zzzzzzzzzzz"`},
		"not own's flag": {[]config.Arg{{Name: "count", Value: "7"}}, result{"own", []string{"a", "b"}, 7}, ""},
	} {
		t.Run(title, func(t *testing.T) {
			var got result
			fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
			fs.StringVar(&got.name, "name", "", "")
			fs.StringSliceVar(&got.list, "list", nil, "")
			fs.IntVar(&got.count, "count", 1, "")
			err := Set(fs, own, "x-arg", tc.user)
			if tc.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tc.err) {
					t.Fatalf("got %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || got.name != tc.want.name || got.count != tc.want.count || !slices.Equal(got.list, tc.want.list) {
				t.Fatalf("got %+v, %v; want %+v", got, err, tc.want)
			}
		})
	}
}
