package datastore

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestWhereHidesCredentials(t *testing.T) {
	for endpoint, want := range map[string]string{
		"postgres://u:s3cret@h:5432/d?password=s3cret": "postgres://h:5432/d",
		"mysql://u:s3cr@et@tcp(h:3306)/d?tls=true":     "mysql://tcp(h:3306)/d",
		"nats://s3cret@h:4222?bucket=b":                "nats://h:4222",
		"https://a:2379,https://b:2379":                "https://a:2379,https://b:2379",
	} {
		if got := NewExternal(endpoint, TLS{}, "", nil).where(); got != want {
			t.Errorf("%s is shown as %s, want %s", endpoint, got, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, test := range []struct {
		err  error
		want bool
	}{
		{refusal{errors.New("x")}, true},
		{&pgconn.PgError{Code: "28P01"}, true},
		{&pgconn.PgError{Code: "57P03"}, false},
		{&mysql.MySQLError{Number: 1045}, true},
		{&mysql.MySQLError{Number: 1040}, false},
		{context.DeadlineExceeded, false},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, false},
	} {
		if got := refuses(test.err); got != test.want {
			t.Errorf("%v: refuses is %v", test.err, got)
		}
	}
}

// TestUnreadableEndpoint wants it refused at once, in a line without its password.
func TestUnreadableEndpoint(t *testing.T) {
	for _, endpoint := range []string{"postgres://u:s3cret@h:port/d", "mysql://u:s3cret@h:3306", "nats://u:s3cret@h:po rt"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		err := NewExternal(endpoint, TLS{}, "", slog.New(slog.DiscardHandler)).wait(ctx)
		cancel()
		if err == nil || !strings.Contains(err.Error(), "the form is") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", strings.ReplaceAll(endpoint, "s3cret", "…"), err)
		}
	}
}
