package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/bus/bustest"
)

func TestInMemoryConformance(t *testing.T) {
	bustest.RunVirtual(t, func(t *testing.T) bustest.Harness {
		const drainTimeout = 2 * time.Second
		m, err := bus.NewInMemory(bus.InMemoryConfig{DrainTimeout: drainTimeout})
		if err != nil {
			t.Fatal(err)
		}
		return bustest.Harness{
			Transport: m,
			Put: func(stream string, fields map[string]string) (string, error) {
				return put(m, stream, fields)
			},
			Pending: func(stream, group string) (int, error) {
				held, _ := m.Depth(stream, group)
				return held, nil
			},
			DrainTimeout: drainTimeout,
		}
	})
}

// put puts an entry that is given as its fields.
func put(m *bus.InMemory, stream string, fields map[string]string) (string, error) {
	var data []byte
	meta := map[string]string{}
	for name, value := range fields {
		if name == "data" {
			data = []byte(value)
			continue
		}
		meta[name] = value
	}
	return m.Put(context.Background(), stream, data, meta, false)
}
