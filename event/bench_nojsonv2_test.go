//go:build !goexperiment.jsonv2

package event

var experimental []generalDecoder
