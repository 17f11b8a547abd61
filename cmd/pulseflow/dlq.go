package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/router"
)

// deadLetterFlags choose dead letters.
type deadLetterFlags struct {
	fileFlags
	from    string
	flow    string
	filters []string
	limit   int
}

func deadLetterCommand(sys system) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "List, show and replay dead letters",
		Long: `Dead letters are events that could not be handled: their original bytes, the
reason, the stage, and how often it was tried.

With the redis backend the commands read the dead-letter streams in Redis. Else,
or with --from, they ask a running service, with PUBLISHER_TOKEN when that is set.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return configError(fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()))
			}
			return cmd.Help()
		},
	}
	cmd.AddCommand(deadLetterList(sys), deadLetterShow(sys), deadLetterReplay(sys))
	return cmd
}

func (f *deadLetterFlags) register(cmd *cobra.Command, limit int) {
	f.fileFlags.register(cmd)
	cmd.Flags().StringVar(&f.from, "from", "", "running service to ask: host:port or URL")
	cmd.Flags().StringVar(&f.flow, "flow", "", "dead letters of this flow only")
	cmd.Flags().StringArrayVar(&f.filters, "filter", nil,
		"only those with reason=TEXT (contained), or stage=, kind=, original_id= (equal); may be repeated")
	cmd.Flags().IntVar(&f.limit, "limit", limit, "look at the newest N of each flow, 1 to 1000")
}

func deadLetterList(sys system) *cobra.Command {
	var (
		flags  deadLetterFlags
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List dead letters, newest first",
		Example: "  pulseflow dlq list --filter kind=schema\n  pulseflow dlq list --from 127.0.0.1:8088 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, done, err := flags.find(cmd.Context(), sys)
			if err != nil {
				return err
			}
			defer done()
			if asJSON {
				for _, l := range found.letters {
					if err := json.NewEncoder(sys.stdout).Encode(l); err != nil {
						return err
					}
				}
				return nil
			}
			w := tabwriter.NewWriter(sys.stdout, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "FLOW\tID\tORIGINAL ID\tSTAGE\tKIND\tATTEMPTS\tREASON")
			for _, l := range found.letters {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", l.Flow, l.ID, l.OriginalID, l.Stage, l.ErrorKind,
					l.Attempts, oneLine(l.Reason))
			}
			return w.Flush()
		},
	}
	flags.register(cmd, 20)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a line, data included")
	return cmd
}

func deadLetterShow(sys system) *cobra.Command {
	var flags deadLetterFlags
	cmd := &cobra.Command{
		Use:     "show ID...",
		Short:   "Show dead letters whole, with their original bytes",
		Example: "  pulseflow dlq show 1795556874954-0",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, ids []string) error {
			found, done, err := flags.find(cmd.Context(), sys)
			if err != nil {
				return err
			}
			defer done()
			chosen, err := found.choose(ids)
			if err != nil {
				return err
			}
			for _, l := range chosen {
				out, err := json.MarshalIndent(l, "", "  ")
				if err != nil {
					return err
				}
				fmt.Fprintf(sys.stdout, "%s\n", out)
			}
			return nil
		},
	}
	flags.register(cmd, 1000)
	return cmd
}

func deadLetterReplay(sys system) *cobra.Command {
	var (
		flags             deadLetterFlags
		all, dryRun, keep bool
	)
	cmd := &cobra.Command{
		Use:   "replay [ID...]",
		Short: "Put dead letters back on the stream they came from",
		Long: `Replay puts the original bytes back on the source stream, oldest first, and then
removes the dead letter. The event keeps its original id, so that one which was
handled meanwhile is a duplicate, and carries how often it was replayed.

Choose dead letters by ID, with --filter, or with --all.

