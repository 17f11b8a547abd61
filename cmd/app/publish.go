package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/router"
)

func publishCommand(sys system) *cobra.Command {
	var (
		files fileFlags
		topic string
		to    string
	)
	cmd := &cobra.Command{
		Use:   "publish --stream TOPIC FILE",
		Short: "Put events on a stream",
		Long: `Publish puts events on a stream: each line of FILE, or of standard input for -,
is one event, or one entry as it stood on a stream. Each becomes a new entry, sent
as it is: neither its id nor its times are kept or moved, as run --feed does. The
ids given are printed.

With the redis backend it writes to Redis. Else, or with --to, it posts to the
ingest of a running service, with PUBLISHER_TOKEN when that is set.

Exit status: 0 all were taken, 1 one was not (the ones before it were), 2 the
command line, the file or a variable is wrong.`,
		Example: `  pulseflow publish --stream telemetry.feedback events.jsonl
  echo '{"coordinator_id":"bars_1","queue_size":9,"capacity":10,"level":"hard"}' |
    pulseflow publish --stream telemetry.feedback --to 127.0.0.1:8088 -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := files.load(sys)
			if err != nil {
				return err
			}
			list, err := openRecording(cmd.Context(), args[0], sys.stdin)
			if err != nil {
				return configError(err)
			}
			out, err := openOutlet(plan, to)
			if err != nil {
				return configError(err)
			}
			defer out.close()
			for _, e := range list {
				id, err := out.put(cmd.Context(), topic, e.data, e.fields)
				if err != nil {
					return fmt.Errorf("line %d: %w", e.line, err)
				}
				fmt.Fprintln(sys.stdout, id)
			}
			return nil
		},
	}
	files.register(cmd)
	cmd.Flags().StringVar(&topic, "stream", "", "topic to publish to (required)")
	cmd.Flags().StringVar(&to, "to", "", "running service to post to: host:port or URL; default is the file's admin "+
		"listener, or Redis with the redis backend")
	_ = cmd.MarkFlagRequired("stream")
	return cmd
}

// outlet is where a command puts events: Redis, or a running service.
type outlet struct {
	put   func(ctx context.Context, topic string, data []byte, fields map[string]string) (string, error)
	close func()
}

func openOutlet(plan *router.Plan, to string) (outlet, error) {
	f := plan.File
	if to == "" && f.Bus.Backend == "redis" {
		r, err := newRedis(f, nil, nil)
		if err != nil {
			return outlet{}, err
		}
		return outlet{
			put: func(ctx context.Context, topic string, data []byte, fields map[string]string) (string, error) {
				return r.Put(ctx, sourceKey(plan, topic), data, fields)
			},
			close: func() { _ = r.Close(context.Background()) },
		}, nil
	}
	service, err := serviceOf(plan, to)
	if err != nil {
		return outlet{}, err
	}
	return outlet{put: service.ingest, close: service.http.CloseIdleConnections}, nil
}

// serviceOf is the running service at to, or at the file's own admin listener.
func serviceOf(plan *router.Plan, to string) (*remote, error) {
	if to == "" {
		if !listening(plan.File) {
			return nil, errors.New("the file has no admin listener: name a running service with --to")
		}
		to = plan.File.Admin.Listen
	}
	return newRemote(to, plan.File.Admin.PublisherToken, plan.File.Admin.OperatorToken)
}

// sourceKey is the full key of a topic: that of the flow that reads it, or what the
// template makes of it.
func sourceKey(plan *router.Plan, topic string) string {
	for _, p := range plan.Flows {
		if p.Topic == topic {
			return p.StreamKey
		}
	}
	return plan.File.StreamKey(topic, "")
}
