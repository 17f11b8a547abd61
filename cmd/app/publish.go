package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/router"
)

func publishCommand(sys system) *cobra.Command {
	var (
		files fileFlags
		topic string
		to    string
		name  string
	)
	cmd := &cobra.Command{
		Use:   "publish --stream TOPIC FILE",
		Short: "Put events on a stream",
		Long: `Publish puts events on a stream: each line of FILE, or of standard input for -,
is one event, or one entry as it stood on a stream. Each becomes a new entry, sent
as it is: neither its id nor its times are kept or moved, as run --feed does. The
ids given are printed.

A topic is on the bus of the flow that reads it; one that no flow reads is on the
bus of bus, or of --bus. When that bus is on Redis it writes to Redis. Else, or
with --to, it posts to the ingest of a running service, with the token that the file
has as admin.publisher_token; the built-in flow takes PUBLISHER_TOKEN for it.

An event of another kind than telemetry.FeedbackEvent needs an envelope:
  {"ts": 1795556873.5, "meta": {"schema_id": "shop.Order"}, "payload": {...}}
Its key, by which order is kept, is "key" beside "ts".

Exit status: 0 all were taken, 1 one was not (the ones before it were), 2 the
command line, the file or a variable is wrong.`,
		Example: `  pulseflow publish --stream telemetry.feedback events.jsonl
  echo '{"coordinator_id":"bars_1","queue_size":9,"capacity":10,"level":"hard"}' |
    pulseflow publish --stream telemetry.feedback --to 127.0.0.1:8088 -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if topic == "" && cmd.Flags().Changed("stream") {
				return configError(errors.New("--stream: the name is empty: name a topic"))
			}
			plan, err := files.load(sys)
			if err != nil {
				return err
			}
			if topic == "" {
				return configError(fmt.Errorf("which stream? the flows read %s: name one with --stream",
					strings.Join(activeTopics(plan), ", ")))
			}
			list, err := openRecording(args[0], sys.stdin)
			if err != nil {
				return configError(err)
			}
			out, err := openOutlet(plan, topic, name, to)
			if err != nil {
				return configError(err)
			}
			defer out.close()
			for _, e := range list {
				id, err := out.put(cmd.Context(), e.Data, e.Fields)
				if err != nil {
					return fmt.Errorf("line %d: %w", e.Line, err)
				}
				fmt.Fprintln(sys.stdout, id)
			}
			return nil
		},
	}
	files.register(cmd)
	cmd.Flags().StringVar(&topic, "stream", "", "topic to publish to (required)")
	cmd.Flags().StringVar(&to, "to", "", "running service to post to: host:port or URL; default is the file's admin "+
		"listener, or Redis when the topic's bus is on it")
	cmd.Flags().StringVar(&name, "bus", "", "bus of a topic that no flow reads: default, or a name of buses")
	return cmd
}

// outlet is where a command puts events: Redis, or a running service.
type outlet struct {
	put   func(ctx context.Context, data []byte, fields map[string]string) (string, error)
	close func()
}

// openOutlet opens the way to a topic, which is on the named bus when a name is given.
func openOutlet(plan *router.Plan, topic, name, to string) (outlet, error) {
	b, key, err := topicOn(plan, topic, name)
	if err != nil {
		return outlet{}, err
	}
	if to == "" && b.Backend == backendRedis {
		r, err := newRedis(plan.File, b, nil, nil)
		if err != nil {
			return outlet{}, err
		}
		return outlet{
			put: func(ctx context.Context, data []byte, fields map[string]string) (string, error) {
				return r.Put(ctx, key, data, fields)
			},
			close: func() { _ = r.Close(context.Background()) },
		}, nil
	}
	service, err := serviceOf(plan, to)
	if err != nil {
		return outlet{}, err
	}
	return outlet{
		put: func(ctx context.Context, data []byte, fields map[string]string) (string, error) {
			return service.ingest(ctx, topic, data, fields)
		},
		close: service.http.CloseIdleConnections,
	}, nil
}

// topicOn finds the bus and the full key of a topic; see source. A name must be that of
// the bus of the flow that reads the topic.
func topicOn(plan *router.Plan, topic, name string) (*flows.Bus, string, error) {
	b, key := source(plan, topic)
	if name == "" || name == b.Name {
		return b, key, nil
	}
	for _, p := range plan.Flows {
		if p.Topic == topic {
			return nil, "", fmt.Errorf("--bus %s: flow %q reads stream %q from bus %q", name, p.Name, topic, p.Bus)
		}
	}
	if b = plan.File.BusNamed(name); b == nil {
		return nil, "", fmt.Errorf("--bus %s: the file has no such bus", name)
	}
	return b, b.StreamKey(topic, ""), nil
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
