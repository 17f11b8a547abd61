package adjust

import (
	"strings"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/rate"
)

// A record is kept as digits alone, so that the order of the texts is that of the
// records, whoever compares them: the time in UTC, the level, and whether it is
// gone. 2026-11-24 18:07:53.479 and hard is "20261124180753479000000" + "2" + "0".
const (
	registerTime = "20060102150405.000000000"
	registerSize = 25
)

// registerOf spells a record. Its time must lie in the years 0 to 9999.
func registerOf(r rate.Record) string {
	b := make([]byte, 0, registerSize+1)
	b = r.Time.UTC().AppendFormat(b, registerTime)
	b = append(b[:14], b[15:]...) // without the point
	b = append(b, '0'+byte(r.Level), '0')
	if r.Gone {
		b[registerSize-1] = '1'
	}
	return string(b)
}

// recordOf reads what registerOf spelled; false when it is nothing of the kind.
func recordOf(coordinator, register string) (rate.Record, bool) {
	if len(register) != registerSize || strings.Trim(register, "0123456789") != "" {
		return rate.Record{}, false
	}
	t, err := time.Parse(registerTime, register[:14]+"."+register[14:23])
	level, gone := rate.Level(register[23]-'0'), register[24]
	if err != nil || t.IsZero() || level > rate.Hard || gone > '1' {
		return rate.Record{}, false
	}
	return rate.Record{Coordinator: coordinator, Level: level, Time: t, Gone: gone == '1'}, true
}

// recordsOf reads registers and returns how many were nothing of the kind.
func recordsOf(registers map[string]string) (records []rate.Record, bad int) {
	records = make([]rate.Record, 0, len(registers))
	for name, text := range registers {
		if r, ok := recordOf(name, text); ok {
			records = append(records, r)
		} else {
			bad++
		}
	}
	return records, bad
}
