package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Time limits of the connections. With readGrace they bound how long a server may hang unnoticed.
const (
	dialTimeout = 2 * time.Second
	callTimeout = 3 * time.Second // one command, other than a blocking read
	readGrace   = 2 * time.Second // what a blocking read may take beyond its block
)

// RedisTLS has what a rediss:// connection needs beyond the system's certificates. All of it is optional.
type RedisTLS struct {
	CA         string // PEM file of the authorities that may have signed the server's certificate; empty = the system's
	Cert       string // PEM file of the client's certificate; empty = none
	Key        string // PEM file of the client's key
	ServerName string // name the server's certificate must have; empty = the host of the URL
}

// config adds t to a client's TLS configuration.
func (t RedisTLS) config(base *tls.Config) (*tls.Config, error) {
	if base == nil {
		if t != (RedisTLS{}) {
			return nil, errors.New("tls: needs a rediss:// URL")
		}
		return nil, nil
	}
	c := base.Clone()
	if t.ServerName != "" {
		c.ServerName = t.ServerName
	}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("tls: ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls: ca: %s has no certificate", t.CA)
		}
	}
	if t.Cert != "" || t.Key != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fmt.Errorf("tls: client certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// clients returns a function that makes clients of cfg's server. One for reads has a single connection, which a
// blocking read holds; closing that client ends the read. No client repeats a command by itself: go-redis would repeat
// an XADD whose answer is late, and so publish it twice.
func clients(cfg RedisConfig) (func(reads bool) redis.UniversalClient, error) {
	opts, err := redis.ParseURL(cfg.URL)
	if err != nil {
		// A url.Error has the whole URL in it, password included.
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return nil, fmt.Errorf("url: %w", err)
	}
	if opts.TLSConfig, err = cfg.TLS.config(opts.TLSConfig); err != nil {
		return nil, err
	}
	opts.Protocol = 2
	opts.DisableIdentity = true
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opts.ContextTimeoutEnabled = true
	opts.MaxRetries = -1
	opts.DialerRetries = 1
	opts.DialTimeout = dialTimeout
	opts.ReadTimeout = callTimeout
	opts.WriteTimeout = callTimeout
	redis.SetLogger(silence{})
	return func(reads bool) redis.UniversalClient {
		o := *opts
		if reads {
			o.PoolSize, o.PipelinePoolSize = 1, -1
			o.ReadTimeout = cfg.Block + readGrace
			o.ReadBufferSize = 256 << 10
		}
		return redis.NewClient(&o)
	}, nil
}

// silence is a go-redis logger that logs nothing.
type silence struct{}

func (silence) Printf(context.Context, string, ...any) {}
