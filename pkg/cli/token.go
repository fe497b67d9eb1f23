package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kedge-k8s/kedge/pkg/bootstraptoken"
	"github.com/kedge-k8s/kedge/pkg/config"
	"github.com/kedge-k8s/kedge/pkg/control"
	"github.com/kedge-k8s/kedge/pkg/token"
)

// clusterLimit is how long the cluster may take to answer a request.
const clusterLimit = 15 * time.Second

func tokenCommand() *cli.Command {
	kubeconfig := &cli.StringFlag{Name: "kubeconfig", Usage: "Talk to the cluster of this `FILE`", DefaultText: "KUBECONFIG, or the one that the server writes"}
	output := &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "Print as `FORM`: text or json", Value: "text"}
	return group(&cli.Command{
		Name:  "token",
		Usage: "make and remove the tokens that machines join the cluster with",
		Description: `A server has two tokens that never end, in the files server/token and
server/agent-token of its data directory. The tokens made here end by
themselves, so that they may be given to others.`,
		Subcommands: []*cli.Command{
			{
				Name:      "create",
				Usage:     "make a token, and print it",
				UsageText: "kedge token create [options] [TOKEN]",
				Description: `Without TOKEN, which others on this machine could read in the list of
processes, a random one is made.`,
				Flags: []cli.Flag{
					kubeconfig,
					&cli.DurationFlag{Name: "ttl", Usage: "End the token after this `TIME`, such as 30m or 24h; 0: never", Value: 24 * time.Hour},
					&cli.StringSliceFlag{Name: "usages", Usage: "`USES` of the token: authentication lets machines join, signing is for kubeadm", Value: cli.NewStringSlice(bootstraptoken.UsageAuthentication, bootstraptoken.UsageSigning)},
					&cli.StringSliceFlag{Name: "groups", Usage: "`GROUPS` that who shows the token belongs to", Value: cli.NewStringSlice(bootstraptoken.DefaultGroup)},
					&cli.StringFlag{Name: "description", Usage: "What the token is for, as a `TEXT` that list shows"},
					&cli.BoolFlag{Name: "print-join-command", Usage: "Print the command for the machine that joins instead of the token", DisableDefaultText: true},
				},
				Action: createToken,
			},
			{
				Name:      "list",
				Usage:     "list the tokens that kedge token create has made",
				UsageText: "kedge token list [options]",
				Flags: []cli.Flag{
					kubeconfig, output,
					&cli.BoolFlag{Name: "show-secrets", Usage: "Print whole tokens, not their IDs alone", DisableDefaultText: true},
				},
				Action: listTokens,
			},
			{
				Name:      "delete",
				Usage:     "remove tokens: nobody joins with them any more",
				UsageText: "kedge token delete [options] ID...",
				Flags:     []cli.Flag{kubeconfig},
				Action:    deleteTokens,
			},
			{
				Name:      "generate",
				Usage:     "print a random token, and do nothing else",
				UsageText: "kedge token generate",
				Action: func(c *cli.Context) error {
					if err := noArguments(c); err != nil {
						return err
					}
					id, secret := token.NewBootstrap()
					fmt.Fprintln(c.App.Writer, id+"."+secret)
					return nil
				},
			},
			{
				Name:      "rotate",
				Usage:     "replace the two tokens of the running server that never end",
				UsageText: "kedge token rotate",
				Description: `The old tokens are refused from then on. Machines that have joined go on: they
are known by their certificates.`,
				Action: rotateTokens,
			},
		},
	})
}

// group makes a command of nothing but subcommands.
func group(c *cli.Command, parents ...string) *cli.Command {
	path := strings.Join(append(parents, c.Name), " ")
	c.UsageText = "kedge " + path + " COMMAND [options]"
	c.HideHelpCommand = true
	c.OnUsageError = usageError
	var names []string
	for _, sub := range c.Subcommands {
		names = append(names, sub.Name)
		sub.OnUsageError = usageError
	}
	c.Action = func(ctx *cli.Context) error {
		if name := ctx.Args().First(); name != "" {
			return fmt.Errorf("unknown command %q%s; kedge %s --help lists the commands", path+" "+name, didYouMean(name, names), path)
		}
		return cli.ShowSubcommandHelp(ctx)
	}
	return c
}

