package cli

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/control"
)

// progressInterval is how often a change that goes on is looked at.
const progressInterval = 200 * time.Millisecond

func secretsEncryptCommand() *cli.Command {
	change := func(name, usage, description string) *cli.Command {
		return &cli.Command{
			Name: name, Usage: usage, UsageText: "kedge secrets-encrypt " + name, Description: description,
			Action: func(c *cli.Context) error { return changeEncryption(c, name) },
		}
	}
	return group(&cli.Command{
		Name:  "secrets-encrypt",
		Usage: "look at how Secrets are encrypted in the datastore, and change the keys",
		Description: `The keys are in server/cred/encryption-config.json of the server's data directory.
Who changes them needs a backup of that file with each backup of the datastore.
Nothing restarts, and Secrets can be read and written meanwhile.`,
		Subcommands: []*cli.Command{
			{
				Name: "status", Usage: "say whether Secrets are encrypted, with which keys, and how a change goes", UsageText: "kedge secrets-encrypt status [options]",
				Flags:  []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "Print as `FORM`: text or json", Value: "text"}},
				Action: encryptionStatus,
			},
			change("enable", "encrypt Secrets, also those that are there", "A new key is made, and every Secret is written again with it."),
			change("disable", "write Secrets in plain text, also those that are there", "Every Secret is written again, and the keys are removed."),
			change("rotate-keys", "replace the key: all of prepare, rotate and reencrypt", "Every Secret is written again with the new key, and the old one is removed."),
			change("prepare", "make a new key, and only read with it", "The first of three steps, for clusters in which each server must know a key before\none writes with it."),
			change("rotate", "write with the new key from now on", "The second step, after prepare."),
			change("reencrypt", "write every Secret again, and remove old keys", "The last step, after rotate; also what ends a change that was interrupted."),
		},
	})
}

func callEncryption[Q any](c *cli.Context, command string, ask Q) (control.Encryption, error) {
	if os.Geteuid() != 0 {
		return control.Encryption{}, errors.New("the keys of Secrets are for root alone: use sudo")
	}
	answer, err := control.Call[Q, control.Encryption](c.Context, controlSocket(), command, ask)
	if errors.Is(err, control.ErrNotRunning) {
		return answer, fmt.Errorf("%w; start the server and try again", err)
	}
	return answer, err
}

func encryptionStatus(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "text")
	if err != nil {
		return err
	}
	state, err := callEncryption(c, control.EncryptionStatus, control.None{})
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c, state)
	}
	return printEncryption(c, state)
}

func printEncryption(c *cli.Context, e control.Encryption) error {
	status := "Disabled"
	if e.Enabled {
		status = "Enabled"
	}
	fmt.Fprintf(c.App.Writer, "Encryption Status: %s\nCurrent Rotation Stage: %s\n", status, e.Stage)
	if e.Running {
		fmt.Fprintf(c.App.Writer, "Secrets written again: %d of %d\n", e.Done, e.Total)
	}
	if e.Error != "" {
		fmt.Fprintf(c.App.Writer, "The last change failed: %s\n", e.Error)
	}
	if len(e.Keys) == 0 {
		return nil
	}
	fmt.Fprintln(c.App.Writer)
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "ACTIVE\tTYPE\tNAME")
	for _, key := range e.Keys {
		active := ""
		if key.Active {
			active = "*"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", active, key.Type, key.Name)
	}
	return w.Flush()
}

// changeEncryption begins a change and stays until it is done.
func changeEncryption(c *cli.Context, change string) error {
	if err := noArguments(c); err != nil {
		return err
	}
	state, err := callEncryption(c, control.EncryptSecrets, control.Encrypt{Change: change})
	if err != nil {
		return err
	}
	shown := time.Now()
	for state.Running {
		if time.Since(shown) >= time.Second {
			fmt.Fprintf(c.App.ErrWriter, "kedge: %d of %d Secrets are written again\n", state.Done, state.Total)
			shown = time.Now()
		}
		select {
		case <-c.Done():
			return errors.New("the change goes on in the server; look with kedge secrets-encrypt status")
		case <-time.After(progressInterval):
		}
		if state, err = callEncryption(c, control.EncryptionStatus, control.None{}); err != nil {
			return fmt.Errorf("%w; the server goes on with the change, also after a restart: look with kedge secrets-encrypt status", err)
		}
	}
	if state.Error != "" {
		return fmt.Errorf("not all Secrets were written again, and the old keys are kept: %s; run kedge secrets-encrypt reencrypt", state.Error)
	}
	if state.Total > 0 && change != "prepare" && change != "rotate" {
		fmt.Fprintf(c.App.ErrWriter, "%d Secrets are written again.\n", state.Done)
	}
	return printEncryption(c, state)
}
