package event

// Level is how much pressure a coordinator reports, the worse the greater.
type Level uint8

// The pressure levels of docs/contract.md §3. The zero Level is LevelOK.
const (
	LevelOK   Level = iota // no pressure
	LevelSoft              // slow down
	LevelHard              // stop
)

// String returns the level's name on the wire: ok, soft or hard. A number that is no level is "unknown".
func (l Level) String() string {
	switch l {
	case LevelOK:
		return "ok"
	case LevelSoft:
		return "soft"
	case LevelHard:
		return "hard"
	default:
		return "unknown"
	}
}

// ParseLevel returns the level with the given name, and false when there is none. Names are case-sensitive, as on the
// wire.
func ParseLevel(name string) (Level, bool) {
	switch name {
	case "ok":
		return LevelOK, true
	case "soft":
		return LevelSoft, true
	case "hard":
		return LevelHard, true
	default:
		return LevelOK, false
	}
}
