//go:build goexperiment.jsonv2

package event

import jsonv2 "encoding/json/v2"

// experimental is what BenchmarkReference measures besides with GOEXPERIMENT=jsonv2.
var experimental = []generalDecoder{
	{"encoding-json-v2", func(data []byte, to any) error { return jsonv2.Unmarshal(data, to) }},
}
