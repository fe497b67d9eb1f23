package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"
)

const (
	dashboardName = "kubernetes-dashboard" // of the namespace, the Deployment and the Service
	dashboardPath = "/api/v1/namespaces/" + dashboardName + "/services/https:" + dashboardName + ":/proxy"
	// dashboardClusterView is the ClusterRole, of the dashboard's manifest, that lets who
	// may see all namespaces see the nodes too.
	dashboardClusterView = "kedge:dashboard:cluster-view"
	// dashboardLimit is how long the dashboard may take to answer.
	dashboardLimit = 2 * time.Minute
)

// dashboardRoles are the ClusterRoles of what --role says, in all namespaces. That of
// edit itself is given in some only: it lets its subject make tokens of any service
// account of a namespace, and there are mighty ones.
var dashboardRoles = map[string][]string{
	"view":  {"view", dashboardClusterView},
	"edit":  {"view", dashboardClusterView},
	"admin": {"cluster-admin"},
}

// mightyNamespaces have service accounts that may do everything.
var mightyNamespaces = []string{metav1.NamespaceSystem, dashboardName}

func dashboardCommand() *cli.Command {
	kubeconfig := &cli.StringFlag{Name: "kubeconfig", Usage: "Talk to the cluster of this `FILE`", DefaultText: "KUBECONFIG, or the one that the server writes"}
	role := &cli.StringFlag{Name: "role", Usage: "Let the token see (view), change what is in some namespaces (edit), or do everything in the cluster (admin): a `ROLE`", Value: "admin"}
	namespaces := &cli.StringSliceFlag{Name: "namespace", Usage: "With --role edit, let the token change what is in this `NAMESPACE`; may be repeated", DefaultText: metav1.NamespaceDefault}
	user := &cli.StringFlag{Name: "user", Usage: "Make the token for this `NAME`, a service account of the namespace " + dashboardName, DefaultText: "dashboard-ROLE"}
	return &cli.Command{
		Name:      "dashboard",
		Usage:     "look at the cluster in a browser, and act on it",
		UsageText: "kedge dashboard [options]\nkedge dashboard token [options]",
		Description: `Serves the dashboard on this machine alone, prints its address with a token
that ends by itself already in, and opens it where there is a desktop. Ctrl-C
ends it. kedge dashboard token makes a token to give to somebody.`,
		HideHelpCommand: true,
		OnUsageError:    usageError,
		Flags: []cli.Flag{
			kubeconfig, role, namespaces, user,
			&cli.DurationFlag{Name: "ttl", Usage: "End the token after this `TIME`, at least 10m", Value: 4 * time.Hour},
			&cli.IntFlag{Name: "port", Usage: "Serve at this TCP `PORT` of 127.0.0.1", DefaultText: "a free one"},
			&cli.BoolFlag{Name: "no-open", Usage: "Open no browser", DisableDefaultText: true},
		},
		Action: openDashboard,
		Subcommands: []*cli.Command{{
			Name:      "token",
			Usage:     "make a token to log in to the dashboard with, and print it",
			UsageText: "kedge dashboard token [options]",
			Description: `The token belongs to a service account, which is made if it is not there, and
given the role. Delete the service account to end its tokens at once.`,
			OnUsageError: usageError,
			Flags: []cli.Flag{
				kubeconfig, role, namespaces, user,
				&cli.DurationFlag{Name: "ttl", Usage: "End the token after this `TIME`, at least 10m", Value: 24 * time.Hour},
			},
			Action: func(c *cli.Context) error {
				if err := noArguments(c); err != nil {
					return err
				}
				cluster, err := connect(c)
				if err != nil {
					return err
				}
				token, err := cluster.dashboardToken(c)
				if err == nil {
					fmt.Fprintln(c.App.Writer, token)
				}
				return err
			},
		}},
	}
}

