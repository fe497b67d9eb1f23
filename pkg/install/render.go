package install

import (
	"fmt"
	"strings"
)

// unit is the systemd unit of a role; see systemd.service(5).
func unit(r Request, environmentFile string) string {
	words := []string{word(r.BinDir + "/kedge"), r.Role}
	for _, arg := range r.Args {
		words = append(words, word(arg))
	}
	return `[Unit]
Description=Kedge, Kubernetes in one file: ` + r.Role + `
Documentation=https://github.com/kedge-k8s/kedge
Wants=network-online.target
After=network-online.target dbus.service systemd-logind.service

[Service]
# Active means that the node is Ready, however long that takes.
Type=notify
NotifyAccess=main
TimeoutStartSec=0
ExecStart=` + strings.Join(words, " \\\n\t") + `
# Tokens are there, for root alone.
EnvironmentFile=-` + environmentFile + `
# Containers outlive the service, and have no limits but their own.
KillMode=process
Delegate=yes
OOMScoreAdjust=-999
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
Restart=always
RestartSec=5s

[Install]
WantedBy=multi-user.target
`
}

// word quotes a word of a command in a unit.
func word(w string) string {
	w = strings.NewReplacer(`%`, `%%`, `$`, `$$`).Replace(w)
	if w != "" && !strings.ContainsAny(w, " \t\"'\\;|&<>") {
		return w
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(w) + `"`
}

// environmentText is a file of variables that systemd and a shell read alike.
func environmentText(env []string) string {
	var text strings.Builder
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`")
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		fmt.Fprintf(&text, "%s=\"%s\"\n", name, quote.Replace(value)) //nolint:gocritic // not Go's quoting
	}
	return text.String()
}

// openrcScript is the script of a role; see openrc-run(8).
func openrcScript(r Request, environmentFile string) string {
	words := []string{r.Role}
	for _, arg := range r.Args {
		words = append(words, shellWord(arg))
	}
	// The arguments are in quotes, and supervise-daemon's shell reads them again.
	arguments := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(strings.Join(words, " "))
	return `#!/sbin/openrc-run
description="Kedge, Kubernetes in one file: ` + r.Role + `"

depend() {
	after network-online
	want cgroups dbus
}

supervisor=supervise-daemon
command=` + shellWord(r.BinDir+"/kedge") + `
command_args="` + arguments + `"
# kedge keeps its containers when it stops.
respawn_delay=5
respawn_max=0
retry="TERM/30/KILL/5"
pidfile="/run/${RC_SVCNAME}.pid"
output_log="/var/log/${RC_SVCNAME}.log"
error_log="/var/log/${RC_SVCNAME}.log"
rc_ulimit="-n 1048576 -u unlimited -c unlimited"

set -o allexport
if [ -f ` + shellWord(environmentFile) + ` ]; then . ` + shellWord(environmentFile) + `; fi
set +o allexport
`
}

// shellWord quotes a word for a shell.
func shellWord(w string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./:,@%+"
	if w != "" && strings.Trim(w, plain) == "" {
		return w
	}
	return `'` + strings.ReplaceAll(w, `'`, `'\''`) + `'`
}

// script is a program that runs one of kedge's commands.
func script(binDir, command string) string {
	return "#!/bin/sh\nexec " + shellWord(binDir+"/kedge") + " " + command + " \"$@\"\n"
}
