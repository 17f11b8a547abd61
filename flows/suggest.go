package flows

import (
	"fmt"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Nearest returns the one of names that the given name was probably meant to be, or "" when none is near. Letter case
// and the difference between "-" and "_" do not count.
func Nearest(name string, names []string) string {
	const longest = 64 // the distance takes time in the product of the lengths, and no real name is longer
	if len(name) > longest {
		return ""
	}
	best, bestDistance := "", -1
	for _, candidate := range names {
		distance := levenshtein.ComputeDistance(fold(name), fold(candidate))
		if distance <= tolerance(name, candidate) && (bestDistance < 0 || distance < bestDistance) {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

// tolerance is the number of edits that still count as a slip. Three letters may have one wrong; of two, like v1 and
// v2, each one matters.
func tolerance(a, b string) int {
	switch n := min(len(a), len(b)); {
	case n <= 2:
		return 0
	case n <= 3:
		return 1
	case n <= 8:
		return 2
	default:
		return 3
	}
}

func fold(s string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s))
}

// didYouMean returns ` (did you mean "x"?)`, or nothing when no name is near.
func didYouMean(name string, names []string) string {
	if near := Nearest(name, names); near != "" {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return ""
}
