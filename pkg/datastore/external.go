package datastore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/k3s-io/kine/pkg/drivers"
	_ "github.com/k3s-io/kine/pkg/drivers/mysql" // registers the driver
	_ "github.com/k3s-io/kine/pkg/drivers/nats"  // registers the driver
	_ "github.com/k3s-io/kine/pkg/drivers/pgsql" // registers the driver
	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/tls"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kedge-k8s/kedge/pkg/pki"
)

// TLS are the files that a client of the datastore needs; the zero value: none.
type TLS struct {
	CA     string // bundle that signed the datastore's certificate
	Client pki.KeyPair
}

// TLS is what the apiserver connects with: nothing, the socket is root's.
func (*bridge) TLS() TLS { return TLS{} }

// External is a datastore outside of Kedge, as a component: an etcd that the
// apiserver talks to itself, or a database behind etcd's API, through kine.
type External struct {
	bridge

	endpoint string // a secret
	tls      TLS
	log      *slog.Logger
}

// NewExternal serves the datastore at an endpoint, a secret as it holds a
// password, on the socket.
func NewExternal(endpoint string, tls TLS, socket string, log *slog.Logger) *External {
	return &External{bridge: bridge{socket: socket}, endpoint: endpoint, tls: tls, log: log}
}

func (e *External) isEtcd() bool { return strings.HasPrefix(e.endpoint, "http") }

// Endpoint is the etcd endpoint that the apiserver is given.
func (e *External) Endpoint() string {
	if e.isEtcd() {
		return e.endpoint
	}
	return e.bridge.Endpoint()
}

// TLS is what the apiserver connects with.
func (e *External) TLS() TLS {
	if e.isEtcd() {
		return e.tls
	}
	return e.bridge.TLS()
}

const (
	// externalLimit is how long the datastore may take to be there: after a
	// power cut it may start at the same time.
	externalLimit = 90 * time.Second
	attemptLimit  = 5 * time.Second
	attemptPause  = time.Second
)

// Limits implements component.Limiter.
func (*External) Limits() (start, stop time.Duration) { return externalLimit + attemptLimit, 0 }

// Start waits until the datastore answers, and serves it.
func (e *External) Start(ctx context.Context) error {
	if err := e.wait(ctx); err != nil {
		return err
	}
	if e.isEtcd() {
		return nil
	}
	config := kineConfig()
	config.Endpoint = e.endpoint
	config.BackendTLSConfig = tls.Config{CAFile: e.tls.CA, CertFile: e.tls.Client.Cert, KeyFile: e.tls.Client.Key}
	config.ConnectionPoolConfig.MaxIdle = 10
	config.ConnectionPoolConfig.MaxOpen = 50 // databases allow some hundred in all
	err := e.serve(func(ctx context.Context, wg *sync.WaitGroup) (server.Backend, error) {
		_, backend, err := drivers.New(ctx, wg, config)
		return backend, err
	})
	if err != nil {
		return fmt.Errorf("use the datastore %s: %w", e.where(), err)
	}
	return nil
}

// Stop ends kine, if there is one.
func (e *External) Stop(ctx context.Context) error {
	if e.isEtcd() {
		return nil
	}
	return e.stop(ctx)
}

// wait returns when the datastore answers. What an answer refuses, time does
// not mend.
func (e *External) wait(ctx context.Context) error {
	end := time.Now().Add(externalLimit)
	for attempt := 1; ; attempt++ {
		tryCtx, cancel := context.WithTimeout(ctx, attemptLimit)
		err := e.ping(tryCtx)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case refuses(err):
			return fmt.Errorf("the datastore %s refuses Kedge: %w; correct --datastore-endpoint, or the database", e.where(), err)
		case time.Now().After(end):
			return fmt.Errorf("the datastore %s does not answer within %s: %w; start it, or correct --datastore-endpoint", e.where(), externalLimit, err)
		case attempt == 1:
			e.log.Warn("waiting for the datastore", "component", e.Name(), "datastore", e.where(), "err", err)
		}
		select {
		case <-time.After(attemptPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// where names the datastore without its credentials.
func (e *External) where() string {
	scheme, rest, _ := strings.Cut(e.endpoint, "://")
	if e.isEtcd() {
		return e.endpoint // it holds none
	}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		rest = rest[i+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + "://" + rest
}

// ping asks the datastore for as much as tells that it will do.
func (e *External) ping(ctx context.Context) error {
	scheme, rest, _ := strings.Cut(e.endpoint, "://")
	switch scheme {
	case "http", "https":
		return e.pingEtcd(ctx)
	case "mysql":
		return e.pingMySQL(ctx, rest)
	case "nats":
		return pingNATS(ctx, e.endpoint)
	default:
		return e.pingPostgres(ctx)
	}
}

func (e *External) pingEtcd(ctx context.Context) error {
	tlsConfig, err := e.clientTLS()
	if err != nil {
		return err
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(e.endpoint, ","), TLS: tlsConfig, Context: ctx, DialTimeout: attemptLimit})
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	_, err = client.Get(ctx, "/registry/health")
	return err
}

func (e *External) pingMySQL(ctx context.Context, dsn string) error {
	config, err := mysql.ParseDSN(dsn)
	if err != nil {
		return refusal{errors.New("its endpoint can't be read; the form is mysql://USER:PASSWORD@tcp(HOST:3306)/DATABASE")}
	}
	if config.TLS, err = e.clientTLS(); err != nil {
		return err
	}
	if config.TLS != nil && config.TLS.ServerName == "" {
		config.TLS.ServerName, _, _ = net.SplitHostPort(config.Addr)
	}
	config.DBName = "" // kine makes it
	config.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }()
	return db.PingContext(ctx)
}

// pingPostgres connects to the database that every server has: kine makes its
// own.
func (e *External) pingPostgres(ctx context.Context) error {
	config, err := pgx.ParseConfig(e.endpoint)
	if err != nil {
		return refusal{errors.New("its endpoint can't be read; the form is postgres://USER:PASSWORD@HOST:5432/DATABASE")}
	}
	if tlsConfig, err := e.clientTLS(); err != nil {
		return err
	} else if tlsConfig != nil {
		tlsConfig.ServerName = config.Host
		config.TLSConfig, config.Fallbacks = tlsConfig, nil
	}
	conn, err := pgx.ConnectConfig(ctx, config)
	var answer *pgconn.PgError
	if errors.As(err, &answer) && answer.Code == noSuchDatabase {
		return nil
	}
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// noSuchDatabase is PostgreSQL's code for a database that does not exist yet:
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const noSuchDatabase = "3D000"

func pingNATS(ctx context.Context, endpoint string) error {
	first, _, _ := strings.Cut(endpoint, ",")
	u, err := url.Parse(first)
	if err != nil {
		return refusal{errors.New("its endpoint can't be read; the form is nats://USER:PASSWORD@HOST:4222")}
	}
	if u.Host == "" { // a context file names it
		return nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "4222")))
	if err != nil {
		return err
	}
	return conn.Close()
}

// refusal is an error that time does not mend.
type refusal struct{ error }

// refuses says whether the datastore has answered, with a no.
func refuses(err error) bool {
	var own refusal
	var postgres *pgconn.PgError
	var my *mysql.MySQLError
	switch {
	case errors.As(err, &own):
		return true
	case errors.As(err, &postgres):
		// 57P03: it starts, 53300: too many connections.
		return postgres.Code != "57P03" && postgres.Code != "53300"
	case errors.As(err, &my):
		return my.Number != 1040 // too many connections
	}
	return false
}
