package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/admin"
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

Of flows whose bus is on Redis the commands read the dead-letter streams in Redis.
For the others, or with --from, they ask a running service, with the token that the
file has as admin.operator_token, or else as admin.publisher_token; the built-in
flow takes OPERATOR_TOKEN and PUBLISHER_TOKEN for them. Where one of several buses
cannot be asked, that is told, the others are shown, and the exit status is 1.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return configError(unknownCommand(cmd, args[0]))
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
			found, done, err := flags.find(cmd.Context(), sys, asJSON)
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
				return found.complete()
			}
			w := tabwriter.NewWriter(sys.stdout, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "FLOW\tID\tORIGINAL ID\tSTAGE\tKIND\tATTEMPTS\tREASON")
			for _, l := range found.letters {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", l.Flow, l.ID, cell(l.OriginalID), cell(l.Stage),
					cell(l.ErrorKind), l.Attempts, cell(l.Reason))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			return found.complete()
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
			found, done, err := flags.find(cmd.Context(), sys, true)
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
			return found.complete()
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

Choose dead letters by ID, with --filter, or with --all. Every group that reads the
stream sees the event again; dedupe stops it where it was handled.

Exit status: 0 all chosen were put back, 1 some were not (they are named), 2 the
command line, the file or a variable is wrong.`,
		Example: `  pulseflow dlq replay --filter reason=timeout --dry-run
  pulseflow dlq replay 1795556874954-0 1795556874954-1
  pulseflow dlq replay --all --flow feedback`,
		RunE: func(cmd *cobra.Command, ids []string) error {
			if len(ids) == 0 && len(flags.filters) == 0 && !all {
				return configError(errors.New("which dead letters? give their IDs, --filter, or --all"))
			}
			found, done, err := flags.find(cmd.Context(), sys, false)
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
			failed := 0
			for _, l := range chosen {
				if dryRun {
					fmt.Fprintf(sys.stdout, "would replay %s (%s: %s)\n", l.ID, l.Stage, cell(l.Reason))
					continue
				}
				id, err := found.store.replay(cmd.Context(), l.Flow, l.ID, keep)
				if err != nil {
					failed++
					fmt.Fprintf(sys.stderr, "not replayed: %s: %v\n", l.ID, err)
					continue
				}
				fmt.Fprintf(sys.stdout, "replayed %s as %s\n", l.ID, id)
			}
			if found.full && len(ids) == 0 {
				fmt.Fprintf(sys.stderr, "only the newest %d of each flow were looked at; run it again for more\n", flags.limit)
			}
			if failed > 0 {
				return fmt.Errorf("%d of %d dead letters were not replayed", failed, len(chosen))
			}
			if len(ids) > 0 {
				return nil // all were found
			}
			return found.complete()
		},
	}
	flags.register(cmd, 1000)
	cmd.Flags().BoolVar(&all, "all", false, "replay every dead letter looked at")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be replayed, and replay nothing")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the dead letters that were replayed")
	return cmd
}

// cell makes text from an event fit for a row of a table: one line, nothing that a
// terminal would act on, and not too long.
func cell(s string) string {
	const longest = 120
	s = strings.Join(strings.Fields(s), " ")
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
	if runes := []rune(s); len(runes) > longest {
		s = string(runes[:longest-1]) + "…"
	}
	return s
}

// foundLetter is a dead letter with its flow.
type foundLetter struct {
	Flow string `json:"flow"`
	admin.DeadLetter
}

// foundLetters are what was asked for, and the means to act on it.
type foundLetters struct {
	store   letterStore
	letters []foundLetter
	full    bool // a flow has as many as were asked for, so there may be more
	unread  int  // flows whose dead letters could not be read, which has been told
}

// complete is an error when not all could be read.
func (f *foundLetters) complete() error {
	if f.unread > 0 {
		return fmt.Errorf("the dead letters of %d flows could not be read", f.unread)
	}
	return nil
}

// letterStore is where dead letters are kept: Redis, a running service, or both.
type letterStore interface {
	// list reads the newest n of each flow, or of one; with data also what they hold.
	list(ctx context.Context, flow string, n int, data bool) ([]admin.FlowDeadLetters, error)
	// replay puts one back and returns its new id.
	replay(ctx context.Context, flow, id string, keep bool) (string, error)
}

// find reads the dead letters the flags choose, newest first within a flow.
func (f *deadLetterFlags) find(
	ctx context.Context, sys system, data bool,
) (_ *foundLetters, done func(), err error) {
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
	names := make([]string, len(plan.Flows))
	for i, p := range plan.Flows {
		names[i] = p.Name
	}
	if f.flow != "" && !slices.Contains(names, f.flow) {
		return nil, nil, configError(fmt.Errorf("%s: no flow %q%s; flows: %s", plan.File.Path, f.flow,
			flows.DidYouMean(f.flow, names), strings.Join(names, ", ")))
	}
	store, done, err := openLetters(plan, f.flow, f.from)
	if err != nil {
		return nil, nil, configError(err)
	}
	found := &foundLetters{store: store}
	lists, err := store.list(ctx, f.flow, f.limit, data)
	if err != nil {
		done()
		return nil, nil, err
	}
	var faults []error
	for _, list := range lists {
		if list.Error != "" {
			err := fmt.Errorf("flow %q: %s", list.Flow, list.Error)
			if found.unread++; found.unread == len(lists) {
				done()
				return nil, nil, err
			}
			faults = append(faults, err)
			continue
		}
		found.full = found.full || len(list.DeadLetters) == f.limit
		for _, l := range list.DeadLetters {
			if keep(l) {
				found.letters = append(found.letters, foundLetter{list.Flow, l})
			}
		}
	}
	for _, err := range faults {
		fmt.Fprintf(sys.stderr, "not read: %v\n", err)
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

// openLetters opens what keeps the dead letters of the plan's flows, or of one.
func openLetters(plan *router.Plan, flow, from string) (letterStore, func(), error) {
	var (
		redis  = make(map[string]letterBus)
		closes []func()
		others = from != ""
	)
	done := func() {
		for _, c := range closes {
			c()
		}
	}
	for _, p := range plan.Flows {
		b := plan.File.BusNamed(p.Bus)
		switch {
		case flow != "" && flow != p.Name || from != "":
		case b.Backend != backendRedis:
			others = true
		case redis[b.Name] == nil:
			r, err := newRedis(plan.File, b, nil, nil)
			if err != nil {
				done()
				return nil, nil, err
			}
			redis[b.Name] = redisBackend{Redis: r}
			closes = append(closes, func() { _ = r.Close(context.Background()) })
		}
	}
	var service remoteLetters
	if others {
		s, err := serviceOf(plan, from)
		if err != nil {
			done()
			return nil, nil, err
		}
		service = remoteLetters{s}
		closes = append(closes, s.http.CloseIdleConnections)
	}
	if len(redis) == 0 {
		return service, done, nil
	}
	return fileLetters{letters{plan, func(name string) letterBus { return redis[name] }}, redis, service}, done, nil
}

// fileLetters are the dead-letter streams of a file: those of its buses on Redis, and
// for the others those of a running service.
type fileLetters struct {
	letters
	redis   map[string]letterBus
	service remoteLetters
}

// list asks for one flow after the other: what cannot be read of one is told there.
func (f fileLetters) list(ctx context.Context, flow string, n int, data bool) ([]admin.FlowDeadLetters, error) {
	var all []admin.FlowDeadLetters
	for _, p := range f.plan.Flows {
		if flow != "" && flow != p.Name {
			continue
		}
		var (
			list []admin.FlowDeadLetters
			err  error
		)
		if f.redis[p.Bus] != nil {
			list, err = f.letters.list(ctx, p.Name, n)
		} else {
			list, err = f.service.list(ctx, p.Name, n, data)
		}
		if err != nil {
			list = []admin.FlowDeadLetters{{Flow: p.Name, Error: err.Error()}}
		}
		all = append(all, list...)
	}
	return all, nil
}

func (f fileLetters) replay(ctx context.Context, flow, id string, keep bool) (string, error) {
	if p, err := f.flow(flow); err != nil || f.redis[p.Bus] != nil {
		return f.letters.replay(ctx, flow, id, keep)
	}
	return f.service.replay(ctx, flow, id, keep)
}

// remoteLetters are those of a running service.
type remoteLetters struct{ service *remote }

func (r remoteLetters) list(ctx context.Context, flow string, n int, data bool) ([]admin.FlowDeadLetters, error) {
	var reply struct {
		Flows []admin.FlowDeadLetters `json:"flows"`
	}
	query := url.Values{"flow": {flow}, "limit": {strconv.Itoa(n)}, "data": {strconv.FormatBool(data)}}
	err := r.service.operate(ctx, http.MethodGet, "/dlq?"+query.Encode(), &reply)
	return reply.Flows, err
}

func (r remoteLetters) replay(ctx context.Context, flow, id string, keep bool) (string, error) {
	var reply struct {
		ID string `json:"id"`
	}
	path := fmt.Sprintf("/dlq/%s/%s/replay?keep=%t", url.PathEscape(flow), url.PathEscape(id), keep)
	err := r.service.operate(ctx, http.MethodPost, path, &reply)
	return reply.ID, err
}
