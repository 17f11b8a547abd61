package app

import (
	"log/slog"

	"github.com/mjdevaccount/pulseflow/flows"
	"github.com/mjdevaccount/pulseflow/internal/watch"
	"github.com/mjdevaccount/pulseflow/router"
)

// fileWatch watches the file of a service, and those that its stages refer to.
type fileWatch struct {
	files *watch.Files
	path  string // of the flows file
}

func newFileWatch(path string, plan *router.Plan, log *slog.Logger) (*fileWatch, error) {
	w := &fileWatch{path: path}
	files, err := watch.New(w.read(plan), flows.Digest, log)
	if err != nil {
		return nil, err
	}
	w.files = files
	return w, nil
}

// follow makes the watched files those of a plan, also of one that cannot run: what is
// wrong may be mended in one of them.
func (w *fileWatch) follow(plan *router.Plan) {
	w.files.Follow(w.read(plan))
}

// read lists what was read for a plan.
func (w *fileWatch) read(plan *router.Plan) []watch.File {
	list := []watch.File{{Path: w.path, Digest: plan.File.Digest()}}
	for _, f := range plan.Files() {
		list = append(list, watch.File{Path: f.Path, Digest: f.Digest})
	}
	return list
}
