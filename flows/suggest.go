package flows

import (
	"fmt"
	"slices"
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
		if distance <= tolerance(fold(name), fold(candidate)) && (bestDistance < 0 || distance < bestDistance) {
			best, bestDistance = candidate, distance
		}
	}
	return best
}

// slip reports whether a key is so near to the name of a field that its value is read as the field's: at most one letter
// in three is another, or the letters have changed places.
func slip(key, name string) bool {
	a, b := fold(key), fold(name)
	return 3*levenshtein.ComputeDistance(a, b) <= min(len(a), len(b)) || anagram(a, b)
}

func anagram(a, b string) bool {
	letters := func(s string) []rune { r := []rune(s); slices.Sort(r); return r }
	return len(a) == len(b) && slices.Equal(letters(a), letters(b))
}

// tolerance is the number of edits that still count as a slip. Three or four letters may have one wrong, or two that have
// changed places; of two, like v1 and v2, each one matters.
func tolerance(a, b string) int {
	switch n := min(len(a), len(b)); {
	case n <= 2:
		return 0
	case n <= 4 && !anagram(a, b):
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

// DidYouMean returns ` (did you mean "x"?)`, to go into a message about a name that is none of names, or nothing when none
// of them is near.
func DidYouMean(name string, names []string) string { return hint(Nearest(name, names)) }

func hint(near string) string {
	if near == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", near)
}