// dashboardToken makes a token for the role and the user that the options name.
func (k *cluster) dashboardToken(c *cli.Context) (string, error) {
	role, user, ttl := c.String("role"), c.String("user"), c.Duration("ttl")
	clusterRoles, ok := dashboardRoles[role]
	if !ok {
		return "", fmt.Errorf("--role: unknown role %q: give view, edit or admin", role)
	}
	if ttl < 10*time.Minute {
		return "", fmt.Errorf("--ttl: %s is too short: give at least 10m", ttl)
	}
	if user == "" {
		user = "dashboard-" + role
	}
	namespaces := c.StringSlice("namespace")
	switch {
	case role != "edit" && len(namespaces) > 0:
		return "", fmt.Errorf("--namespace is for --role edit: %s is for all namespaces", role)
	case role == "edit" && len(namespaces) == 0:
		namespaces = []string{metav1.NamespaceDefault}
	}
	for _, namespace := range namespaces {
		if slices.Contains(mightyNamespaces, namespace) {
			return "", fmt.Errorf("--namespace: who may change what is in %s can do everything in the cluster: give --role admin for that", namespace)
		}
	}
	if faults := validation.IsDNS1123Label(user); len(faults) > 0 {
		return "", fmt.Errorf("--user: %q can't be the name of a service account: %s", user, faults[0])
	}
	ctx := c.Context
	accounts := k.client.CoreV1().ServiceAccounts(dashboardName)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: user}}
	_, err := accounts.Create(ctx, account, metav1.CreateOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", errNoDashboard
	case err != nil && !apierrors.IsAlreadyExists(err):
		return "", k.explain(err)
	}
	if err := k.bindDashboardUser(ctx, user, clusterRoles, namespaces); err != nil {
		return "", k.explain(err)
	}
	seconds := int64(ttl.Seconds())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	made, err := accounts.CreateToken(ctx, user, request, metav1.CreateOptions{})
	if err != nil {
		return "", k.explain(err)
	}
	return made.Status.Token, nil
}

// bindDashboardUser gives a user roles in all namespaces, and edit in some, in place of
// what it has had.
func (k *cluster) bindDashboardUser(ctx context.Context, user string, clusterRoles, namespaces []string) error {
	rbac := k.client.RbacV1()
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: dashboardName, Name: user}}
	nameOf := func(clusterRole string) string { return "kedge:dashboard:" + user + ":" + clusterRole }
	for _, other := range []string{"view", "edit", dashboardClusterView, "cluster-admin"} {
		if slices.Contains(clusterRoles, other) {
			continue
		}
		if err := rbac.ClusterRoleBindings().Delete(ctx, nameOf(other), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	edit := nameOf("edit")
	former, err := rbac.RoleBindings(metav1.NamespaceAll).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + edit})
	if err != nil {
		return err
	}
	for _, binding := range former.Items {
		if slices.Contains(namespaces, binding.Namespace) {
			continue
		}
		if err := rbac.RoleBindings(binding.Namespace).Delete(ctx, edit, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	for _, clusterRole := range clusterRoles {
		_, err := rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: nameOf(clusterRole)},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole},
			Subjects:   subjects,
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	for _, namespace := range namespaces {
		_, err := rbac.RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: edit},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
			Subjects:   subjects,
		}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return nil
}

var errNoDashboard = errors.New("there is no dashboard in this cluster (yet): was the server started with --disable dashboard?")