func createToken(c *cli.Context) error {
	ttl := c.Duration("ttl")
	if ttl < 0 {
		return fmt.Errorf("--ttl: %s lies in the past; 0 means that the token never ends", ttl)
	}
	credential, err := givenToken(c)
	if err != nil {
		return err
	}
	t := bootstraptoken.Token{
		Token:       credential,
		Usages:      commas(c.StringSlice("usages")),
		Groups:      commas(c.StringSlice("groups")),
		Description: c.String("description"),
	}
	if ttl > 0 {
		t.Expires = time.Now().Add(ttl)
	}
	if err := t.Validate(); err != nil {
		return err
	}
	cluster, err := connect(c)
	if err != nil {
		return err
	}
	if err := credential.VerifyCA(cluster.CAData); err != nil && !errors.Is(err, token.ErrNoCAHash) {
		return fmt.Errorf("the token was made for another cluster: %w", err)
	}
	full, err := token.Format(cluster.CAData, t.BootstrapID, t.Secret())
	if err != nil {
		return err
	}
	text := full
	if c.Bool("print-join-command") {
		server, err := cluster.joinURL(c.Context)
		if err != nil {
			return err
		}
		text = joinCommand(server, full)
	}
	err = bootstraptoken.Create(c.Context, cluster.client, t)
	if apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("there is a token with the ID %s already: remove it with kedge token delete %[1]s, or make a random one", t.BootstrapID)
	}
	if err != nil {
		return cluster.explain(err)
	}
	if ttl == 0 {
		fmt.Fprintln(c.App.ErrWriter, "kedge: this token never ends: whoever has it can join machines until you run kedge token delete "+t.BootstrapID)
	}
	if !t.Authenticates() {
		fmt.Fprintln(c.App.ErrWriter, "kedge: machines can't join with this token: it lacks the usage "+bootstraptoken.UsageAuthentication)
	}
	fmt.Fprintln(c.App.Writer, text)
	return nil
}

// joinCommand is one line for the shell of a machine that is to join. The token is
// in a file there: sudo would show it in the list of processes as long as the agent
// runs, which asks for it again when its certificate has ended.
func joinCommand(server, token string) string {
	const file = config.DefaultTokenFile
	return fmt.Sprintf("echo %s | sudo install -D -m 600 /dev/stdin %s && sudo kedge agent --server %s --token-file %[2]s", token, file, server)
}

// givenToken is the token on the command line, or a random one.
func givenToken(c *cli.Context) (token.Token, error) {
	if c.NArg() == 0 {
		id, secret := token.NewBootstrap()
		return token.New(nil, id, secret)
	}
	for _, arg := range c.Args().Tail() {
		return token.Token{}, fmt.Errorf("unexpected argument %q after the token: options come before it", arg)
	}
	return token.Parse(c.Args().First())
}

// commas splits values at commas, which may also be given one by one.
func commas(values []string) []string {
	var all []string
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" && !slices.Contains(all, item) {
				all = append(all, item)
			}
		}
	}
	return all
}

// listedToken is a token as list prints it.
type listedToken struct {
	ID          string     `json:"id"`
	Token       string     `json:"token,omitempty"` // only when asked for
	Expires     *time.Time `json:"expires"`         // null: never
	Usages      []string   `json:"usages"`
	Description string     `json:"description"`
	Groups      []string   `json:"groups"`
}

