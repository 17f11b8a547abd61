package app

import (
	"log/slog"

	"github.com/mjdevaccount/pulseflow/internal/watch"
	"github.com/mjdevaccount/pulseflow/router"
)

// fileWatch watches the file of a service, and those that its stages refer to.
type fileWatch struct {
	files *watch.Files
	path  string // of the flows file
}

func newFileWatch(path string, plan *router.Plan, log *slog.Logger) (*fileWatch, error) {
	files, err := watch.New(append([]string{path}, plan.Files()...), log)
	if err != nil {
		return nil, err
	}
	return &fileWatch{files: files, path: path}, nil
}

// follow makes the watched files those of a plan, also of one that cannot run: what is
// wrong may be mended in one of them.
func (w *fileWatch) follow(plan *router.Plan) {
	w.files.Follow(append([]string{w.path}, plan.Files()...))
}