func openDashboard(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, os.Interrupt, syscall.SIGTERM)
	defer stop()
	cluster, err := connect(c)
	if err != nil {
		return err
	}
	if err := cluster.awaitDashboard(ctx); err != nil {
		return err
	}
	token, err := cluster.dashboardToken(c)
	if err != nil {
		return err
	}
	// Nobody else on this machine knows the path, so none has the proxy act for him,
	// and the browser shows its cookie to no other port of 127.0.0.1.
	secret := make([]byte, 16)
	if _, err := rand.Read(secret); err != nil {
		return fmt.Errorf("make a random path: %w", err)
	}
	prefix := "/" + hex.EncodeToString(secret)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", c.Int("port")))
	if err != nil {
		return fmt.Errorf("serve the dashboard on this machine: %w; choose another port with --port", err)
	}
	proxy, err := cluster.dashboardProxy(prefix, listener.Addr().String())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: proxy, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }() // ends with Close
	defer func() { _ = server.Close() }()

	address := "http://" + listener.Addr().String() + prefix + "/#token=" + url.QueryEscape(token)
	fmt.Fprintf(c.App.Writer, "The dashboard is at\n\n  %s\n\nThe address lets in whoever has it. Ctrl-C ends it.\n", address)
	if !c.Bool("no-open") {
		remove := openBrowser(ctx, address)
		defer remove()
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve the dashboard on this machine: %w", err)
	case <-ctx.Done():
		return nil
	}
}

// awaitDashboard waits until the dashboard answers.
func (k *cluster) awaitDashboard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dashboardLimit)
	defer cancel()
	for {
		err := k.client.CoreV1().RESTClient().Get().AbsPath(dashboardPath + "/healthz").Do(ctx).Error()
		switch {
		case err == nil:
			return nil
		case apierrors.IsNotFound(err):
			return errNoDashboard
		case !apierrors.IsServiceUnavailable(err):
			return k.explain(err)
		}
		select {
		case <-time.After(time.Second): // of the first start
		case <-ctx.Done():
			return fmt.Errorf("the dashboard does not answer: %w; see kedge kubectl --namespace %s get pods,events", err, dashboardName)
		}
	}
}

// dashboardProxy serves what is below prefix from the dashboard, through the API
// server, and nothing else.
func (k *cluster) dashboardProxy(prefix, address string) (http.Handler, error) {
	restConfig := rest.CopyConfig(k.Config)
	restConfig.Timeout = 0
	restConfig.NextProtos = []string{"http/1.1"} // a websocket has no place in HTTP/2
	transport, err := rest.TransportFor(restConfig)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	to, _, err := rest.DefaultServerUrlFor(restConfig)
	if err != nil {
		return nil, fmt.Errorf("reach the cluster: %w", err)
	}
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = to.Scheme, to.Host
			r.Out.URL.Path = strings.TrimSuffix(to.Path, "/") + dashboardPath + strings.TrimPrefix(r.In.URL.Path, prefix)
			r.Out.URL.RawPath = ""
			r.Out.Host = to.Host
			r.Out.Header.Del("Authorization")
			for name := range r.Out.Header {
				if strings.HasPrefix(name, "Impersonate-") {
					r.Out.Header.Del(name)
				}
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "the cluster does not answer: "+err.Error(), http.StatusBadGateway)
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		clean := strings.TrimSuffix(path.Clean(r.URL.Path), "/")
		// A name that leads here from elsewhere is not for us.
		if r.Host != address || clean != prefix && !strings.HasPrefix(clean, prefix+"/") || r.URL.Path == prefix || strings.Contains(r.URL.Path, "/..") {
			http.NotFound(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	}), nil
}

// openBrowser opens the address where there is a desktop. It goes through a file that
// only the user can read: everybody sees the arguments of a process. What it returns
// removes the file.
func openBrowser(ctx context.Context, address string) (remove func()) {
	none := func() {}
	if os.Getenv("DISPLAY") == "" && os.Getenv("WAYLAND_DISPLAY") == "" || os.Geteuid() == 0 {
		return none // no browser runs as root
	}
	opener, err := exec.LookPath("xdg-open")
	if err != nil {
		return none
	}
	file, err := os.CreateTemp("", "kedge-dashboard-*.html")
	if err != nil {
		return none
	}
	remove = func() { _ = os.Remove(file.Name()) }
	_, err = io.WriteString(file, `<!doctype html><meta http-equiv="refresh" content="0; url=`+html.EscapeString(address)+`">`)
	if err = errors.Join(err, file.Close()); err != nil {
		return remove
	}
	_ = exec.CommandContext(ctx, opener, file.Name()).Start() // the address is printed too
	return remove
}
