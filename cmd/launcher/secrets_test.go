package main

import (
	"slices"
	"strings"
	"testing"
)

func TestHideSecrets(t *testing.T) {
	for _, test := range []struct{ argv, env, wantArgv, wantEnv string }{
		{"kedge agent --token s3cret -d /x", "A=1", "kedge agent -d /x", "A=1 KEDGE_TOKEN=s3cret"},
		{"kedge agent --token=s3cret", "KEDGE_TOKEN=old A=1", "kedge agent", "A=1 KEDGE_TOKEN=s3cret"},
		{"kedge server -t s3cret -agent-token=other", "", "kedge server", "KEDGE_TOKEN=s3cret KEDGE_AGENT_TOKEN=other"},
		{"kedge install agent --token s3cret", "A=1", "kedge install agent", "A=1 KEDGE_TOKEN=s3cret"},
		{"kedge server --datastore-endpoint=postgres://a:b@c/d --etcd-s3", "", "kedge server --etcd-s3", "KEDGE_DATASTORE_ENDPOINT=postgres://a:b@c/d"},
		{"kedge snapshot restore --token s3cret name", "", "kedge snapshot restore name", "KEDGE_TOKEN=s3cret"},
		{"kedge server --token", "A=1", "kedge server --token", "A=1"},
		{"kedge server --tokens x token y", "A=1", "kedge server --tokens x token y", "A=1"},
		{"kedge kubectl --token s3cret", "A=1", "kedge kubectl --token s3cret", "A=1"},
		{"kubectl --token s3cret", "A=1", "kubectl --token s3cret", "A=1"},
		{"kedge", "A=1", "kedge", "A=1"},
	} {
		argv, env := hideSecrets(strings.Fields(test.argv), strings.Fields(test.env))
		if !slices.Equal(argv, strings.Fields(test.wantArgv)) || !slices.Equal(env, strings.Fields(test.wantEnv)) {
			t.Errorf("%s with %s becomes %s with %s", test.argv, test.env, argv, env)
		}
	}
}
