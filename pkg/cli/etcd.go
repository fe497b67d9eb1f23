package cli

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/datastore"
)

func etcdCommand() *cli.Command {
	member := group(&cli.Command{
		Name:  "member",
		Usage: "list the members of etcd, and remove those of lost servers",
		Subcommands: []*cli.Command{
			{
				Name:      "list",
				Aliases:   []string{"ls"},
				Usage:     "list the members, and say which of them answer",
				UsageText: "kedge etcd member list [options]",
				Flags:     []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "Print as `FORM`: table or json", Value: "table"}},
				Action:    listMembers,
			},
			{
				Name:      "remove",
				Usage:     "remove the member of a server that will not come back",
				UsageText: "kedge etcd member remove NAME",
				Description: `NAME is the member's name or ID, or the name of its node. The server must not
run any more. Of a server that still has a node, kedge kubectl delete node removes
the member, too. Nothing is removed that the others need for their quorum.`,
				Action: removeMember,
			},
		},
	}, "etcd")
	return group(&cli.Command{
		Name:        "etcd",
		Usage:       "look after embedded etcd, which several servers have",
		Subcommands: []*cli.Command{member},
	})
}

func callMembers[Q, A any](c *cli.Context, command string, ask Q) (answer A, err error) {
	if os.Geteuid() != 0 {
		return answer, errors.New("the members of etcd are for root alone: use sudo")
	}
	answer, err = control.Call[Q, A](c.Context, controlSocket(), command, ask)
	if errors.Is(err, control.ErrNotRunning) {
		return answer, fmt.Errorf("%w; say this on a server that runs", err)
	}
	return answer, err
}

func listMembers(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "table")
	if err != nil {
		return err
	}
	members, err := callMembers[control.None, []datastore.MemberState](c, control.ListMembers, control.None{})
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c, members)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "NAME\tID\tADDRESS\tROLE\tANSWERS")
	for _, m := range members {
		role, answers := "voter", "yes"
		switch {
		case m.Leader:
			role = "leader"
		case m.Learner:
			role = "learner"
		}
		if !m.Answers {
			answers = "no"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.ID, m.Address, role, answers)
	}
	return w.Flush()
}

func removeMember(c *cli.Context) error {
	if c.NArg() != 1 || c.Args().First() == "" {
		return errors.New("name one member: kedge etcd member list shows them")
	}
	m, err := callMembers[control.Named, datastore.MemberState](c, control.RemoveMember, control.Named{Name: c.Args().First()})
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "The member %s of etcd is removed.\n", m.Label())
	return nil
}