Exit status: 0 all chosen were put back, 1 one was not (those before it were), 2
the command line, the file or a variable is wrong.`,
		Example: `  pulseflow dlq replay --filter reason=timeout --dry-run
  pulseflow dlq replay 1795556874954-0 1795556874954-1
  pulseflow dlq replay --all --flow feedback`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if len(ids) == 0 && len(flags.filters) == 0 && !all {
				return configError(errors.New("which dead letters? give their IDs, --filter, or --all"))
			}
			found, done, err := flags.find(cmd.Context(), sys)
			if err != nil {
				return err
			}
			defer done()
			chosen := found.letters
			if len(ids) > 0 {
				if chosen, err = found.choose(ids); err != nil {
					return err
				}
			}
			slices.Reverse(chosen)
			for _, l := range chosen {
				if dryRun {
					fmt.Fprintf(sys.stdout, "would replay %s (%s: %s)\n", l.ID, l.Stage, oneLine(l.Reason))
					continue
				}
				id, err := found.replay(cmd.Context(), l, keep)
				if err != nil {
					return fmt.Errorf("replay %s: %w", l.ID, err)
				}
				fmt.Fprintf(sys.stdout, "replayed %s as %s\n", l.ID, id)
			}
			return nil
		},
	}
	flags.register(cmd, 1000)
	cmd.Flags().BoolVar(&all, "all", false, "replay every dead letter looked at")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be replayed, and replay nothing")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the dead letters that were replayed")
	return cmd
}

// oneLine keeps a reason on its row.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// foundLetter is a dead letter with its flow.
type foundLetter struct {
	Flow string `json:"flow"`
	admin.DeadLetter
}

// foundLetters are what was asked for, and the means to act on it.
type foundLetters struct {
	plan    *router.Plan
	store   letterStore
	letters []foundLetter
}

// letterStore is where dead letters are kept: Redis, or a running service.
type letterStore interface {
	list(ctx context.Context, flow string, n int) ([]admin.FlowDeadLetters, error)
	put(ctx context.Context, topic string, data []byte, fields map[string]string) (string, error)
	remove(ctx context.Context, flow router.FlowPlan, id string) error
}

// find reads the dead letters the flags choose, newest first within a flow.
func (f *deadLetterFlags) find(ctx context.Context, sys system) (_ *foundLetters, done func(), err error) {
	if f.limit < 1 || f.limit > 1000 {
		return nil, nil, configError(errors.New("--limit must be from 1 to 1000"))
	}
	keep, err := parseFilters(f.filters)
	if err != nil {
		return nil, nil, configError(err)
	}
	plan, err := f.load(sys)
	if err != nil {
		return nil, nil, err
	}
	if f.flow != "" && !slices.ContainsFunc(plan.Flows, func(p router.FlowPlan) bool { return p.Name == f.flow }) {
		return nil, nil, configError(fmt.Errorf("the file has no flow %q", f.flow))
	}
	store, done, err := openLetters(plan, f.from)
	if err != nil {
		return nil, nil, configError(err)
	}
	found := &foundLetters{plan: plan, store: store}
	lists, err := store.list(ctx, f.flow, f.limit)
	if err != nil {
		done()
		return nil, nil, err
	}
	for _, list := range lists {
		if list.Error != "" {
			done()
			return nil, nil, fmt.Errorf("flow %q: %s", list.Flow, list.Error)
		}
		for _, l := range list.DeadLetters {
			if keep(l) {
				found.letters = append(found.letters, foundLetter{list.Flow, l})
			}
		}
	}
	return found, done, nil
}

// choose picks letters by id, in the order found.
func (f *foundLetters) choose(ids []string) ([]foundLetter, error) {
	var chosen []foundLetter
	for _, l := range f.letters {
		if slices.Contains(ids, l.ID) {
			chosen = append(chosen, l)
		}
	}
	for _, id := range ids {
		if !slices.ContainsFunc(chosen, func(l foundLetter) bool { return l.ID == id }) {
			return nil, fmt.Errorf("no dead letter %s among the newest; raise --limit, or see pulseflow dlq list", id)
		}
	}
	return chosen, nil
}

func (f *foundLetters) replay(ctx context.Context, l foundLetter, keep bool) (string, error) {
	i := slices.IndexFunc(f.plan.Flows, func(p router.FlowPlan) bool { return p.Name == l.Flow })
	if i < 0 {
		return "", fmt.Errorf("the file has no flow %q", l.Flow)
	}
	flow := f.plan.Flows[i]
	fields := replayFields(l.OriginalID, strconv.Itoa(l.Replays+1))
	for k, v := range l.Fields {
		fields[k] = v
	}
	data := l.DataBase64
	if data == nil && l.Fields == nil {
		data = []byte(l.Data)
	}
	id, err := f.store.put(ctx, flow.Topic, data, fields)
	if err != nil || keep {
		return id, err
	}
	if err := f.store.remove(ctx, flow, l.ID); err != nil {
		return id, fmt.Errorf("put back as %s, but not removed: %w", id, err)
	}
	return id, nil
}

// parseFilters makes one predicate of the filters: all must hold.
func parseFilters(filters []string) (func(admin.DeadLetter) bool, error) {
	var all []func(admin.DeadLetter) bool
	for _, filter := range filters {
		key, want, ok := strings.Cut(filter, "=")
		var holds func(admin.DeadLetter) bool
		switch key {
		case "reason":
			holds = func(l admin.DeadLetter) bool { return strings.Contains(l.Reason, want) }
		case "stage":
			holds = func(l admin.DeadLetter) bool { return l.Stage == want }
		case "kind":
			holds = func(l admin.DeadLetter) bool { return l.ErrorKind == want }
		case "original_id":
			holds = func(l admin.DeadLetter) bool { return l.OriginalID == want }
		default:
			ok = false
		}
		if !ok {
			return nil, fmt.Errorf("--filter %s: must be reason=, stage=, kind= or original_id= and a value", filter)
		}
		all = append(all, holds)
	}
	return func(l admin.DeadLetter) bool {
		for _, holds := range all {
			if !holds(l) {
				return false
			}
		}
		return true
	}, nil
}

func openLetters(plan *router.Plan, from string) (letterStore, func(), error) {
	if from == "" && plan.File.Bus.Backend == "redis" {
		r, err := newRedis(plan.File, nil, nil)
		if err != nil {
			return nil, nil, err
		}
		return redisLetters{plan, r}, func() { _ = r.Close(context.Background()) }, nil
	}
	service, err := serviceOf(plan, from)
	if err != nil {
		return nil, nil, err
	}
	return remoteLetters{service}, service.http.CloseIdleConnections, nil
}

// redisLetters are the dead-letter streams in Redis.
type redisLetters struct {
	plan  *router.Plan
	redis *bus.Redis
}

func (r redisLetters) list(ctx context.Context, flow string, n int) ([]admin.FlowDeadLetters, error) {
	return deadLettersOf(ctx, r.plan, redisBackend{r.redis}, flow, n)
}

func (r redisLetters) put(ctx context.Context, topic string, data []byte, fields map[string]string) (string, error) {
	return r.redis.Put(ctx, sourceKey(r.plan, topic), data, fields)
}

func (r redisLetters) remove(ctx context.Context, flow router.FlowPlan, id string) error {
	return r.redis.Delete(ctx, flow.DeadLetterKey, id)
}

// remoteLetters are those of a running service.
type remoteLetters struct{ service *remote }

func (r remoteLetters) list(ctx context.Context, flow string, n int) ([]admin.FlowDeadLetters, error) {
	var reply struct {
		Flows []admin.FlowDeadLetters `json:"flows"`
	}
	query := url.Values{"flow": {flow}, "limit": {strconv.Itoa(n)}}
	err := r.service.get(ctx, "/dlq?"+query.Encode(), &reply)
	return reply.Flows, err
}

func (r remoteLetters) put(ctx context.Context, topic string, data []byte, fields map[string]string) (string, error) {
	if data == nil {
		return "", errors.New("the entry has no data field: only the redis backend can put it back")
	}
	return r.service.ingest(ctx, topic, data, fields)
}

func (r remoteLetters) remove(ctx context.Context, flow router.FlowPlan, id string) error {
	return r.service.remove(ctx, "/dlq/"+url.PathEscape(flow.Name)+"/"+url.PathEscape(id))
}
