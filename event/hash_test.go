package event

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// The expected texts are what Python's json.dumps(json.loads(…), separators=(",", ":"), ensure_ascii=False) writes.
func TestAppendCompact(t *testing.T) {
	tests := []struct{ text, want string }{
		{`{ }`, `{}`},
		{"{\n\t\"b\" : [ 1 , 2.50 ],\r\n \"a\" : { } }", `{"b":[1,2.50],"a":{}}`},
		{`{"a": " : , "}`, `{"a":" : , "}`},
		{`["\u00fc\u20ac\ud83d\ude00", "ü"]`, "[\"ü€\U0001F600\",\"ü\"]"},
		{
			`["\/", "\"\\", "\b\f\n\r\t", "\u0008\u001F\u007f\u2028"]`,
			"[\"/\",\"\\\"\\\\\",\"\\b\\f\\n\\r\\t\",\"\\b\\u001f\x7f\u2028\"]",
		},
		{`{"\u0061": "\\u0061"}`, `{"a":"\\u0061"}`},
		{`[true, false, null, -0, 1E5]`, `[true,false,null,-0,1E5]`},
		{`"a\"b"`, `"a\"b"`},
	}
	for _, test := range tests {
		if got := string(appendCompact(nil, []byte(test.text))); got != test.want {
			t.Errorf("%s: got %s, want %s", test.text, got, test.want)
		}
		if got := string(referenceCompact([]byte(test.text))); got != test.want {
			t.Errorf("%s: the reference gives %s, want %s", test.text, got, test.want)
		}
	}
}

// hashOf returns the hash of a text that is compact already.
func hashOf(compact string) string {
	sum := sha256.Sum256([]byte(compact))
	return hex.EncodeToString(sum[:])
}

func TestCheckHash(t *testing.T) {
	const (
		inner  = `{"ts": 1, "meta": {"schema_id": "x", "hash": HASH}, "payload": { "a": "\u00fc" }}`
		outer  = `{"ts": 1, "meta": {"schema_id": "events.envelope.EventEnvelope", "hash": HASH}, "payload": PAYLOAD}`
		wrong  = `"0000000000000000000000000000000000000000000000000000000000000000"`
		absent = `null`
	)
	right := `"` + hashOf(`{"a":"ü"}`) + `"`
	envelope := func(hash string) string { return strings.Replace(inner, "HASH", hash, 1) }
	nested := func(outerHash, innerHash string) string {
		return strings.NewReplacer("HASH", outerHash, "PAYLOAD", envelope(innerHash)).Replace(outer)
	}
	compact := func(innerHash string) string {
		return `"` + hashOf(`{"ts":1,"meta":{"schema_id":"x","hash":`+innerHash+`},"payload":{"a":"ü"}}`) + `"`
	}
	tests := []struct{ name, data, want string }{
		{"right", envelope(right), ""},
		{"right in capitals", envelope(strings.ToUpper(right)), ""},
		{"right with an escape", envelope(`"\u00` + hex.EncodeToString([]byte(right[1:2])) + right[2:]), ""},
		{"absent", envelope(absent), ""},
		{"empty", envelope(`""`), ""},
		{"wrong", envelope(wrong), "/meta/hash: does not match the payload"},
		{"too short", envelope(right[:10] + `"`), "/meta/hash: does not match the payload"},
		{"not hexadecimal", envelope(`"x"`), "/meta/hash: does not match the payload"},
		{"both right", nested(compact(right), right), ""},
		{"outer right", nested(compact(absent), absent), ""},
		{"inner right", nested(absent, right), ""},
		{"outer wrong", nested(wrong, right), "/meta/hash: does not match the payload"},
		{"outer is of the event", nested(right, absent), "/meta/hash: does not match the payload"},
		{"inner wrong", nested(compact(wrong), wrong), "/payload/meta/hash: does not match the payload"},
		{"inner wrong alone", nested(absent, wrong), "/payload/meta/hash: does not match the payload"},
		{"bare", bareEntry, ""},
		{"no entry", "x", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := (Decoder{}).Decode(testID, []byte(test.data)).CheckHash()
			checkText(t, "hash", err, test.want)
			var bad *HashError
			if err != nil && (!errors.As(err, &bad) || bad.Kind() != KindHash) {
				t.Errorf("got %#v", err)
			}
		})
	}
}
