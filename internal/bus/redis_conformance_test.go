package bus_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/mjdevaccount/pulseflow/internal/bus"
	"github.com/mjdevaccount/pulseflow/internal/bus/bustest"
	"github.com/mjdevaccount/pulseflow/internal/redistest"
)

func TestRedisConformance(t *testing.T) {
	srv := redistest.Start(t)
	bustest.Run(t, func(t *testing.T) bustest.Harness {
		const drainTimeout = time.Second
		r, err := bus.NewRedis(bus.RedisConfig{URL: srv.URL(), DrainTimeout: drainTimeout})
		if err != nil {
			t.Fatal(err)
		}
		return bustest.Harness{
			Transport: r,
			Put: func(stream string, fields map[string]string) (string, error) {
				data, has := fields["data"]
				meta := map[string]string{}
				for name, value := range fields {
					if name != "data" {
						meta[name] = value
					}
				}
				if !has {
					return r.Put(context.Background(), stream, nil, meta)
				}
				return r.Put(context.Background(), stream, []byte(data), meta)
			},
			Pending: func(stream, group string) (int, error) {
				info, err := r.GroupInfo(context.Background(), stream, group)
				if errors.Is(err, bus.ErrNoGroup) {
					return 0, nil
				}
				return int(info.Pending + max(info.Lag, 0)), err
			},
			DrainTimeout: drainTimeout,
			SharesGroup:  true,
		}
	})
}
