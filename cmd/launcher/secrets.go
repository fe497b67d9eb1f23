package main

import (
	"slices"
	"strings"
)

// secretOptions are the options whose values are not for everybody's eyes, and
// the environment variables that say the same.
var secretOptions = map[string]string{ //nolint:gosec // names
	"token":                 "KEDGE_TOKEN",
	"t":                     "KEDGE_TOKEN",
	"agent-token":           "KEDGE_AGENT_TOKEN",
	"datastore-endpoint":    "KEDGE_DATASTORE_ENDPOINT",
	"etcd-s3-secret-key":    "KEDGE_ETCD_S3_SECRET_KEY",
	"etcd-s3-session-token": "KEDGE_ETCD_S3_SESSION_TOKEN",
}

// commands are those whose command lines may hold secrets.
var commands = []string{"server", "agent", "install", "snapshot", "etcd-snapshot"}

// hideSecrets moves tokens and passwords from a command line, which every user
// can read as long as the process runs, to the environment, which only root can.
func hideSecrets(argv, env []string) (visible, hidden []string) {
	if len(argv) < 2 || !slices.Contains(commands, argv[1]) {
		return argv, env
	}
	visible = argv[:2:2]
	for i := 2; i < len(argv); i++ {
		name, value, joined := strings.Cut(argv[i], "=")
		variable, secret := secretOptions[strings.TrimPrefix(strings.TrimPrefix(name, "-"), "-")]
		if !secret || !strings.HasPrefix(name, "-") || !joined && i+1 == len(argv) {
			visible = append(visible, argv[i])
			continue
		}
		if !joined {
			i++
			value = argv[i]
		}
		env = slices.DeleteFunc(env, func(v string) bool { return strings.HasPrefix(v, variable+"=") })
		env = append(env, variable+"="+value)
	}
	return visible, env
}
