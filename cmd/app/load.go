package app

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/admin"
	"github.com/mjdevaccount/pulseflow/router"
	"github.com/mjdevaccount/pulseflow/stages"
)

// defaultFile is read when it is there and --config does not name another.
const defaultFile = "flows.yaml"

// fileFlags choose the file, and what wins over it.
type fileFlags struct {
	config  string
	backend string
	listen  string
	// fed is set when the command itself puts events on the streams.
	fed bool
}

// configFlag gives a command the flag that names the flows file.
func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().VarP(fileName{path}, "config", "c",
		"flows file; default "+defaultFile+" in this directory, else the built-in flow")
}

func (f *fileFlags) register(cmd *cobra.Command) {
	configFlag(cmd, &f.config)
	cmd.Flags().StringVar(&f.backend, "backend", "", "bus to use whatever the file says: inmem, for every bus of "+
		"the file, or redis, for the one of bus")
	_ = cmd.RegisterFlagCompletionFunc("backend", cobra.FixedCompletions([]string{"inmem", "redis"},
		cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

func (f *fileFlags) registerListen(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.listen, "listen", "",
		"address of the admin listener whatever the file says: host:port, or off")
}

// load reads and plans the file, printing every diagnostic to standard error. An
// error means exit status 2.
func (f *fileFlags) load(sys system) (*router.Plan, error) {
	src := make(sources)
	plan, d := f.plan(sys, src)
	look := sys.style()
	for _, diagnostic := range d {
		look.print(sys.stderr, diagnostic, src)
	}
	if d.HasErrors() {
		return nil, configError(errReported)
	}
	return plan, nil
}

// plan reads and plans the file. The plan is usable only when the diagnostics have no
// errors; warnings that the file allows are not among them.
func (f *fileFlags) plan(sys system, src sources) (*router.Plan, flows.Diagnostics) {
	file, d := f.read(sys)
	src.keep(file)
	plan := f.examine(file, sys.stages, &d)
	warnAllowed(file.Path, src, &d)
	d.Sort()
	return plan, silence(d, src)
}

// planAgain is plan for a file that has been read before, which is not possible of every
// file, and must not wait for what may never come.
func (f *fileFlags) planAgain(sys system) (*router.Plan, flows.Diagnostics) {
	path := cmp.Or(f.config, defaultFile)
	if readOnce(path) {
		return &router.Plan{File: &flows.File{Path: path}}, flows.Diagnostics{{
			Pos: flows.Position{File: path}, Message: "is not a regular file, and cannot be read again: restart the process instead",
		}}
	}
	return f.plan(sys, make(sources))
}

// readOnce reports whether path is something like a named pipe, whose content is gone
// once it was read. What is not there is left to its reader.
func readOnce(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.Mode().IsRegular() && !info.IsDir()
}

// examine plans the file and adds what is wrong with it beyond what its reader says.
func (f *fileFlags) examine(file *flows.File, reg *stages.Registry, d *flows.Diagnostics) *router.Plan {
	// Also when the file has errors: what is wrong with its stages is to be told in the
	// same run.
	f.override(file, d)
	plan, more := router.NewPlan(file, reg)
	*d = append(*d, more...)
	warnRetry(file, d)
	warnRates(plan, d)
	if f.listen == "" && !d.HasErrors() {
		warnAlone(plan, f.fed, d)
	}
	d.Sort()
	return plan
}

func (f *fileFlags) read(sys system) (*flows.File, flows.Diagnostics) {
	if f.config != "" {
		return flows.Load(f.config, sys.lookupEnv)
	}
	if _, err := os.Stat(defaultFile); errors.Is(err, fs.ErrNotExist) {
		return flows.BuiltIn(sys.lookupEnv)
	}
	// From now on: a file that is gone when it is to be read again is a fault. The built-in
	// flow in its place would end all that runs.
	f.config = defaultFile
	return flows.Load(f.config, sys.lookupEnv)
}

// override applies the flags, which win over the file, and then checks what
// depends on them.
func (f *fileFlags) override(file *flows.File, d *flows.Diagnostics) {
	switch f.backend {
	case "":
	case backendMemory:
		// Every bus by itself, so that nothing leaves the process.
		file.Bus.Backend = backendMemory
		for i := range file.Buses {
			file.Buses[i].Backend = backendMemory
		}
	case backendRedis:
		file.Bus.Backend = backendRedis
	default:
		d.Errorf(flows.Position{File: "--backend"}, "%q: must be inmem or redis", f.backend)
	}
	pos := file.Admin.Pos
	if f.listen != "" {
		file.Admin.Listen = f.listen
		pos = flows.Position{File: "--listen"}
	}
	checkRedis(file, &file.Bus, d)
	for i := range file.Buses {
		checkRedis(file, &file.Buses[i], d)
	}
	if listening(file) {
		if err := adminConfig(file).Validate(); err != nil {
			d.Beyondf(pos, flows.LimitNeighbour, "admin: %v", err)
		}
	}
}

// checkRedis finds what only the client can tell of a bus's URL and certificates. It
// opens no connection.
func checkRedis(file *flows.File, b *flows.Bus, d *flows.Diagnostics) {
	if b.Backend != backendRedis {
		return
	}
	r, err := newRedis(file, b, nil, nil)
	if err == nil {
		_ = r.Close(context.Background())
		return
	}
	d.Beyondf(b.Redis.Pos, flows.LimitOutside, "%s: %v", busKey(b.Name), err)
}

// listening reports whether the file asks for an admin listener.
func listening(file *flows.File) bool { return file.Admin.Listen != "" && file.Admin.Listen != "off" }

func adminConfig(file *flows.File) admin.Config {
	largest := file.Bus.MaxEventSize // of any bus; each has its own limit beside
	for _, b := range file.UsedBuses() {
		largest = max(largest, b.MaxEventSize)
	}
	return admin.Config{
		Listen: file.Admin.Listen, Token: file.Admin.PublisherToken,
		OperatorToken:     file.Admin.OperatorToken,
		AllowPublicIngest: file.Admin.AllowPublicIngest,
		MaxBody:           largest, ReadTimeout: file.Admin.ReadTimeout,
	}
}