func listTokens(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	asJSON, err := wantsJSON(c, "text")
	if err != nil {
		return err
	}
	cluster, err := connect(c)
	if err != nil {
		return err
	}
	tokens, unreadable, err := bootstraptoken.List(c.Context, cluster.client)
	if err != nil {
		return cluster.explain(err)
	}
	for _, err := range unreadable {
		fmt.Fprintln(c.App.ErrWriter, "kedge: "+err.Error())
	}
	list := []listedToken{}
	for _, t := range tokens {
		item := listedToken{ID: t.BootstrapID, Usages: t.Usages, Description: t.Description, Groups: t.Groups}
		if c.Bool("show-secrets") {
			if item.Token, err = token.Format(cluster.CAData, t.BootstrapID, t.Secret()); err != nil {
				return err
			}
		}
		if !t.Expires.IsZero() {
			item.Expires = &t.Expires
		}
		list = append(list, item)
	}
	if asJSON {
		return printJSON(c, list)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tTTL\tEXPIRES\tUSAGES\tDESCRIPTION\tGROUPS")
	for _, t := range list {
		text, ttl, expires := t.ID, "forever", "never"
		if t.Token != "" {
			text = t.Token
		}
		if t.Expires != nil {
			expires = t.Expires.UTC().Format(time.RFC3339)
			if ttl = "expired"; time.Now().Before(*t.Expires) {
				ttl = duration.HumanDuration(time.Until(*t.Expires))
			}
		}
		fmt.Fprintln(w, strings.Join([]string{text, ttl, expires, orNone(t.Usages), orNone([]string{t.Description}), orNone(t.Groups)}, "\t"))
	}
	return w.Flush()
}

func orNone(list []string) string {
	if text := strings.Join(list, ","); text != "" {
		return text
	}
	return "<none>"
}

// wantsJSON reads --output, which is json or the command's other form.
func wantsJSON(c *cli.Context, other string) (bool, error) {
	switch form := c.String("output"); form {
	case "json":
		return true, nil
	case other:
		return false, nil
	default:
		return false, fmt.Errorf("--output: unknown form %q: give %s or json", form, other)
	}
}

func printJSON(c *cli.Context, value any) error {
	encoder := json.NewEncoder(c.App.Writer)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func deleteTokens(c *cli.Context) error {
	if c.NArg() == 0 {
		return errors.New("name a token by its ID; kedge token list shows them")
	}
	var ids []string
	for _, text := range c.Args().Slice() {
		id, err := bootstraptoken.ID(text)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	cluster, err := connect(c)
	if err != nil {
		return err
	}
	for _, id := range ids {
		err := bootstraptoken.Delete(c.Context, cluster.client, id)
		if apierrors.IsNotFound(err) {
			return fmt.Errorf("there is no token with the ID %s; kedge token list shows them", id)
		}
		if err != nil {
			return cluster.explain(err)
		}
		fmt.Fprintf(c.App.Writer, "token %s deleted\n", id)
	}
	return nil
}

func rotateTokens(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	rotated, err := control.Call[control.None, control.Rotated](c.Context, controlSocket(), control.RotateTokens, control.None{})
	if errors.Is(err, control.ErrNotRunning) {
		return fmt.Errorf("%w; start the server and try again", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "The old tokens are refused from now on. The new ones are in %s.\n", strings.Join(rotated.Files, " and "))
	return nil
}

func controlSocket() string { return filepath.Join(config.RuntimeDir, control.Socket) }

// cluster is the one that a kubeconfig names.
type cluster struct {
	*rest.Config
	client kubernetes.Interface
}

// connect makes a client of the cluster that the user means.
func connect(c *cli.Context) (*cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if path := c.String("kubeconfig"); path != "" {
		rules.ExplicitPath = path
	} else if err := findKubeconfig(rules); err != nil {
		return nil, err
	}
	restConfig, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if clientcmd.IsEmptyConfig(err) {
		return nil, errNoCluster()
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	if err := rest.LoadTLSFiles(restConfig); err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	if len(restConfig.CAData) == 0 {
		return nil, errors.New("the kubeconfig does not say which CA the cluster has, which a token must: use the one that the server writes, " + adminKubeconfig())
	}
	restConfig.Timeout = clusterLimit
	client, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return &cluster{restConfig, client}, nil
}

func errNoCluster() error {
	return fmt.Errorf("there is no cluster to talk to: start one with sudo kedge server, or name the kubeconfig of another with --kubeconfig (there is no %s)", adminKubeconfig())
}

// findKubeconfig chooses the kubeconfig as kedge kubectl does.
func findKubeconfig(rules *clientcmd.ClientConfigLoadingRules) error {
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "" {
		return nil
	}
	path := adminKubeconfig()
	file, err := os.Open(path)
	if err == nil {
		rules.ExplicitPath = path
		return file.Close()
	}
	if _, homeErr := os.Stat(clientcmd.RecommendedHomeFile); homeErr == nil {
		return nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return errUnreadable(path)
	}
	return errNoCluster()
}

// explain says what an error of a request means for the person who made it.
func (c *cluster) explain(err error) error {
	var netErr net.Error
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("you may not do this with your kubeconfig (%w): use the administrator's, %s", err, adminKubeconfig())
	case errors.As(err, &netErr):
		return fmt.Errorf("the cluster at %s does not answer: is the server running? (%w)", c.Host, err)
	}
	return err
}

// joinURL is where other machines reach the cluster.
func (c *cluster) joinURL(ctx context.Context) (string, error) {
	server, err := url.Parse(c.Host)
	if err != nil {
		return "", fmt.Errorf("read the kubeconfig: %w", err)
	}
	if host := server.Hostname(); host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return server.String(), nil
	}
	// Every apiserver keeps itself in the endpoints of the Service kubernetes.
	slices, err := c.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	if err != nil {
		return "", c.explain(err)
	}
	for _, slice := range slices.Items {
		for _, endpoint := range slice.Endpoints {
			for _, port := range slice.Ports {
				if port.Port != nil && len(endpoint.Addresses) > 0 {
					return "https://" + net.JoinHostPort(endpoint.Addresses[0], strconv.Itoa(int(*port.Port))), nil
				}
			}
		}
	}
	return "", errors.New("the cluster does not say where its servers are: look with kedge kubectl get endpointslices kubernetes")
}
